"""Joining utterances keeps events on their sounds; interrupted generation goes on."""

from pathlib import Path

import numpy as np
import pytest

from liveavatar.errors import InputError
from liveavatar.training.corpus.speech import synthesis
from liveavatar.training.corpus.speech.phonemes import Viseme
from liveavatar.training.corpus.speech.tracks import SAMPLE_RATE, read_index
from liveavatar.training.corpus.speech.voices import Utterance


class Buzzer:
    """A voice whose every word is a buzz of 0.3 s at 22.05 kHz, with silence around."""

    def say(self, text: str, rate: float) -> Utterance:
        sample_rate = 22_050
        words = len(text.split())
        audio = np.zeros(int(sample_rate * (0.5 + 0.4 * words)), np.float32)
        events: list[tuple[float, float, int]] = [(0.0, 0.4, int(Viseme.SIL))]
        for i in range(words):
            start = 0.4 + 0.4 * i
            rows = slice(int(start * sample_rate), int((start + 0.3) * sample_rate))
            audio[rows] = np.sin(np.arange(rows.stop - rows.start) * 0.1)
            events += [(start, start + 0.3, int(Viseme.A)), (start + 0.3, start + 0.4, int(Viseme.SIL))]
        return Utterance(audio=audio, sample_rate=sample_rate, events=events)


def test_cropped_keeps_a_little_air() -> None:
    utterance = synthesis.cropped(Buzzer().say("one two", 1.0))
    assert utterance.events[0][1] == pytest.approx(0.06)
    assert len(utterance.audio) / utterance.sample_rate == pytest.approx(0.06 + 0.7 + 0.12, abs=1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_mix_keeps_events_on_sounds(seed: int) -> None:
    audio, events = synthesis.mix(
        [synthesis.cropped(Buzzer().say("a b c", 1.0)) for _ in range(5)], np.random.default_rng(seed)
    )
    spoken = np.zeros(len(audio), bool)
    for start, end, kind in events:
        if kind != Viseme.SIL:
            spoken[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)] = True
    energy = audio.astype(np.float64) ** 2
    assert energy[spoken].sum() > 0.98 * energy.sum()
    assert 0.04 < np.abs(audio).max() <= 1
    assert events == sorted(events)
    assert events[-1][1] <= len(audio) / SAMPLE_RATE


def test_generate_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(synthesis, "open_voice", lambda name, shared: opened.append(name) or Buzzer())
    plan = (
        synthesis.SpeechPlan(voice="buzz:a", tracks=2, seconds=3),
        synthesis.SpeechPlan(voice="buzz:b", tracks=1, seconds=3, split="eval"),
    )
    synthesis.generate(tmp_path, plan[:1], seed=1)
    before = {t.id: t for t in read_index(tmp_path)}
    after = synthesis.generate(tmp_path, plan, seed=1)
    assert opened == ["buzz:a", "buzz:b"]
    assert [t.id for t in after] == ["train_001", "train_002", "eval_003"]
    assert all(before[t.id] == t for t in after[:2])
    lines = [s for t in after for s in t.text]
    assert len(lines) == len(set(lines))


def test_missing_engine_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, shared: dict[str, object]) -> Buzzer:
        raise ImportError("no such engine")

    monkeypatch.setattr(synthesis, "open_voice", missing)
    assert synthesis.generate(tmp_path, (synthesis.SpeechPlan(voice="buzz:a", tracks=2),), seed=1) == []


def test_plan_holds_out_whole_voices() -> None:
    train = {e.voice for e in synthesis.FIRST if e.split == "train"}
    held_out = {e.voice for e in synthesis.FIRST if e.split == "eval"}
    assert len(held_out - train) >= 2
    assert len(held_out) >= 4
    assert not any("jf_nezumi" in v for v in train)


def test_join_keeps_tracks_apart_that_plans_number_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "open_voice", lambda name, shared: Buzzer())
    plan = (synthesis.SpeechPlan(voice="flite:slt", tracks=1, seconds=5),)
    for seed, name in enumerate(("first", "wide")):
        synthesis.generate(tmp_path / name, plan, seed)
    joined = synthesis.join(tmp_path / "all", [tmp_path / "first", tmp_path / "wide"])
    assert [t.id for t in joined] == ["first_train_001", "wide_train_001"]
    for track, folder in zip(read_index(tmp_path / "all"), ("first", "wide"), strict=True):
        there = (tmp_path / folder / "train_001.ogg").read_bytes()
        assert (tmp_path / "all" / track.file).read_bytes() == there
    with pytest.raises(InputError, match="another folder of that name has a track train_001"):
        synthesis.join(tmp_path / "twice", [tmp_path / "first", tmp_path / "first"])
