"""Tracks survive the codec sample by sample, and their copies keep sound and events together."""

from pathlib import Path

import numpy as np
import pytest

from liveavatar.errors import InputError
from liveavatar.training.corpus.speech.tracks import (
    SAMPLE_RATE,
    TrackInfo,
    load_tracks,
    read_index,
    resample,
    write_index,
    write_track,
)


def bursts(seconds: float = 6.0) -> tuple[np.ndarray, list[tuple[float, float, int]]]:
    """Noise bursts at uneven times, each an event."""
    rng = np.random.default_rng(0)
    audio = np.zeros(int(seconds * SAMPLE_RATE), np.float32)
    events = []
    for start in (0.31, 1.07, 1.9, 3.33, 4.81):
        end = start + 0.25
        rows = slice(int(start * SAMPLE_RATE), int(end * SAMPLE_RATE))
        audio[rows] = np.convolve(rng.normal(size=rows.stop - rows.start), np.ones(8) / 8, "same") * 0.5
        events.append((start, end, 11))
    return audio.clip(-1, 1), events


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    audio, events = bursts()
    info = TrackInfo(id="a", file="a.ogg", voice="x", split="train", seconds=6.0, events=events, text=["t"])
    write_track(tmp_path, info, audio)
    write_index(tmp_path, [info])
    return tmp_path


def test_codec_does_not_shift(folder: Path) -> None:
    audio, _ = bursts()
    decoded = load_tracks(folder, "train")[0].audio
    assert len(decoded) == len(audio)
    spectrum = np.fft.rfft(audio, 2 * len(audio)).conj() * np.fft.rfft(decoded, 2 * len(audio))
    assert np.fft.irfft(spectrum).argmax() == 0
    assert (folder / "a.ogg").stat().st_size < 40_000 / 8 * 6


@pytest.mark.parametrize("speed", [pytest.param(s, id=f"speed {s}") for s in (1.0, 0.9, 1.1)])
def test_sound_lies_in_the_events_of_every_copy(folder: Path, speed: float) -> None:
    track = load_tracks(folder, "train", (speed,))[0]
    loud = np.zeros(len(track.audio), bool)
    for start, end, _ in track.events:
        loud[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)] = True
    energy = track.audio**2
    assert energy[loud].sum() > 0.995 * energy.sum()
    assert track.seconds == pytest.approx(len(track.audio) / SAMPLE_RATE, abs=1e-3)


def test_clip_has_its_own_clock(folder: Path) -> None:
    track = load_tracks(folder, "train")[0]
    audio, events = track.clip(2, 48)  # from 0.96 s
    assert len(audio) == 48 * 640
    assert events[events[:, 0] > 0][0][0] == pytest.approx(1.07 - 0.96, abs=1e-4)
    late, _ = track.clip(12, 48)  # past the end: zeros
    assert len(late) == 48 * 640
    assert not late[-8000:].any()


def test_copies_come_speed_by_speed(folder: Path) -> None:
    tracks = load_tracks(folder, "train", (1.0, 0.9, 1.1))
    assert [t.speed for t in tracks] == [1.0, 0.9, 1.1]
    assert tracks[2].num_blocks == int(6.0 / 1.1 / 0.48)
    assert load_tracks(folder, "eval") == []


def test_resample_keeps_pitch_ratio() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000).astype(np.float32)
    fast = resample(tone, 1.25)
    assert len(fast) == 12800
    assert np.abs(np.fft.rfft(fast)).argmax() == pytest.approx(440 * 1.25 * 12800 / 16000, abs=1)


def test_missing_index_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"corpus\.speech"):
        read_index(tmp_path)
