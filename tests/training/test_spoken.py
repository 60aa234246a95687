"""The mouth at the sounds of a language: sounds by their kind, a mouth that follows them and one that does not."""

import numpy as np
import pytest

from liveavatar.training.spoken import SpokenSound, chance_above, lines, measure, sounds_of, speak_all

ONSETS = [(0.0, "m"), (0.1, "ɑ"), (0.3, ""), (0.4, "ph"), (0.5, "i"), (0.7, "s."), (0.8, "i."), (1.0, "ˈu"), (1.2, "")]


class Babbler:
    """Synthesiser of the same four sounds, at 8 kHz."""

    def speak(self, text: str, voice: str) -> tuple[np.ndarray, int, list[tuple[float, str]]]:
        return np.zeros(8000 * 2, np.float32), 8000, ONSETS


def test_sounds_whose_mouth_shape_is_known() -> None:
    found = [(s.kind, s.start, s.end) for s in sounds_of(ONSETS, 1.5)]
    assert found == [
        ("shut", 0.0, 0.1), ("open", 0.1, 0.3), ("shut", 0.4, 0.5), ("spread", 0.5, 0.7), ("round", 1.0, 1.2),
    ]  # fmt: skip


def test_sentences_follow_one_another() -> None:
    audio, sounds = speak_all(Babbler(), ["one", "two"], "any")
    assert len(audio) == 4 * 16_000
    assert [s.start for s in sounds[5:]] == pytest.approx([s.start + 2 for s in sounds[:5]])


def test_a_mouth_that_follows_and_one_that_does_not() -> None:
    starts = np.arange(0, 40, 0.4)
    kinds = ["shut", "open", "round", "spread"]
    sounds = [SpokenSound(kinds[i % 4], t + 0.12, t + 0.28) for i, t in enumerate(starts)]
    openness, width = np.full(1000, 0.1), np.full(1000, 0.5)
    for sound in sounds:
        part = slice(round(sound.start * 25), round(sound.end * 25))
        openness[part] = {"shut": 0.03, "open": 0.3}.get(sound.kind, 0.12)
        width[part] = {"round": 0.4, "spread": 0.6}.get(sound.kind, 0.5)
    row = measure("Any", sounds, openness, width)
    assert (row.shut_share, row.open_over_shut, row.spread_over_round) == (1, 1, 1)
    assert (row.openness["shut"], row.openness["open"]) == (0.03, 0.3)
    noise = np.random.default_rng(0).uniform(0.1, 0.3, (2, 1000))
    row = measure("Any", sounds, *noise)
    assert row.shut_share == 0
    assert row.spread_over_round == pytest.approx(0.5, abs=0.2)
    assert "| Any | 40 | 0% of 25 |" in lines([row])[2]


def test_chance_that_one_exceeds_the_other() -> None:
    assert chance_above([2, 3], [1]) == 1
    assert chance_above([1, 3], [2]) == 0.5
    assert chance_above([1], [1]) == 0.5
