"""Speech tracks on disk: Ogg Opus sound and `speech.json`; writing, and reading for training.

A *track* is one voice speaking sentences with pauses, its viseme events exact to some ten milliseconds. The
decoded sound is sample-aligned with the events (libsndfile drops Opus' pre-skip; `tests/training/corpus`
checks it by cross-correlation). *Resampled copies* (speed and pitch together) are made while loading. The sound library
is loaded with the first sound: stages that train on encoded clips run without it.
"""

import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from liveavatar.errors import InputError
from liveavatar.files import write_json
from liveavatar.training.corpus.speech.phonemes import Event

SAMPLE_RATE = 16_000
BLOCK_SECONDS = 0.48  # 12 frames at 25 fps
INDEX = "speech.json"
_BITRATE = 30_000  # bit/s
# libsndfile maps its compression level linearly to the bit rate: 256 kbit/s at 0, 6 kbit/s at 1 (mono).
_OPUS_LEVEL = 1 - (_BITRATE - 6_000) / 250_000


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackInfo:
    """Entry of one track in `speech.json`."""

    id: str
    file: str
    voice: str
    split: str  # "train" or "eval"
    seconds: float
    events: list[Event]  # (start s, end s, viseme class)
    text: list[str]


class Track:
    """A track, possibly a resampled copy; its sound is decoded on first use.

    `events` is float32 [n, 3]: start and end in seconds of this copy, viseme class.
    """

    def __init__(self, folder: Path, info: TrackInfo, speed: float = 1.0) -> None:
        self.info, self.speed = info, speed
        self._path = folder / info.file
        self.events = np.array(info.events, np.float32).reshape(-1, 3)
        self.events[:, :2] /= speed

    @cached_property
    def audio(self) -> np.ndarray:
        """Sound of this copy, float32 mono at 16 kHz."""
        import soundfile

        recorded = soundfile.read(self._path, dtype="float32")[0]
        if self.speed == 1.0:
            return recorded
        ratio = Fraction(self.speed).limit_denominator(100)
        return resample_poly(recorded, ratio.denominator, ratio.numerator).astype(np.float32)

    @property
    def seconds(self) -> float:
        """Length of this copy in seconds."""
        return self.info.seconds / self.speed

    @property
    def num_blocks(self) -> int:
        """Whole blocks of 0.48 s in this copy."""
        return int(self.seconds / BLOCK_SECONDS)

    def clip(self, block: int, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Cut out sound [640 * num_frames] and events [n, 3], in seconds from block `block`; zeros past the end."""
        start, length = round(block * BLOCK_SECONDS * SAMPLE_RATE), num_frames * SAMPLE_RATE // 25
        part = self.audio[start : start + length]
        events = self.events - np.array([block * BLOCK_SECONDS] * 2 + [0], np.float32)
        near = (events[:, 1] > -0.5) & (events[:, 0] < num_frames / 25 + 0.5)
        return np.pad(part, (0, length - len(part))), events[near]


def resample(audio: np.ndarray, ratio: float) -> np.ndarray:
    """Play a sound `ratio` times faster: band-limited (FFT) resampling, duration divided by `ratio`."""
    n = len(audio)
    m = round(n / ratio)
    spectrum = np.fft.rfft(audio)
    num_bins = min(m // 2 + 1, len(spectrum))
    out = np.zeros(m // 2 + 1, complex)
    out[:num_bins] = spectrum[:num_bins]
    return (np.fft.irfft(out, m) * (m / n)).astype(np.float32)


def write_track(folder: Path, info: TrackInfo, audio: np.ndarray) -> None:
    """Encode a track's sound as Ogg Opus at about 30 kbit/s."""
    import soundfile

    with soundfile.SoundFile(
        folder / info.file, "w", SAMPLE_RATE, 1, format="OGG", subtype="OPUS", compression_level=_OPUS_LEVEL
    ) as file:
        file.write(audio)


def write_index(folder: Path, tracks: list[TrackInfo]) -> None:
    """Write `speech.json` atomically."""
    rows = [asdict(t) | {"events": [[round(s, 4), round(e, 4), k] for s, e, k in t.events]} for t in tracks]
    write_json(folder / INDEX, {"sample_rate": SAMPLE_RATE, "tracks": rows})


def read_index(folder: Path) -> list[TrackInfo]:
    """Read `speech.json`.

    Raises:
        InputError: when the folder holds none.
    """
    path = folder / INDEX
    if not path.is_file():
        raise InputError(
            f"--speech {folder}: there is no {INDEX}; make one with "
            "`python -m liveavatar.training.corpus.speech.synthesis`"
        )
    rows = json.loads(path.read_text())["tracks"]
    return [TrackInfo(**(r | {"events": [(s, e, int(k)) for s, e, k in r["events"]]})) for r in rows]


def load_tracks(folder: Path, split: str, speeds: tuple[float, ...] = (1.0,)) -> list[Track]:
    """Open the tracks of a split.

    Args:
        folder: where `speech.json` lies.
        split: "train" or "eval".
        speeds: one copy of every track per speed, all tracks at the first speed first.

    Returns:
        `len(speeds)` times the tracks of the split; the position is the track number of the clip labels.
    """
    infos = [t for t in read_index(folder) if t.split == split]
    return [Track(folder, info, speed) for speed in speeds for info in infos]
