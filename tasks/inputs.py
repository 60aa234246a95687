"""Input files of a job, opened and checked once; every stage takes digests and decoded values from here.

Files are decoded in a worker process (`liveavatar.isolation`), so one that crashes its decoder is refused like others.

Loads neither torch nor Prefect: a command checks its inputs before anything starts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from liveavatar.errors import InputError
from liveavatar.files import sha256
from liveavatar.isolation.caller import isolated

SMALL_BYTES = 20_000_000  # a sound file up to here is decoded by the check, a larger one by the first stage
MAX_HELD_BYTES = 64_000_000  # a decoded input up to here is handed on, a larger one is decoded again when it is needed


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFile:
    """A checked file."""

    path: Path
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class JobInputs:
    """The checked inputs of one job."""

    image: InputFile
    audio: InputFile | None = None  # None: sound from a pipe
    pose: InputFile | None = None  # video or csv that head and eyes follow
    samples: np.ndarray | None = None  # float32 [samples], mono 16 kHz; None where it was not kept
    pixels: np.ndarray | None = None  # uint8 sRGB [H, W, 3]; None where it was not kept


def check_inputs(image: Path, audio: Path | None, pose: Path | None, *, skeleton: bool = False) -> JobInputs:
    """Open each input of a job and check it.

    Args:
        image, audio, pose: the files.
        skeleton: whether the pose may be a video of a drawn skeleton.

    Raises:
        InputError: a file is missing, damaged, cannot be used, or has a name that is not UTF-8.
    """
    for path in (image, audio, pose):
        if path is not None:
            _refuse_unwritable_name(path)
    samples = None if audio is None else isolated(check_sound, audio, beats=True)
    pixels = decode_portrait(image)
    if pose is not None:
        isolated(check_motion, pose, skeleton, beats=True)
    return JobInputs(
        image=_file(image),
        audio=None if audio is None else _file(audio),
        pose=None if pose is None else _file(pose),
        samples=_if_small(samples),
        pixels=_if_small(pixels),
    )


def check_sound(path: Path, *, on_progress: Callable[[], None]) -> np.ndarray | None:
    """Check a sound by its header, and decode it unless it is large; runs in a worker."""
    from liveavatar.audio import ingest

    ingest.probe(path)
    return ingest.load_audio(path, on_progress=on_progress) if path.stat().st_size <= SMALL_BYTES else None


def check_motion(path: Path, skeleton: bool, *, on_progress: Callable[[], None]) -> None:
    """Check a pose file, which may be a drawn skeleton if `skeleton`; runs in a worker."""
    from liveavatar.pose.files import check_pose

    check_pose(path, skeleton, on_progress=on_progress)


def decode_sound(path: Path) -> np.ndarray:
    """Decode a sound in a worker: float32 [samples], mono 16 kHz.

    Raises:
        InputError: it cannot be used.
    """
    from liveavatar.audio.ingest import load_audio

    samples: np.ndarray = isolated(load_audio, path, beats=True)
    return samples


def decode_portrait(path: Path) -> np.ndarray:
    """Decode a picture in a worker: uint8 sRGB [H, W, 3].

    Raises:
        InputError: it cannot be used.
    """
    from liveavatar.media.portrait import load_portrait

    pixels: np.ndarray = isolated(load_portrait, path)
    return pixels


def _refuse_unwritable_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as e:
        raise InputError(f"{str(path)!a}: its name is not UTF-8 and cannot be written into reports; rename it") from e


def _file(path: Path) -> InputFile:
    return InputFile(path=path, sha256=sha256(path))


def _if_small(values: np.ndarray | None) -> np.ndarray | None:
    return values if values is not None and values.nbytes <= MAX_HELD_BYTES else None
