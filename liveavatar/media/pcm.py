"""PCM from a pipe: signed 16-bit little-endian, mono, 16 kHz.

The first half second is read before anything is started, so that any other data is refused at once. A constant offset
is removed, as it is from files.
"""

import logging
import os
import select
import string
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from liveavatar.errors import InputError
from liveavatar.timing import SAMPLE_RATE

log = logging.getLogger(__name__)

SAMPLE_BYTES = 2
SECOND_BYTES = SAMPLE_BYTES * SAMPLE_RATE
HEAD_BYTES = SECOND_BYTES // 2  # the shortest sound that is rendered
CHUNK_BYTES = SECOND_BYTES // 20
OFFSET = 0.02  # mean over full scale from which it is an offset and not the voice
OFFSET_SECONDS = 2.0  # over which the mean is taken
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
        level = OffsetFilter()
        yield level(self.head)
        while not stopped():
            if not select.select([self.descriptor], [], [], WAIT_SECONDS)[0]:
                continue
            chunk = os.read(self.descriptor, CHUNK_BYTES)
            if not chunk:
                return
            yield level(chunk)


class OffsetFilter:
    """Removes a constant offset from PCM that arrives in pieces; PCM without one passes as it is."""

    def __init__(self) -> None:
        self._offset = 0.0  # of full scale, removed from now on
        self._recent: deque[tuple[float, int]] = deque()  # sum and number of samples of the newest pieces
        self._odd = b""

    def __call__(self, pcm: bytes) -> bytes:
        """Return the whole samples so far; an odd byte waits for its other half."""
        data = self._odd + pcm
        whole = len(data) // SAMPLE_BYTES * SAMPLE_BYTES
        data, self._odd = data[:whole], data[whole:]
        if not data:
            return b""
        sound = samples(data)
        before, self._offset = self._offset, self._measured(sound)
        if not before and not self._offset:
            return data
        # A new offset is taken over gradually, so that it does not click.
        removed = np.linspace(before, self._offset, len(sound)) if len(self._recent) > 1 else self._offset
        return np.clip(np.rint((sound - removed) * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype("<i2").tobytes()

    def _measured(self, sound: np.ndarray) -> float:
        self._recent.append((float(sound.sum(dtype=np.float64)), len(sound)))
        while sum(count for _, count in self._recent) > OFFSET_SECONDS * SAMPLE_RATE and len(self._recent) > 1:
            self._recent.popleft()
        mean = sum(total for total, _ in self._recent) / sum(count for _, count in self._recent)
        if abs(mean - self._offset) <= OFFSET:
            return self._offset
        log.info("standard input: a constant offset of %+.2f is removed", mean)
        return mean if abs(mean) > OFFSET else 0.0


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
    loudness = float(np.std(samples(head)))  # an offset aside
    if loudness > LOUDEST_SPEECH:
        raise InputError(
            f"--audio -: standard input is no sound as signed 16-bit little-endian PCM (it would be at "
            f"{loudness:.0%} of full scale); {HOW}"
        )


def samples(pcm: bytes) -> np.ndarray:
    """Convert whole 16-bit samples to float32 in [-1, 1]; a last odd byte is left out."""
    whole = len(pcm) // SAMPLE_BYTES * SAMPLE_BYTES
    return np.frombuffer(pcm[:whole], "<i2").astype(np.float32) / FULL_SCALE
