"""One run of the soak on a whole command: strike, see how it ends, run it again where it had to end, compare.

A command that something of its own was taken from ends as if nothing had happened, or with a refusal of the contract
(2, 3 or 4, one line); then the same command, given again, makes the video. One that is killed leaves nothing running.
"""

import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from tests.soak.case import DISKS, FINISHED_FILES, FOR_GOOD, OUT_FILES, WORK_FILES, Case
from tests.soak.commands import (
    END_SECONDS,
    PASSED_OR_FAILED,
    POLL_SECONDS,
    RENDERS,
    STORY_CHARACTERS,
    WAIT_SECONDS,
    Command,
    Job,
    Wrong,
    processes_of,
    tail,
)
from tests.soak.damage import SNAPSHOTS, damage, files_of
from tests.soak.disk import small_disk

SIGNALS = {
    "kill -9": signal.SIGKILL,
    "SIGTERM": signal.SIGTERM,
    "Ctrl-C": signal.SIGINT,
    "SIGSTOP": signal.SIGSTOP,
    FOR_GOOD: signal.SIGSTOP,
}
REFUSALS = (2, 3, 4)  # exit codes
NO_ROOM, INTERRUPTED = 3, 4  # exit codes
STOPPED_SECONDS = (2.0, 8.0)  # of a process that goes on again
TMP_BYTES, ROOMY_BYTES, TABLE_BYTES = 60_000_000, 2_000_000_000, 400_000_000
PAGE = 4096  # bytes

Facts = dict[str, Any]


class Missed(Exception):
    """The fault did not strike: the command was past it."""


