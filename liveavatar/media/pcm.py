"""PCM from a pipe: signed 16-bit little-endian, mono, 16 kHz.

The first half second is read before anything is started, so that any other data is refused at once.
"""

import os
import select
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from liveavatar.errors import InputError
from liveavatar.timing import SAMPLE_RATE

SAMPLE_BYTES = 2
SECOND_BYTES = SAMPLE_BYTES * SAMPLE_RATE
HEAD_BYTES = SECOND_BYTES // 2  # the shortest sound that is rendered
CHUNK_BYTES = SECOND_BYTES // 20
WAIT_SECONDS = 0.25  # between two checks whether reading should end
LOUDEST_SPEECH = 0.5  # root mean square over full scale; bytes that are no PCM reach 0.577
FULL_SCALE = 32_768
CONTAINERS = {b"RIFF": "WAV", b"OggS": "Ogg", b"fLaC": "FLAC", b"ID3": "MP3", b"\x1aE\xdf\xa3": "Matroska"}
HOW = "pipe raw PCM, such as `ffmpeg -i FILE -f s16le -ac 1 -ar 16000 - | liveavatar render --audio - ...`"
WORDS = bytes(string.printable, "ascii")


class Pipe(Protocol):
    """Standard input, or a substitute."""

    def fileno(self) -> int:
        """File descriptor."""

    def isatty(self) -> bool:
        """True for a terminal."""


@dataclass(frozen=True, slots=True)
class PcmPipe:
    """Open pipe whose first half second was read and checked."""

    descriptor: int
    head: bytes

    @classmethod
    def open(cls, pipe: Pipe | None) -> "PcmPipe":
        """Read the first half second.

        Raises:
            InputError: there is less than that, or it is no PCM.
        """
        if pipe is None:
            raise InputError(f"--audio -: there is no standard input; {HOW}")
        if pipe.isatty():
            raise InputError(f"--audio -: standard input is a terminal; {HOW}")
        descriptor, head = pipe.fileno(), b""
        while len(head) < HEAD_BYTES and (more := os.read(descriptor, HEAD_BYTES - len(head))):
            head += more
        check_head(head)
        return cls(descriptor, head)

    def chunks(self, stopped: Callable[[], bool]) -> Iterator[bytes]:
        """Iterate over all bytes from the start, as they arrive, until the pipe ends or `stopped()` is true."""
        yield self.head
        while not stopped():
            if not select.select([self.descriptor], [], [], WAIT_SECONDS)[0]:
                continue
            chunk = os.read(self.descriptor, CHUNK_BYTES)
            if not chunk:
                return
            yield chunk


def check_head(head: bytes) -> None:
    """Check that the first bytes are PCM.

    Raises:
        InputError: naming the detected kind of data.
    """
    if not head:
        raise InputError(f"--audio -: standard input is empty; {HOW}")
    for magic, name in CONTAINERS.items():
        if head.startswith(magic):
            raise InputError(f"--audio -: standard input is a {name} file, not PCM; {HOW}")
    if not head.translate(None, WORDS):
        raise InputError(f"--audio -: standard input is text, not PCM; {HOW}")
    if len(head) < HEAD_BYTES:
        seconds = len(head) / SECOND_BYTES
        raise InputError(f"--audio -: standard input ended after {seconds:.2f} s, shorter than 0.5 s; give more sound")
    loudness = float(np.sqrt(np.mean(samples(head) ** 2)))
    if loudness > LOUDEST_SPEECH:
        raise InputError(
            f"--audio -: standard input is no sound as signed 16-bit little-endian PCM (it would be at "
            f"{loudness:.0%} of full scale); {HOW}"
        )


def samples(pcm: bytes) -> np.ndarray:
    """Convert whole 16-bit samples to float32 in [-1, 1]; a last odd byte is left out."""
    whole = len(pcm) // SAMPLE_BYTES * SAMPLE_BYTES
    return np.frombuffer(pcm[:whole], "<i2").astype(np.float32) / FULL_SCALE
