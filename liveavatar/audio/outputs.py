"""Output files of the audio stages: each appears whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from liveavatar.errors import InputError
from liveavatar.files import disk_errors, replacing
from liveavatar.timing import SAMPLE_RATE


def output_folder(path: str | Path) -> Path:
    """Create an output folder. Raises InputError when it cannot be created."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"{folder}: no folder can be made there ({e.strerror}); choose another output folder") from e
    return folder


@contextmanager
def output_file(path: Path) -> Iterator[BinaryIO]:
    """Open an output file that appears whole or not at all.

    Raises:
        CapacityError: when the disk is full or the folder may not be written.
        InputError: when it cannot be written for another reason.
    """
    try:
        with disk_errors(path), replacing(path) as temporary, temporary.open("wb") as f:
            yield f
    except OSError as e:
        raise InputError(f"{path}: it cannot be written ({e.strerror or e}); choose another folder") from e


def write_wav(path: Path, audio: np.ndarray) -> None:
    """Write float32 mono 16 kHz as a 16-bit WAV file."""
    with output_file(path) as f:
        soundfile.write(f, audio, SAMPLE_RATE, format="WAV", subtype="PCM_16")
