"""Phoneme alignments of each synthesiser become gap-free viseme events."""

import itertools

import pytest

from liveavatar.training.corpus.speech.phonemes import (
    RADIO_CLASS,
    Viseme,
    aligned_events,
    espeak_events,
    ipa_class,
    radio_events,
)


@pytest.mark.parametrize(
    ("symbol", "viseme"),
    [
        pytest.param("p", Viseme.PBM, id="lips"),
        pytest.param("v", Viseme.FV, id="teeth on lip"),
        pytest.param("θ", Viseme.TH, id="tongue"),
        pytest.param("tʃ", Viseme.TD, id="the first sound of a cluster decides"),
        pytest.param("uː", Viseme.UW, id="length mark ignored"),
        pytest.param("ɑ", Viseme.A, id="open vowel"),
        pytest.param("ˈ", None, id="a stress mark is no sound"),
        pytest.param("?", None, id="punctuation is no sound"),
    ],
)
def test_ipa_class(symbol: str, viseme: Viseme | None) -> None:
    assert ipa_class(symbol) == viseme


def test_kokoro_capitals_are_diphthongs() -> None:
    assert ipa_class("I", kokoro=True) == Viseme.A
    assert aligned_events([("I", 1.0)], kokoro=True) == [(0, 0.6, Viseme.A), (0.6, 1.0, Viseme.I)]


@pytest.mark.parametrize(
    ("symbols", "events"),
    [
        pytest.param([("b", 0.1), ("a", 0.2)], [(0, 0.1, 1), (0.1, 0.3, 11)], id="plain"),
        pytest.param([("ˈ", 0.1), ("b", 0.1)], [(0, 0.2, 1)], id="stress joins the next sound"),
        pytest.param([("a", 0.1), ("ː", 0.1)], [(0, 0.2, 11)], id="length joins the one before"),
        pytest.param([("a", 0.1), (" ", 0.1), ("b", 0.1)], [(0, 0.2, 11), (0.2, 0.3, 1)], id="space inside speech"),
        pytest.param([("^", 0.1), ("a", 0.1), (".", 0.2)], [(0, 0.1, 0), (0.1, 0.2, 11), (0.2, 0.4, 0)], id="padding"),
        pytest.param([(".", 0.1), (" ", 0.1), ("b", 0.1)], [(0, 0.1, 0), (0.1, 0.2, 0), (0.2, 0.3, 1)], id="pause"),
    ],
)
def test_aligned_events(symbols: list[tuple[str, float]], events: list[tuple[float, float, int]]) -> None:
    got = aligned_events(symbols)
    assert [k for *_, k in got] == [k for *_, k in events]
    assert [t for e in got for t in e[:2]] == pytest.approx([t for e in events for t in e[:2]])


def test_radio_phones_end_times() -> None:
    events = radio_events([("pau", 0.2), ("m", 0.3), ("ay", 0.5), ("pau", 0.7)])
    assert [k for *_, k in events] == [Viseme.SIL, Viseme.PBM, Viseme.A, Viseme.I, Viseme.SIL]
    assert events[2][1] == pytest.approx(0.42)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(events))


def test_every_radio_class_is_used() -> None:
    assert set(RADIO_CLASS.values()) == set(Viseme)


def test_espeak_onsets_run_to_the_end() -> None:
    events = espeak_events([(0.0, "_:"), (0.1, "m"), (0.2, "aɪ"), (0.5, "")], 0.8)
    assert [k for *_, k in events] == [Viseme.SIL, Viseme.PBM, Viseme.A, Viseme.I, Viseme.SIL]
    assert events[-1][1] == 0.8
