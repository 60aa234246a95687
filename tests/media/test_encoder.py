"""One segment: the bytes do not depend on how often ffmpeg was killed meanwhile."""

import signal
from pathlib import Path

import pytest

from liveavatar.media.encoder import SegmentEncoder
from liveavatar.media.ffmpeg import MediaError
from liveavatar.media.film import ENCODER
from tests.media.videos import HEIGHT, WIDTH, kill_encoder, pictures


def coded(path: Path, kill_at: tuple[int, ...], number: int = signal.SIGKILL) -> bytes:
    """Code 24 frames; ffmpeg is sent a signal after the frames named."""
    encoder = SegmentEncoder(path, (WIDTH, HEIGHT), 25, ENCODER)
    for index, frame in enumerate(pictures(0, 24)):
        encoder.write(frame, "coding")
        if index in kill_at:
            kill_encoder(number)
    return encoder.finish("coding")


@pytest.mark.parametrize("kill_at", [(5,), (23,), (5, 23)], ids=str)
def test_a_killed_ffmpeg_costs_nothing(tmp_path: Path, kill_at: tuple[int, ...]) -> None:
    assert coded(tmp_path / "a.mp4", kill_at) == coded(tmp_path / "b.mp4", ())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=str)
@pytest.mark.parametrize("kill_at", [(5,), (23,)], ids=str)
def test_a_terminated_ffmpeg_costs_nothing(tmp_path: Path, kill_at: tuple[int, ...], number: int) -> None:
    assert coded(tmp_path / "a.mp4", kill_at, number) == coded(tmp_path / "b.mp4", ())


def test_it_gives_up_in_the_end(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="coding: ffmpeg was killed by signal 9"):
        coded(tmp_path / "a.mp4", tuple(range(24)))
    assert not list(tmp_path.iterdir())
