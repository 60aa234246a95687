"""Holes in the time stamps are silence, pauses of AMR too; a clock that was set is no hole."""

from pathlib import Path

import numpy as np
import pytest

from liveavatar.audio.ingest import load_audio, probe
from tests.audio.sounds import tone, write, write_with_hole

TONE = tone()


@pytest.mark.parametrize("hole", [0.4, 2.0])
@pytest.mark.parametrize(
    ("name", "codec", "delay"),
    [
        ("a.webm", "libopus", 0.0),
        ("a.m4a", "aac", 0.0),
        ("a.mkv", "flac", 0.0),
        ("a.mkv", "libmp3lame", 0.0),
        ("a.mp4", "libmp3lame", 0.0),
        ("a.ts", "libmp3lame", 0.023),  # s; these containers keep the delay of the coder
        ("a.nut", "libmp3lame", 0.023),
        ("a.mpg", "mp2", 0.01),
    ],
)
def test_a_hole_in_the_time_stamps_is_silence(
    tmp_path: Path, name: str, codec: str, delay: float, hole: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Two clicks, a second before and a second after the hole: they stay in time."""
    sound = np.zeros(3 * 48_000, np.float32)
    sound[[24_000, 96_000]] = 0.9
    path = write_with_hole(tmp_path / name, sound, 1.0, hole, codec)
    audio = load_audio(path)
    assert len(audio) / 16_000 == pytest.approx(3.0 + hole, abs=0.05)
    clicks = [int(np.abs(part).argmax()) for part in (audio[:16_000], audio[16_000:])]
    assert clicks[0] / 16_000 == pytest.approx(0.5 + delay, abs=0.01)
    assert 1.0 + clicks[1] / 16_000 == pytest.approx(2.0 + hole + delay, abs=0.01)
    assert f"{hole:.2f} s are missing inside it" in caplog.text


def test_sound_without_holes_gets_no_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, codec in (("a.webm", "libopus"), ("a.m4a", "aac"), ("a.mkv", "libmp3lame")):
        load_audio(write_with_hole(tmp_path / name, tone(rate=48_000), 1.0, 0.0, codec))
    for name in ("b.wav", "b.ogg", "b.flac", "b.mp3"):
        load_audio(write(tmp_path / name, TONE))
    assert not caplog.records


def test_a_clock_that_was_set_is_no_hole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    audio = load_audio(write_with_hole(tmp_path / "a.webm", tone(rate=48_000), 1.0, 700.0))
    assert len(audio) / 16_000 == pytest.approx(3.0, abs=0.05)
    assert "time stamps jump by 700 s" in caplog.text


def test_a_clock_that_starts_again_is_no_hole(tmp_path: Path) -> None:
    """Two Ogg files behind one another: a chained stream."""
    data = write(tmp_path / "a.ogg", TONE).read_bytes()
    (tmp_path / "b.ogg").write_bytes(data + data)
    audio = load_audio(tmp_path / "b.ogg")
    assert len(audio) / 16_000 == pytest.approx(6.0, abs=0.1)


@pytest.mark.parametrize(
    ("magic", "speech", "pauses", "rate"),
    [
        pytest.param(b"#!AMR\n", (7, 31), ((8, 5), (15, 0)), 8_000, id="narrow band"),
        pytest.param(b"#!AMR-WB\n", (8, 60), ((9, 5), (15, 0)), 16_000, id="wide band"),
    ],
)
def test_pauses_of_amr_are_silence(
    tmp_path: Path, magic: bytes, speech: tuple[int, int], pauses: tuple[tuple[int, int], ...], rate: int
) -> None:
    """Half a second of speech frames, one of comfort noise and empty frames (DTX), half a second of speech."""
    random = np.random.default_rng(0)
    talk = [_amr(*speech, random) for _ in range(50)]
    path = tmp_path / "a.amr"
    path.write_bytes(magic + b"".join(talk[:25] + [_amr(*pauses[n % 8 > 0], random) for n in range(50)] + talk[25:]))
    audio = load_audio(path)
    assert len(audio) / 16_000 == pytest.approx(2.0, abs=0.02)
    assert np.abs(audio[:8_000]).max() > 0.01
    assert np.abs(audio[8_400:23_600]).max() < 0.001
    assert np.abs(audio[24_000:]).max() > 0.01
    assert probe(path).sample_rate == rate


def _amr(kind: int, size: int, random: np.random.Generator) -> bytes:
    return bytes([kind << 3 | 4]) + random.bytes(size)
