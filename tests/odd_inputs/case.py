"""A case: an odd input, and what its reader must answer."""

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from liveavatar.audio.ingest import load_audio
from liveavatar.errors import InputError
from liveavatar.media.ffmpeg import ffmpeg_binary
from liveavatar.paths import DATA
from liveavatar.timing import SAMPLE_RATE
from tests.audio.sounds import write

SECONDS = 3.0  # of the speech
Maker = Callable[[Path], Path]  # writes a file into a folder
Check = Callable[[Any], None]  # asserts the properties of what was read


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One input with its right answer."""

    name: str
    make: Maker
    check: Check | None = None  # of what is read; None: it is refused with exit code 2
    words: str = ""  # pattern in the refusal, or in the lines for the user

    def answer(self, reader: Callable[[Path], Any], folder: Path, lines: Callable[[], str]) -> None:
        """Read the input and assert the answer.

        Args:
            reader: the function that the command calls.
            folder: for the input.
            lines: returns the lines for the user so far.
        """
        path = self.make(folder)
        refusal = None
        try:
            found = reader(path)
        except InputError as e:
            refusal = e
        if self.check is None:
            assert refusal is not None, "it was read"
            assert refusal.exit_code == 2
            assert path.name in str(refusal)
            assert re.search(self.words, str(refusal)), f"another reason: {refusal}"
        else:
            assert refusal is None
            self.check(found)
            assert re.search(self.words, lines()), f"lines: {lines()}"


@cache
def speech() -> np.ndarray:
    """The first seconds of the sample, float32 mono 16 kHz."""
    return load_audio(DATA / "samples" / "speech.wav")[: round(SECONDS * SAMPLE_RATE)]


@cache
def portrait() -> Image.Image:
    """The sample portrait, RGB."""
    return Image.open(DATA / "samples" / "portrait.png").convert("RGB")


def ffmpeg(*options: str | Path) -> None:
    """Run ffmpeg."""
    subprocess.run([ffmpeg_binary(), "-v", "error", "-y", *map(str, options)], check=True, stdin=subprocess.DEVNULL)


def speech_file(folder: Path) -> Path:
    """Write the speech as WAV, once a folder."""
    path = folder / "speech-source.wav"
    return path if path.exists() else write(path, speech(), SAMPLE_RATE)


def written(name: str, content: bytes) -> Maker:
    """Make a file of bytes."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def changed(maker: Maker, change: Callable[[bytes], bytes]) -> Maker:
    """Change the bytes of a file."""

    def make(folder: Path) -> Path:
        path = maker(folder)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def renamed(maker: Maker, name: str) -> Maker:
    """Give a file another name."""
    return lambda folder: maker(folder).rename(folder / name)
