"""The fixed evaluation split: held-out clips in the repository, with the true video of their speech.

A folder (`data/evaluation`) holds `split.json` and four files a clip: `NN.photo.webp` (lossless), `NN.speech.ogg`
(Opus), `NN.film.mkv` (the true pictures, H.265 in 4:4:4 and 10 bits), `NN.labels.npz`. Landmarks are stored in 64ths of
a pixel. The video is lossy: `film_psnr` of a clip says how far it is from the render, so a perfect copy would measure
that much and no more.

`python -m liveavatar.training.corpus.evaluation_pack` writes it from the corpus code.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from liveavatar.errors import InputError
from liveavatar.media.ffmpeg import read_frames
from liveavatar.paths import EVALUATION_SPLIT
from liveavatar.timing import FPS, SAMPLE_RATE

FOLDER = EVALUATION_SPLIT
INDEX = "split.json"
SUBPIXELS = 64  # stored units of a landmark coordinate a pixel
CODEC = "libx265"
CODING = {"crf": "15", "preset": "slow", "x265-params": "log-level=none:pools=1:frame-threads=1"}
PIXELS = "yuv444p10le"
OPUS_LEVEL = 0.9  # libsndfile's scale; about 30 kbit/s


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """Entry of one clip in `split.json`."""

    name: str
    seed: int
    orientation: str  # "portrait" or "landscape"
    track: str  # id of the speech track
    voice: str
    block: int  # of the track, at which the clip starts
    num_frames: int
    caption: str
    film_psnr: float  # dB, coded video against the render


@dataclass(frozen=True, slots=True)
class Labels:
    """True face of a clip; T frames, without the photo."""

    landmarks: np.ndarray  # float32 [T, 68, 2] pixels, Multi-PIE order
    photo_landmarks: np.ndarray  # float32 [68, 2]
    head: np.ndarray  # float32 [T, 3] yaw, pitch, roll, radians
    expression: np.ndarray  # float32 [T, K]
    eyes: np.ndarray  # float32 [T, 3] eye track, see `liveavatar.pose.blinks`
    photo_head: np.ndarray  # float32 [3]

    @property
    def mouth(self) -> np.ndarray:
        """Centre of the mouth in the photo [2], pixels."""
        return self.photo_landmarks[48:68].mean(0)


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip of the split on disk; files are read on each call."""

    folder: Path
    info: ClipInfo

    def path(self, part: str) -> Path:
        """Return the file of a part: "photo.webp", "speech.ogg", "film.mkv" or "labels.npz"."""
        return self.folder / f"{self.info.name}.{part}"

    def photo(self) -> np.ndarray:
        """Read the reference photo, uint8 [H, W, 3]."""
        return np.asarray(Image.open(self.path("photo.webp")).convert("RGB"))

    def speech(self) -> np.ndarray:
        """Read the speech, float32 mono at 16 kHz, exactly as long as the video."""
        import soundfile

        sound = soundfile.read(self.path("speech.ogg"), dtype="float32")[0]
        wanted = self.info.num_frames * SAMPLE_RATE // FPS
        return np.pad(sound[:wanted], (0, max(0, wanted - len(sound))))

    def frames(self) -> np.ndarray:
        """Read the true video, uint8 [T, H, W, 3]."""
        return np.stack([frame.rgb for frame in read_frames(self.path("film.mkv"))])

    def labels(self) -> Labels:
        """Read landmarks, head, expression and eyes.

        Raises:
            InputError: the clip is of a version that did not write eyes.
        """
        with np.load(self.path("labels.npz")) as raw:
            if "eyes" not in raw:
                raise InputError(f"{self.path('labels.npz')} holds no eyes; delete {self.folder} and make it again")
            landmarks = raw["landmarks"].astype(np.float32) / SUBPIXELS
            head, expression, eyes = (raw[name].astype(np.float32) for name in ("head", "expression", "eyes"))
            return Labels(landmarks[:-1], landmarks[-1], head[:-1], expression[:-1], eyes[:-1], head[-1])


def load_split(folder: Path = FOLDER, limit: int | None = None) -> list[Clip]:
    """List the clips of the split, in order.

    Args:
        folder: where `split.json` lies.
        limit: at most so many, all orientations early; None for all.

    Raises:
        InputError: when there is none.
    """
    path = folder / INDEX
    if not path.is_file():
        raise InputError(
            f"{folder} holds no evaluation split; make one with `python -m liveavatar.training.corpus.evaluation_pack`"
        )
    infos = [ClipInfo(**row) for row in json.loads(path.read_text())["clips"]]
    if limit is not None and limit < 1:
        raise InputError(f"--clips {limit}: give at least 1")
    return [Clip(folder, info) for info in infos][:limit]


def write_index(folder: Path, infos: list[ClipInfo]) -> None:
    """Write `split.json`, one line per clip."""
    rows = ",\n".join("  " + json.dumps(asdict(info)) for info in infos)
    (folder / INDEX).write_text('{"clips": [\n' + rows + "\n]}\n")


def write_clip(folder: Path, info: ClipInfo, frames: np.ndarray, speech: np.ndarray, labels: dict[str, Any]) -> float:
    """Write the files of one clip.

    Args:
        folder: of the split.
        info: its name is used.
        frames: uint8 [T + 1, H, W, 3], the photo last.
        speech: float32 mono at 16 kHz.
        labels: `landmarks` [T + 1, 68, 2], `head` [T + 1, 3], `expression` [T + 1, K], `eyes` [T + 1, 3].

    Returns:
        PSNR of the coded video against `frames`, dB.
    """
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    clip = Clip(folder, info)
    Image.fromarray(frames[-1]).save(clip.path("photo.webp"), lossless=True, quality=100, method=6)
    with soundfile.SoundFile(
        clip.path("speech.ogg"), "w", SAMPLE_RATE, 1, format="OGG", subtype="OPUS", compression_level=OPUS_LEVEL
    ) as file:
        file.write(speech)
    np.savez_compressed(
        clip.path("labels.npz"),
        landmarks=np.round(labels["landmarks"] * SUBPIXELS).astype(np.int16),
        head=labels["head"].astype(np.float32), expression=labels["expression"].astype(np.float16),
        eyes=labels["eyes"].astype(np.float32),
    )  # fmt: skip
    _write_video(clip.path("film.mkv"), frames[:-1])
    error = (clip.frames().astype(np.float32) - frames[:-1]) ** 2
    return float((10 * np.log10(255**2 / error.mean((1, 2, 3)))).mean())


def _write_video(path: Path, frames: np.ndarray) -> None:
    import av

    with av.open(str(path), "w", format="matroska") as container:
        stream: Any = container.add_stream(CODEC, rate=FPS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = PIXELS, CODING
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
