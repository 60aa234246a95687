"""Progress of a command on standard error: one line a stage, a bar while blocks are made."""

import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from flows import streams
from flows.json_log import json_line
from liveavatar import paths
from liveavatar.engine.memory import in_words
from liveavatar.errors import CapacityError, InputError, printable
from tasks import events
from tasks.events import Event

PLAIN_SECONDS = 5.0  # between two lines of progress where there is no terminal
SILENCE_SECONDS = 12.0  # without a line, after which one says what is at work
OUR_LOGGERS = ("flows", "tasks", "liveavatar")


class _Lines(logging.Handler):
    """Shows log records of our packages as lines."""

    def __init__(self, terminal: "Terminal") -> None:
        super().__init__(logging.WARNING)
        self.terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        if self.terminal.as_json:
            self.terminal.write(json_line(record.levelname, record.getMessage(), logger=record.name))
        else:
            self.terminal.note(record.name.rsplit(".", 1)[-1], record.getMessage())


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Say so, where rich ends the program with code 1, that of a failed quality."""
        raise BrokenPipeError


class Terminal:
    """Context manager that shows events and warnings until it is left, as `LIVEAVATAR_LOG` says: text or JSON.

    Once a line cannot be written it is silent: the reader has gone, not the work.
    """

    def __init__(self, stage: str = "start") -> None:
        """Prepare the output.

        Args:
            stage: what is at work until an event names another stage; a flow's Prefect server and Ray start.
        """
        self.as_json = paths.log_format() == "json"
        self._lines = _Lines(self)
        self.console = _Console(stderr=True, highlight=False, soft_wrap=True)
        self._listening = events.listening(self.show)
        self._bar: Progress | None = None
        self._silent = False
        self._shown = 0.0
        self._stage, self._begun = stage, 0.0  # the stage that began last and has not ended
        self._heard = 0.0  # when the last line was written
        self._left = threading.Event()
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Terminal":
        self._listening.__enter__()
        self._begun = self._heard = time.perf_counter()
        for name in OUR_LOGGERS:
            logging.getLogger(name).addHandler(self._lines)
        threading.Thread(target=self._break_silence, name="terminal", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._left.set()
        self._close_bar()
        for name in OUR_LOGGERS:
            logging.getLogger(name).removeHandler(self._lines)
        self._listening.__exit__(kind, error, tb)

    def show(self, event: Event) -> None:
        """Show one event."""
        if event.kind == "begin":
            self._stage, self._begun = event.stage, time.perf_counter()
            self._heard = self._begun
        elif event.kind == "end" and event.stage == self._stage:
            self._stage = ""
        with self._while_heard():
            if self.as_json:
                self._log(event)
            elif event.kind == "progress":
                self._advance(event)
            elif event.kind == "end":
                self._close_bar()
                self.note(event.stage, "cached" if event.cached else event.text)
            elif event.kind == "note":
                self.note(event.stage, event.text)

    def note(self, stage: str, text: str) -> None:
        """Show a line."""
        if self.as_json:
            self.write(json_line("info", text, stage=stage))
            return
        self._heard = time.perf_counter()
        with self._while_heard():
            self.console.print(f"  {stage:<10} {printable(text)}", markup=False)

    def write(self, line: str) -> None:
        """Write a line of JSON."""
        self._heard = time.perf_counter()
        with self._while_heard():
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def _break_silence(self) -> None:
        """Say that a stage is at work when nothing was said for long; a bar speaks for itself."""
        while not self._left.wait(SILENCE_SECONDS / 12):
            now, stage = time.perf_counter(), self._stage
            if stage and self._bar is None and now - self._heard > SILENCE_SECONDS:
                self.note(stage, f"at work, {now - self._begun:.0f} s so far")

    @contextmanager
    def _while_heard(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            if not self._silent:
                self._silent = True
                self.console.quiet = True
                streams.lose("stderr")

    def _log(self, event: Event) -> None:
        """Write an event as JSON; of progress a line now and then."""
        blocks: dict[str, Any] = {}
        if event.kind == "progress":
            if not self._is_due(event):
                return
            blocks = {"block": event.done, "blocks": event.total, "fps": round(event.fps, 2)}
            blocks |= {"memory": [asdict(reading) for reading in event.memory]} if event.memory else {}
        cached = event.cached if event.kind == "end" else None
        text = f"{event.stage}: {event.text or event.kind}"
        self.write(json_line("info", text, event=event.kind, stage=event.stage, cached=cached, **blocks))

    def _is_due(self, event: Event) -> bool:
        """Tell if progress is to be said: seconds after the last time, and at the end."""
        if event.done < event.total and time.monotonic() - self._shown <= PLAIN_SECONDS:
            return False
        self._shown = time.monotonic()
        return True

    def _advance(self, event: Event) -> None:
        if not self.console.is_terminal:
            if self._is_due(event):
                memory = f", {in_words(event.memory)}" if event.memory else ""
                self.note(event.stage, f"block {event.done}/{event.total}, {event.fps:.1f} frames/s{memory}")
            return
        if self._bar is None:
            columns = (
                TextColumn("  {task.description:<10}"),
                BarColumn(),
                TextColumn("block {task.completed}/{task.total}  {task.fields[fps]:.1f} frames/s"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[memory]}"),
            )
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
        if event.stage not in self._tasks:
            self._tasks[event.stage] = self._bar.add_task(event.stage, total=event.total, fps=event.fps, memory="")
        task = self._tasks[event.stage]
        self._bar.update(task, completed=event.done, fps=event.fps, memory=in_words(event.memory))

    def _close_bar(self) -> None:
        if self._bar is not None:
            bar, self._bar = self._bar, None
            with self._while_heard():
                bar.stop()
            self._tasks.clear()


def say(text: str) -> None:
    """Write lines of result to standard output, unless its reader has gone.

    Raises:
        CapacityError: they cannot be written.
    """
    lines = "".join(part if part in "\t\n" else printable(part) for part in re.split(r"([\t\n])", text))
    try:
        sys.stdout.write(lines + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        streams.lose("stdout")
    except OSError as e:
        streams.lose("stdout")
        raise CapacityError(f"standard output cannot be written ({e.strerror}); name another place for it") from e


def complain(text: str) -> None:
    """Write one line to standard error."""
    line = printable(" ".join(text.split()))
    try:
        sys.stderr.write((json_line("error", line) if _logs_json() else line) + "\n")
        sys.stderr.flush()
    except OSError:
        streams.lose("stderr")  # the exit code still tells


def _logs_json() -> bool:
    """Tell if lines are JSON; no where the variable holds another word, which is then the error that is said."""
    with suppress(InputError):
        return paths.log_format() == "json"
    return False
