"""Lines on standard error while a command works, and its result on standard output."""

import io
import json
import logging
import sys
import time

import pytest

from flows import terminal
from flows.terminal import Terminal, complain, say
from liveavatar.engine.memory import MemoryReading
from tasks.events import Event, emit


def test_stages_notes_and_warnings_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("liveavatar.load")
    with Terminal():
        emit(Event(kind="begin", stage="enhance"))
        emit(Event(kind="end", stage="enhance", text="0.5 s"))
        emit(Event(kind="end", stage="features", cached=True))
        emit(Event(kind="note", stage="render", text="resumed at [block] 8"))
        log.warning("slow")
        log.info("not for the terminal")
    emit(Event(kind="note", stage="render", text="nobody listens"))
    log.warning("nobody listens")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line.split(None, 1) for line in captured.err.splitlines()]
    assert lines[:4] == [
        ["enhance", "0.5 s"],
        ["features", "cached"],
        ["render", "resumed at [block] 8"],
        ["load", "slow"],
    ]
    assert not [line for line in lines[4:] if line[0] == "render"]


@pytest.mark.parametrize("lost", [BrokenPipeError(), OSError(28, "No space left on device"), OSError(5, "I/O error")])
@pytest.mark.parametrize("form", ["text", "json"])
def test_work_goes_on_when_nobody_can_read_its_lines(lost: OSError, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(io.StringIO):
        def write(self, text: str) -> int:
            raise lost

    monkeypatch.setenv("LIVEAVATAR_LOG", form)
    monkeypatch.setattr(sys, "stderr", Lost())
    with Terminal():
        emit(Event(kind="end", stage="enhance", text="0.5 s"))
        emit(Event(kind="progress", stage="render", done=1, total=2, fps=1.0))
        logging.getLogger("liveavatar.load").warning("slow")
    complain("an error")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_stage_that_takes_long_says_that_it_is_at_work(
    form: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEAVATAR_LOG", form)
    monkeypatch.setattr(terminal, "SILENCE_SECONDS", 0.1)
    with Terminal():
        time.sleep(0.3)
        emit(Event(kind="begin", stage="ingest"))
        starting = capsys.readouterr().err
        emit(Event(kind="end", stage="ingest", text="0.0 s"))
        time.sleep(0.3)
        emit(Event(kind="begin", stage="plan"))
        deadline = time.monotonic() + 30
        said = ""
        while said.count("at work, 0 s so far") < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
            said += capsys.readouterr().err
        emit(Event(kind="end", stage="plan", text="0.5 s"))
    assert "start" in starting
    assert "at work" in starting
    lines = [line for line in said.splitlines() if "at work" in line]
    assert len(lines) >= 2
    assert all("plan" in line for line in lines), "nothing is at work between stages"


def test_progress_without_a_terminal_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((10.0, 10.0, 12.0, 16.0, 16.0))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock, 17.0))
    with Terminal() as shown:
        for done in (1, 2, 3, 4):
            shown.show(Event(kind="progress", stage="render", done=done, total=4, fps=12.34))
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert [line[2] for line in lines] == ["1/4,", "3/4,", "4/4,"], "the second came too soon, the last always comes"
    assert lines[0][-2:] == ["12.3", "frames/s"]


def test_lines_are_json_where_the_environment_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEAVATAR_LOG", "json")
    with Terminal() as shown:
        emit(Event(kind="begin", stage="enhance"))
        emit(Event(kind="end", stage="enhance", text="0.5 s"))
        for done in (1, 2, 4):
            emit(Event(kind="progress", stage="render", done=done, total=4, fps=12.345))
        logging.getLogger("liveavatar.load").warning("slow")
        shown.note("prefect", "an address")
    complain("liveavatar: no sound")
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.err.splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [
        *(("info", "enhance: begin"), ("info", "enhance: 0.5 s")),
        *(("info", "render: progress"), ("info", "render: progress")),
        *(("warning", "slow"), ("info", "an address"), ("error", "liveavatar: no sound")),
    ]
    assert lines[1]["cached"] is False
    assert (lines[3]["block"], lines[3]["blocks"], lines[3]["fps"]) == (4, 4, 12.35)
    assert lines[4]["logger"] == "liveavatar.load"


def test_results_and_complaints(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\nb")
    complain("one\n   line")
    assert capsys.readouterr() == ("a\nb\n", "one line\n")


def test_text_from_a_file_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("one\t\x1b[2J\ntwo \u202e")
    complain("a\x07b")
    with Terminal() as shown:
        shown.note("publish", "\x1b]0;title\x07")
    captured = capsys.readouterr()
    assert captured.out == "one\t\\x1b[2J\ntwo \\u202e\n"
    assert captured.err.splitlines() == ["a\\x07b", "  publish    \\x1b]0;title\\x07"]


def test_memory_stands_beside_the_speed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    event = Event(kind="progress", stage="render", done=4, total=4, fps=20.0, memory=(MemoryReading(1.24, 3.1, 16.0),))
    with Terminal() as shown:
        shown.show(event)
    assert "20.0 frames/s, 1.2 GB; machine 3.1 of 16.0 GB" in capsys.readouterr().err
    monkeypatch.setenv("LIVEAVATAR_LOG", "json")
    with Terminal() as shown:
        shown.show(event)
    assert json.loads(capsys.readouterr().err)["memory"][0]["process"] == 1.24


def test_a_terminal_of_no_stage_shows_warnings_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "SILENCE_SECONDS", 0.05)
    with Terminal(stage=""):
        time.sleep(0.5)
        logging.getLogger("flows.serving.lost_runs").warning("run anna: its process is gone")
    assert capsys.readouterr().err.split(None, 1)[1] == "run anna: its process is gone\n"
