"""Sound from a pipe: PCM is read from its first byte, anything else is refused by name."""

import os
import threading

import numpy as np
import pytest

from liveavatar.errors import InputError
from liveavatar.media.pcm import HEAD_BYTES, OffsetFilter, PcmPipe, check_head, samples

SPEECH = (3000 * np.sin(np.arange(2 * HEAD_BYTES) / 9)).astype("<i2").tobytes()


class _Input:
    """A standard input."""

    def __init__(self, descriptor: int, terminal: bool = False) -> None:
        self.fileno, self.isatty = lambda: descriptor, lambda: terminal


@pytest.mark.parametrize(
    ("head", "message"),
    [
        pytest.param(b"", "is empty", id="nothing"),
        pytest.param(b"RIFF" + SPEECH, "is a WAV file", id="wav"),
        pytest.param(b"ID3" + SPEECH, "is a MP3 file", id="mp3"),
        pytest.param(b"Good morning. " * 2000, "is text", id="text"),
        pytest.param(SPEECH[: HEAD_BYTES - 2], r"ended after 0\.50 s", id="a little too short"),
        pytest.param(np.random.default_rng(0).bytes(HEAD_BYTES), "no sound as signed", id="noise of all bytes"),
    ],
)
def test_what_is_no_pcm_is_refused(head: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_head(head)


def test_the_shortest_sound_and_silence_are_heard() -> None:
    check_head(SPEECH[:HEAD_BYTES])
    check_head(bytes(HEAD_BYTES))


@pytest.mark.parametrize(("pipe", "message"), [(None, "no standard input"), (_Input(0, terminal=True), "a terminal")])
def test_without_a_pipe_nothing_is_read(pipe: _Input | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PcmPipe.open(pipe)


def test_every_byte_comes_out_once() -> None:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(SPEECH)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        pipe = PcmPipe.open(_Input(reading))
        assert len(pipe.head) == HEAD_BYTES
        assert b"".join(pipe.chunks(lambda: False)) == SPEECH
        assert list(pipe.chunks(lambda: True)) == [pipe.head], "it ends when it is stopped"
    finally:
        thread.join(60)
        os.close(reading)


def test_samples_are_floats_within_one() -> None:
    pcm = np.array([0, 16_384, -32_768, 32_767], "<i2").tobytes()
    assert samples(pcm + b"\x01") == pytest.approx([0, 0.5, -1, 32_767 / 32_768])


def _pieces(pcm: bytes, size: int) -> list[bytes]:
    return [pcm[start : start + size] for start in range(0, len(pcm), size)]


@pytest.mark.parametrize("offset", [0.5, -0.5])
@pytest.mark.parametrize("size", [1600, 1601])
def test_a_constant_offset_is_removed_while_sound_arrives(offset: float, size: int) -> None:
    voice = 0.2 * np.sin(np.arange(5 * 16_000) / 9)
    pcm = ((voice + offset) * 32_768).astype("<i2").tobytes()
    check_head(pcm[:HEAD_BYTES])
    level = OffsetFilter()
    heard = samples(b"".join(level(piece) for piece in (pcm[:HEAD_BYTES], *_pieces(pcm[HEAD_BYTES:], size))))
    assert np.abs(heard - voice[: len(heard)]).max() < 0.005
    assert len(heard) >= len(voice) - 1


def test_an_offset_that_begins_late_is_removed() -> None:
    voice = 0.2 * np.sin(np.arange(8 * 16_000) / 9)
    pcm = ((voice + np.where(np.arange(len(voice)) < 16_000, 0, 0.4)) * 32_768).astype("<i2").tobytes()
    level = OffsetFilter()
    heard = samples(b"".join(map(level, _pieces(pcm, 1600))))
    assert np.abs(heard - voice)[4 * 16_000 :].max() < 0.03


def test_sound_without_an_offset_passes_as_it_is() -> None:
    level = OffsetFilter()
    assert b"".join(map(level, _pieces(SPEECH, 1601))) == SPEECH