@dataclass(kw_only=True)
class Runner:
    """Makes runs of one job."""

    job: Job
    keep: bool = False  # the folders of runs that went wrong

    def run(self, case: Case) -> Facts:
        """Make a run; `outcome` is survived, again (a second command made the film), missed or failed."""
        started, name = time.monotonic(), str(case.run)
        try:
            facts = self._kind(case)(case, name)
        except Missed as e:
            facts = {"outcome": "missed", "problem": str(e)}
        except Exception as e:  # noqa: BLE001 (each is a fault to report)
            stories = sorted(self.job.folder.glob(f"story-{name}-*"))
            told = [f"{path.name}: {tail(path)}" for path in stories]
            problem = str(e) if isinstance(e, Wrong) else traceback.format_exc()[-STORY_CHARACTERS:]
            facts = {"outcome": "failed", "problem": problem, "stories": told}
        self._tidy(name, keep=self.keep and facts["outcome"] == "failed")
        return {**case.facts(), **facts, "seconds": round(time.monotonic() - started, 1)}

    def _kind(self, case: Case) -> Callable[[Case, str], Facts]:
        if case.fault in SIGNALS and case.commands == 1:
            return self._signal
        if case.commands > 1:
            return self._together
        if case.fault == "disk full":
            return self._disk
        if case.fault == "no space for a table":
            return self._table
        if case.fault == "clock jumps":
            return self._clock
        return self._damage

    def _tidy(self, name: str, *, keep: bool) -> None:
        home = self.job.folder / f"home-{name}"
        for pid in processes_of(home):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not keep:
            for path in (home, self.job.folder / f"out-{name}"):
                shutil.rmtree(path, ignore_errors=True)
            for story in self.job.folder.glob(f"story-{name}-*"):
                story.unlink()

    def _signal(self, case: Case, name: str) -> Facts:
        """Send a signal to a process of the command at a moment of a stage."""
        self.job.home(name, fresh=case.fresh)
        command = self.job.start(name, ranks=case.ranks, piped=case.piped)
        if not command.reaches(case.stage):
            raise Missed("the command had ended")
        time.sleep(case.moment * self.job.seconds.get(case.stage, 1.0))
        victim = command.await_process(case.target)
        if victim is None or (case.target == "driver" and not command.begun()):
            raise Missed(f"there was no {case.target} any more")
        struck_in, struck = command.stage, time.monotonic()
        try:
            self._send(case, command, victim)
        except psutil.NoSuchProcess as e:
            raise Missed(f"the {case.target} had just ended") from e
        code = command.ended()
        facts = {"struck_in": struck_in, "code": code, "ended_s": round(time.monotonic() - struck, 1)}
        command.check_gone()
        self._judge(case, code, facts["ended_s"])
        return {**facts, **self._film(case, command, name, code)}

    def _send(self, case: Case, command: Command, victim: psutil.Process) -> None:
        if case.fault == "Ctrl-C" and case.target == "driver":
            os.killpg(command.process.pid, signal.SIGINT)  # as a terminal does
            return
        victim.send_signal(SIGNALS[case.fault])
        if case.fault == "SIGSTOP":
            least, most = STOPPED_SECONDS
            time.sleep(least + case.moment * (most - least))
            victim.send_signal(signal.SIGCONT)

    def _judge(self, case: Case, code: int, ended_s: float) -> None:
        """Check the exit code of a struck command."""
        if code in PASSED_OR_FAILED:
            return
        if case.target != "driver":
            if code not in REFUSALS:
                raise Wrong(f"exit code {code}")
        elif case.fault == "kill -9":
            if code != -signal.SIGKILL:
                raise Wrong(f"exit code {code}")
        elif case.fault == "SIGSTOP" or code != INTERRUPTED:
            raise Wrong(f"exit code {code}")
        elif ended_s > END_SECONDS * self.job.crowd:
            raise Wrong(f"{case.fault} ended the command after {ended_s} s")

    def _film(self, case: Case, command: Command, name: str, code: int) -> Facts:
        """Check the film of a command that came to its end; else run it again for it."""
        if "Traceback" in command.errors():
            raise Wrong("a traceback on the terminal")
        if code in PASSED_OR_FAILED:
            if code != self.job.code:
                raise Wrong(f"exit code {code}")
            self.job.check(command, piped=case.piped)
            return {"outcome": "survived", "resumed_at": command.resumed_at()}
        if code in REFUSALS and not command.errors().splitlines()[-1].startswith("liveavatar: "):
            raise Wrong("no line says why it ended")
        if command.out.exists():
            self.job.check(command, piped=case.piped)
        if case.piped:
            return {"outcome": "ended", "resumed_at": None}
        return self._again(case, name)

    def _again(self, case: Case, name: str, number: int = 9) -> Facts:
        """Run the same command again, to its end."""
        again = self.job.start(name, number, ranks=case.ranks, resume=case.resume)
        code = again.ended()
        if code != self.job.code:
            raise Wrong(f"run again: exit code {code}")
        self.job.check(again)
        again.check_gone()
        return {"outcome": "again", "resumed_at": again.resumed_at()}

    def _damage(self, case: Case, name: str) -> Facts:
        """Damage a file that is kept, while no command runs; the next one notices and makes the video."""
        home, in_work = self.job.folder / f"home-{name}", case.target in (*WORK_FILES, *FINISHED_FILES)
        self.job.home(name, store=not in_work)
        out = self.job.folder / f"out-{name}" / "film"
        if in_work:
            self._lose(case, name)
        if case.target in OUT_FILES:
            shutil.copytree(self.job.published, out)
        found = files_of(case.target, home, out, case.moment)
        if not found:
            raise Missed(f"there is no file of the kind {case.target}")
        for path in found:
            damage(path, case.fault, case.moment)
        return self._again(replace(case, resume=in_work, ranks=case.ranks if in_work else 1), name)

    def _lose(self, case: Case, name: str) -> None:
        """Run a command and kill it while it renders, or when the render has just ended."""
        command = self.job.start(name, ranks=case.ranks)
        pattern = "work/*/finished.json" if case.target in FINISHED_FILES else SNAPSHOTS
        while command.runs and not list(command.home.glob(pattern)):
            time.sleep(POLL_SECONDS / 10)
        if case.target in WORK_FILES:
            time.sleep(case.moment * self.job.seconds["render"] / 3)
        command.process.kill()
        command.ended()
        command.check_gone()
        if not list(command.home.glob(pattern)):
            raise Missed("the command was past it")

    def _disk(self, case: Case, name: str) -> Facts:
        """Run a command on a disk that gets full; then the disk grows, and it runs again."""
        assert case.target in DISKS
        home, out = self.job.folder / f"home-{name}", self.job.folder / f"out-{name}" / "film"
        folder = {"home": home, "out": out.parent, "tmp": self.job.folder / f"t{name}"}[case.target]
        folder.mkdir(parents=True)
        store = size_of(self.job.template / "store")
        room = {
            "home": size_of(self.job.template) - store + int(case.moment * 2 * store),
            "out": int(case.moment * 1.5 * size_of(self.job.published)),
            "tmp": int(case.moment * TMP_BYTES),
        }[case.target]
        try:
            with small_disk(folder, room + PAGE) as grow:
                if case.target == "home":
                    self._furnish(home)
                else:
                    self.job.home(name)
                tmp = folder if case.target == "tmp" else None
                command = self.job.start(name, ranks=case.ranks, tmp=tmp)
                code = command.ended()
                command.check_gone()
                if code not in (*PASSED_OR_FAILED, NO_ROOM):
                    raise Wrong(f"exit code {code}")
                grow(ROOMY_BYTES)
                return {"code": code, "room": room, **self._film(case, command, name, code)}
        except PermissionError as e:
            raise Missed(f"no small disk can be mounted ({e})") from e
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _furnish(self, home: Path) -> None:
        """Copy the template into a home that exists."""
        made = self.job.home(f"{home.name}-made")
        shutil.copytree(made, home, dirs_exist_ok=True)
        shutil.rmtree(made)

    def _table(self, case: Case, name: str) -> Facts:
        """Write a table on a disk that is really full; the space comes back, and the command runs again."""
        home, table, room = self.job.home(name), int(case.moment * 2), PAGE * (case.run % 2)
        store = home / "store"
        store.mkdir()
        try:
            with small_disk(store, TABLE_BYTES):
                module = ("-m", "tests.soak.wrapped", "table", str(store / "ballast"), str(table), str(room), "--")
                full = self.job.start(name, module=module)
                code = full.ended()
                if code != NO_ROOM or "disk is full" not in full.errors().splitlines()[-1]:
                    raise Wrong(f"exit code {code}")
                full.check_gone()
                if full.out.exists() or list(store.glob("building/*")) or list(store.glob("quality/*/*")):
                    raise Wrong("half-written files stay")
                (store / "ballast").unlink()
                facts = {"code": code, **self._again(case, name)}
                if RENDERS in (self.job.folder / f"story-{name}-9").read_text():
                    raise Wrong("blocks were rendered again")
                return facts
        except PermissionError as e:
            raise Missed(f"no small disk can be mounted ({e})") from e

    def _clock(self, case: Case, name: str) -> Facts:
        self.job.home(name, fresh=case.fresh)
        module = ("-m", "tests.soak.wrapped", "clock", "--")
        command = self.job.start(name, ranks=case.ranks, module=module)
        code = command.ended()
        command.check_gone()
        return {"code": code, **self._film(case, command, name, code)}

    def _together(self, case: Case, name: str) -> Facts:
        """Give the same render several times at one moment; the one that renders may be killed."""
        self.job.home(name, fresh=case.fresh)
        folder, one_out = self.job.folder / f"out-{name}", case.run % 2 == 0
        outs = [folder / ("film" if one_out else f"{number}/film") for number in range(case.commands)]
        every = [self.job.start(name, number, ranks=case.ranks, out=out) for number, out in enumerate(outs)]
        facts: Facts = {"outcome": "survived", "resumed_at": None}
        if case.target != "none":
            victim = self._rendering(every)
            time.sleep(case.moment * self.job.seconds["render"] / 2)
            struck = time.monotonic()
            victim.process.send_signal(SIGNALS[case.target])
            code = victim.ended()
            facts |= {"code": code, "ended_s": round(time.monotonic() - struck, 1), "outcome": "again"}
            self._judge(replace(case, fault=case.target, target="driver"), code, facts["ended_s"])
            if code in PASSED_OR_FAILED:
                raise Missed("the command had ended")
            every.remove(victim)
        for command in every:
            code = command.ended()
            if code != self.job.code:
                raise Wrong(f"one of {case.commands} commands: exit code {code}")
            self.job.check(command)
            facts["resumed_at"] = command.resumed_at() or facts["resumed_at"]
        every[0].check_gone()
        if case.target == "none" and sum(RENDERS in command.errors() for command in every) != 1:
            raise Wrong("the film was rendered more than once")
        return facts

    def _rendering(self, every: list[Command]) -> Command:
        """Wait for the command that renders."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline and any(command.runs for command in every):
            for command in every:
                if command.runs and command.stage == "render" and RENDERS in command.errors():
                    return command
            time.sleep(POLL_SECONDS)
        raise Missed("none of the commands rendered")


def size_of(folder: Path) -> int:
    """Count the bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
