"""The prompt stage: a poor prompt is noted, a dense one is not, and both are scored once."""

from pathlib import Path

import pytest

from tasks.events import Event, listening
from tasks.prompt import prompt_check

DENSE = (
    "A middle-aged woman with short grey hair and a green jacket speaks calmly to the camera, smiling, with small "
    "gestures, in a bright office with plants behind her, soft daylight from the left, realistic video, close-up."
)


@pytest.mark.parametrize(("prompt", "poor"), [("a woman", True), (DENSE, False)])
def test_a_poor_prompt_is_noted_every_time(
    prompt: str, poor: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    events: list[Event] = []
    with listening(events.append):
        entries = [prompt_check.fn(prompt) for _ in range(2)]
    assert [entry.hit for entry in entries] == [False, True]
    assert entries[0].values == entries[1].values
    assert (entries[0].values["grade"] == "poor") == poor
    notes = [event.text for event in events if event.kind == "note"]
    assert notes == ([f"the prompt is poor: it says nothing of {', '.join(entries[0].values['missing'])}"] * 2) * poor


@pytest.mark.parametrize(("words_read", "told"), [(32, True), (None, False)])
def test_what_the_model_hears_is_told(
    words_read: int | None, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    events: list[Event] = []
    with listening(events.append):
        entry = prompt_check.fn("An angry welder in a forge, dark room", words_read)
    lines = [event.text for event in events if "the model hears" in event.text]
    assert bool(lines) == told
    if told:
        assert "frowning slightly" in lines[0]
        assert "not heard: welder" in lines[0]
        assert entry.values["heard"]["phrases"]["angry"] == "frowning slightly"
    else:
        assert entry.values["heard"] is None
