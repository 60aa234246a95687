"""Whole commands for the soak: their job, their processes, and what an undisturbed one makes.

Every run has a home of its own. Its processes are known by that home in their environment, so that one which lost its
parent is found as well.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from scipy.io import wavfile

from liveavatar import paths
from tests.soak.case import STAGES
from tests.soak.damage import stray

RATE = 16_000
BLOCKS = 24
FRAMES = 12 * BLOCKS - 7
WAIT_SECONDS = 500.0  # for a command to end
POLL_SECONDS = 0.01
END_SECONDS = 5.0  # for a command to end after SIGTERM or Ctrl-C, on processors of its own
GONE_SECONDS = 5.0  # after a command has ended, nothing of it is left; on processors of its own as well
STORY_CHARACTERS = 3000  # of what a process wrote
NAME_CHARACTERS = 120  # of a process that is left
RENDERS = "live while it renders"
COMPARED = ("video.mp4", "latents.bin", "frames.parquet")  # the other table has the times of the blocks
PASSED_OR_FAILED = (0, 1)  # exit codes of a render that came to its end
ENDS = re.compile(r"^ *(\w+) +(?:cached|([\d.]+) s)$", re.MULTILINE)  # the line of a finished stage
MARKS = {  # part of the command line of a process, by its kind
    "raylet": "/raylet/raylet",
    "gcs": "/gcs/gcs_server",
    "actor": "ray::EngineActor",
    "rank": "ray::RankActor",
    "server": "flows.serving.gate",
    "encoder": "ffmpeg-linux",
    "guardian": "guardian.py",
    "isolation": "liveavatar.isolation.worker",
    "agent": "ray::DashboardAgent",
}


class Wrong(AssertionError):
    """A run did not end as it must."""


@dataclass(kw_only=True)
class Command:
    """A running command."""

    home: Path
    out: Path
    process: "subprocess.Popen[bytes]"
    story: Path  # its standard error
    crowd: float = 1.0  # commands for each share of the processors
    began: float = field(default_factory=time.monotonic)

    def errors(self) -> str:
        """Return its standard error so far."""
        return self.story.read_text(errors="replace")

    def ended(self) -> int:
        """Return the exit code, once the command has ended."""
        try:
            return self.process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired as e:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise Wrong(f"the command did not end within {WAIT_SECONDS:.0f} s") from e

    @property
    def runs(self) -> bool:
        """True until it has ended."""
        return self.process.poll() is None

    @property
    def stage(self) -> str:
        """The stage it is in."""
        story = self.errors()
        done = [name for name, _ in ENDS.findall(story) if name in STAGES]
        if RENDERS in story and "render" not in done:
            return "render"
        if not done:
            return "start"
        return STAGES[min(STAGES.index(done[-1]) + 1, len(STAGES) - 1)]

    def reaches(self, stage: str) -> bool:
        """Wait for a stage; False when the command ends before."""
        while self.runs:
            if STAGES.index(self.stage) >= STAGES.index(stage):
                return True
            time.sleep(POLL_SECONDS)
        return False

    def processes(self, kind: str) -> list[psutil.Process]:
        """Find its processes of a kind."""
        if kind == "driver":
            return [psutil.Process(self.process.pid)] if self.runs else []
        found = []
        with suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    if MARKS[kind] in " ".join(process.cmdline()):
                        found.append(process)
        return found

    def await_process(self, kind: str) -> psutil.Process | None:
        """Wait for a process of a kind; None when the command ends before there is one."""
        while True:
            found = self.processes(kind)
            if found:
                return found[-1]
            if not self.runs:
                return None
            time.sleep(POLL_SECONDS)

    def begun(self) -> bool:
        """Wait until it has a handler of SIGTERM: before, Python is loading. False when it ends without."""
        status = Path(f"/proc/{self.process.pid}/status")
        while self.runs:
            with suppress(OSError):
                caught = int(status.read_text().split("SigCgt:")[1].split()[0], 16)
                if caught >> (signal.SIGTERM - 1) & 1:
                    return True
            time.sleep(POLL_SECONDS)
        return False

    def resumed_at(self) -> int | None:
        """Return the block at which the render was resumed."""
        found = re.search(r"resumed at block (\d+)", self.errors())
        return int(found[1]) if found else None

    def check_gone(self) -> None:
        """Check that none of its processes is left."""
        seconds = GONE_SECONDS * self.crowd
        deadline = time.monotonic() + seconds
        while left := processes_of(self.home):
            if time.monotonic() > deadline:
                raise Wrong(f"left behind after {seconds:.0f} s: {list(left.values())}")
            time.sleep(POLL_SECONDS)


@dataclass(kw_only=True)
class Job:
    """A job, and the products of an undisturbed command."""

    folder: Path
    model_dir: Path
    crowd: float = 1.0  # commands for each share of the processors: lanes may have some of them in common
    seconds: dict[str, float] = field(init=False)  # of each stage
    code: int = field(init=False)
    expected: dict[str, str] = field(init=False)
    template: Path = field(init=False)  # home of the undisturbed command
    published: Path = field(init=False)  # its output folder
    _piped: dict[str, str] = field(default_factory=dict)
    _piped_lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Make the inputs, and the undisturbed run."""
        rng = np.random.default_rng(0)
        sound = rng.normal(scale=0.1, size=RATE * FRAMES // 25) * np.sin(np.arange(RATE * FRAMES // 25) / 2000) ** 2
        wavfile.write(self.folder / "said.wav", RATE, sound.astype(np.float32))
        (self.folder / "said.pcm").write_bytes((sound * 32_767).clip(-32_767, 32_767).astype("<i2").tobytes())
        rough = Image.fromarray(rng.integers(0, 255, (24, 16, 3), dtype=np.uint8))
        rough.resize((256, 384)).save(self.folder / "portrait.png")
        undisturbed = self.start("undisturbed")
        self.code = undisturbed.ended()
        took = time.monotonic() - undisturbed.began
        if self.code not in PASSED_OR_FAILED:
            raise Wrong(undisturbed.errors())
        self.expected = digests(undisturbed.out)
        self.seconds = {name: float(s or 0) for name, s in ENDS.findall(undisturbed.errors())}
        self.seconds["start"] = max(2.0, took - sum(self.seconds.values()) - 4)  # its end takes some of it, too
        self.template = undisturbed.home
        self.published = undisturbed.out

    @property
    def piped(self) -> dict[str, str]:
        """Digests of the undisturbed command whose sound arrives on standard input."""
        with self._piped_lock:
            if not self._piped:
                self.home("undisturbed-pipe")
                command = self.start("undisturbed-pipe", piped=True)
                if command.ended() not in PASSED_OR_FAILED:
                    raise Wrong(command.errors())
                self._piped |= digests(command.out)
            return self._piped

    def home(self, name: str, *, fresh: bool = False, store: bool = False) -> Path:
        """Make a home: empty, or as an earlier command left it, with what it made or without."""
        home = self.folder / f"home-{name}"
        if not fresh:
            left_out = ("work", "run", "*.lock") if store else ("work", "run", "store")
            shutil.copytree(self.template, home, ignore=shutil.ignore_patterns(*left_out), copy_function=link_or_copy)
        return home

    def start(
        self,
        name: str,
        number: int = 0,
        *,
        ranks: int = 1,
        resume: bool = False,
        piped: bool = False,
        out: Path | None = None,
        module: tuple[str, ...] = ("-m", "flows.cli"),
        tmp: Path | None = None,
    ) -> Command:
        """Start a render; commands with one name share home and output folder.

        Args:
            name: of the run.
            number: of the command.
            ranks: processes that share the steps.
            resume: whether it is given `--resume`.
            piped: whether the sound arrives on standard input.
            out: output folder; that of the run when absent.
            module: arguments of Python before the command line.
            tmp: folder of temporary files.
        """
        home, folder = self.folder / f"home-{name}", self.folder / f"out-{name}"
        out, story = out or folder / "film", self.folder / f"story-{name}-{number}"
        job = ["render", "--audio", "-" if piped else self.folder / "said.wav"]
        job += ["--image", self.folder / "portrait.png", "--prompt", "a calm woman", "--model", self.model_dir]
        job += ["--whisper", "off", "--denoise", "off", "--enable-online-decode", "--out", out]
        job += ["--resume"] if resume else []
        job += ["--placement", "tpp", "--num_gpus", ranks] if ranks > 1 else []
        environment = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("PREFECT_", "RAY_", "COV_", "LIVEAVATAR_")) or k == "LIVEAVATAR_WHISPER"
        }
        environment |= {"LIVEAVATAR_HOME": str(home)} | ({"TMPDIR": str(tmp)} if tmp else {})
        with story.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, *module, *map(str, job)], env=environment, cwd=paths.REPO_ROOT, stderr=errors,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        if piped:
            threading.Thread(target=speak, args=(process, self.folder / "said.pcm"), daemon=True).start()
        return Command(home=home, out=out, process=process, story=story, crowd=self.crowd)

    def check(self, command: Command, *, piped: bool = False) -> None:
        """Check that the output folder is whole and holds what it should."""
        missing = [name for name in (*COMPARED, "manifest.json") if not (command.out / name).is_file()]
        if missing:
            there = sorted(path.name for path in command.out.glob("*"))
            raise Wrong(f"the output folder has no {missing}, only {there}")
        made, expected = digests(command.out), self.piped if piped else self.expected
        wrong = [name for name in COMPARED if made[name] != expected[name]]
        if wrong:
            raise Wrong(f"not those of the undisturbed command: {wrong}")
        manifest = json.loads((command.out / "manifest.json").read_text())
        for name, sha in manifest["outputs"].items():
            if hashlib.sha256((command.out / name).read_bytes()).hexdigest() != sha:
                raise Wrong(f"{name} is not the file of the manifest")
        if stray(command.out, command.home):
            raise Wrong(f"left behind: {stray(command.out, command.home)}")


def link_or_copy(source: str, target: str) -> None:
    """Copy a file; weights, which nobody changes, are linked."""
    if source.endswith(".pt") and "store" not in source:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def speak(process: "subprocess.Popen[bytes]", pcm: Path) -> None:
    """Write sound to a command as it takes it, and close the pipe."""
    with suppress(OSError):  # the command has ended
        assert process.stdin is not None
        process.stdin.write(pcm.read_bytes())
        process.stdin.close()


def processes_of(home: Path) -> dict[int, str]:
    """Find the processes whose environment has a home, with the start of their command lines."""
    mark, found = f"LIVEAVATAR_HOME={home}".encode(), {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(entry.name)] = line[:NAME_CHARACTERS]
    return found


def tail(path: Path) -> str:
    """Return the end of a text file."""
    return path.read_text(errors="replace")[-STORY_CHARACTERS:]


def digests(out: Path) -> dict[str, str]:
    """Return the digests of what every run must make alike."""
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in COMPARED}
