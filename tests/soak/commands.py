"""Faults of whole commands, for the soak: the same render asked for twice at one moment, tables that find no space.

Each run has a home of its own, so that the two commands also meet while the first files of a home are made. Films,
latents and tables must be those of an undisturbed command, byte for byte.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from scipy.io import wavfile

from liveavatar import paths

COMMAND_FAULTS = ("twice", "twice killed", "parquet", "server", "raylet", "encoder", "guardian")
HELPERS = {  # part of the command line of a process that a command starts
    "server": "flows.serving.gate",
    "raylet": "/raylet/raylet",
    "encoder": "ffmpeg",
    "guardian": "guardian.py",
}
LOST = {  # the line that names the loss
    "server": "the Prefect server was killed (signal 9); another one takes its place",
    "raylet": "the local Ray was lost; another one resumes from the last snapshot",
    "guardian": "the guardian of the local Ray was killed; another one takes its place",
}
RATE = 16_000
BLOCKS = 30
FRAMES = 12 * BLOCKS - 7
WAIT_SECONDS = 240.0
STORE_BYTES = 64_000_000
RENDERS = "live while it renders"
WAITS = "another run is making this render"
COMPARED = ("video.mp4", "latents.bin", "frames.parquet")  # the other table has the times of the blocks
STAGES = ("ingest", "enhance", "features", "prompt", "plan", "render", "quality", "publish")
SOON = 0.02  # seconds
DISK_FULL = 3  # exit code
PAGE = 4096  # bytes
MOST_LINES = 30  # of a command's story


@dataclass(kw_only=True)
class Command:
    """A running command."""

    home: Path
    out: Path
    process: "subprocess.Popen[bytes]"
    story: Path  # its standard error

    def errors(self) -> str:
        """Return its standard error so far."""
        return self.story.read_text()

    def ended(self) -> int:
        """Return the exit code, once the command has ended."""
        return self.process.wait(WAIT_SECONDS)


@dataclass(kw_only=True)
class Commands:
    """A job, and the products of an undisturbed command."""

    folder: Path
    model_dir: Path
    expected: dict[str, str] = field(init=False)
    expected_code: int = field(init=False)

    def __post_init__(self) -> None:
        """Make the inputs, and the undisturbed run."""
        rng = np.random.default_rng(0)
        sound = rng.normal(scale=0.1, size=RATE * FRAMES // 25) * np.sin(np.arange(RATE * FRAMES // 25) / 2000) ** 2
        wavfile.write(self.folder / "said.wav", RATE, sound.astype(np.float32))
        rough = Image.fromarray(rng.integers(0, 255, (24, 16, 3), dtype=np.uint8))
        rough.resize((256, 384)).save(self.folder / "portrait.png")
        undisturbed = self.start("undisturbed")
        self.expected_code = undisturbed.ended()
        assert self.expected_code in (0, 1), undisturbed.errors()
        self.expected = digests(undisturbed.out)

    def start(self, name: str, number: int = 0, *wrapper: str) -> Command:
        """Start a render; commands with one name share home and output folder."""
        home, out, story = (self.folder / f"{kind}-{name}" for kind in ("home", "out", "story"))
        story = story.with_name(f"{story.name}-{number}")
        module = wrapper or ("-m", "flows.cli")
        job = ["render", "--audio", self.folder / "said.wav", "--image", self.folder / "portrait.png"]
        job += ["--prompt", "a calm woman", "--model", self.model_dir, "--whisper", "off", "--denoise", "off"]
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RAY_", "LIVEAVATAR_", "COV_"))
        }
        with story.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, *module, *map(str, job), "--enable-online-decode", "--out", str(out / "film")],
                env={**environment, "LIVEAVATAR_HOME": str(home)}, cwd=paths.REPO_ROOT,
                stdout=subprocess.DEVNULL, stderr=errors,
            )  # fmt: skip
        return Command(home=home, out=out / "film", process=process, story=story)

    def run(self, index: int, fault: str, moment: int) -> dict[str, Any]:
        """Run a command with a fault and compare its products.

        Args:
            index: of the run.
            fault: one of `COMMAND_FAULTS`.
            moment: how late one is killed, or which table finds no space, and how little.

        Raises:
            AssertionError: something else than the undisturbed run came out, or the fault never struck.
        """
        started = time.monotonic()
        if fault in HELPERS:
            more = self._lose(index, fault, moment)
        elif fault == "parquet":
            more = self._tables(index, moment)
        else:
            more = self._twice(index, "killed" in fault, moment)
        return {"run": index, "fault": fault, "moment": moment, **more, "seconds": round(time.monotonic() - started, 1)}

    def _twice(self, index: int, kill: bool, moment: int) -> dict[str, Any]:
        both = [self.start(f"run-{index}", number) for number in range(2)]
        if kill:
            victim = self._rendering(both)
            time.sleep(SOON * moment)
            unfinished = not list(victim.home.glob("work/*/finished.json"))
            victim.process.kill()
            assert victim.ended() < 0, "the fault never struck"
            assert unfinished, "the fault never struck"
            assert not victim.out.exists(), "a run that did not end publishes nothing"
            both.remove(victim)
        for command in both:
            assert command.ended() == self.expected_code, command.errors()
        stories = [command.errors() for command in both]
        assert sum(RENDERS in story for story in stories) == 1, stories
        if not kill:
            for stage in STAGES:
                cached = [bool(re.search(rf"^ *{stage} +cached$", story, re.MULTILINE)) for story in stories]
                assert sum(cached) == 1, (stage, stories)
            assert not list(both[0].home.glob("store/building/*")), "half-built entries"
        self._check(both[0])
        resumed = re.search(r"resumed at block (\d+)", stories[0])
        assert bool(resumed) == kill, stories
        return {"resumed_at": int(resumed[1]) if resumed else None, "waited": sum(WAITS in story for story in stories)}

    def _lose(self, index: int, helper: str, moment: int) -> dict[str, Any]:
        """Kill a process that a command has started, while it renders; the command ends as if nothing had happened."""
        command = self.start(f"run-{index}-{helper}")
        deadline = time.monotonic() + WAIT_SECONDS
        while not list(command.home.glob("work/*/snapshots/*.safetensors")):
            assert command.process.poll() is None, command.errors()
            assert time.monotonic() < deadline, command.errors()
            time.sleep(SOON)
        time.sleep(SOON * moment)
        victims = [p for p in psutil.Process(command.process.pid).children(recursive=True) if is_helper(p, helper)]
        unfinished = not list(command.home.glob("work/*/finished.json"))
        for victim in victims:
            victim.kill()
        assert victims, "the fault never struck"
        assert unfinished, "the fault never struck"
        assert command.ended() == self.expected_code, command.errors()
        self._check(command)
        story = command.errors()
        assert story.count(LOST.get(helper, RENDERS)) == 1, story
        assert len(story.splitlines()) <= MOST_LINES, story
        assert "Traceback" not in story, story
        resumed = re.search(r"resumed at block (\d+)", story)
        return {"resumed_at": int(resumed[1]) if resumed else None}

    def _rendering(self, both: list[Command]) -> Command:
        """Wait for the command that renders, once it can be resumed and the other waits for it."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline and all(c.process.poll() is None for c in both):
            rendering = [c for c in both if RENDERS in c.errors()]
            waiting = [c for c in both if WAITS in c.errors()]
            if rendering and waiting and list(rendering[0].home.glob("work/*/snapshots/*.safetensors")):
                assert rendering != waiting
                return rendering[0]
            time.sleep(SOON)
        raise AssertionError(f"the two never met: {[c.errors() for c in both]}")

    def _tables(self, index: int, moment: int) -> dict[str, Any]:
        """Write a table on a disk that is really full; the space comes back, and the command runs again."""
        from tests.soak.soak import small_disk

        name, table, room = f"run-{index}", moment % 2, PAGE * (moment // 2 % 2)
        store = self.folder / f"home-{name}" / "store"
        store.mkdir(parents=True)
        with small_disk(store, STORE_BYTES):
            full = self.start(name, 0, "-m", "tests.soak.commands", str(store / "ballast"), str(table), str(room))
            assert full.ended() == DISK_FULL, full.errors()
            assert "disk is full" in full.errors().splitlines()[-1], full.errors()
            assert (store / "ballast").exists(), "the fault never struck"
            assert not full.out.exists(), "a run that did not end publishes nothing"
            assert not list(store.glob("building/*")), "half-written files stay"
            assert not list(store.glob("quality/*/*")), "an entry without its tables"
            (store / "ballast").unlink()
            again = self.start(name, 1)
            assert again.ended() == self.expected_code, again.errors()
            assert RENDERS not in again.errors(), "blocks were rendered again"
            self._check(again)
        return {"table": ("frames", "blocks")[table], "room": room}

    def _check(self, command: Command) -> None:
        """Check that the output folder is whole and holds what it should."""
        assert digests(command.out) == self.expected
        manifest = json.loads((command.out / "manifest.json").read_text())
        for name, sha in manifest["outputs"].items():
            assert hashlib.sha256((command.out / name).read_bytes()).hexdigest() == sha, name
        assert [path.name for path in command.out.parent.iterdir()] == ["film"], "something half-built stays"


def is_helper(process: psutil.Process, helper: str) -> bool:
    """Tell whether a process is that helper of a command."""
    with suppress(psutil.Error):
        return any(HELPERS[helper] in word for word in process.cmdline())
    return False


def digests(out: Path) -> dict[str, str]:
    """Return the digests of what every run must make alike."""
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in COMPARED}


def main() -> int:
    """Run a command whose disk fills up as a table is written: BALLAST TABLE ROOM, then the command line."""
    import pandas as pd

    from flows import cli

    ballast, table, room = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    whole, calls = pd.DataFrame.to_parquet, iter(range(2))

    def to_parquet(self: pd.DataFrame, *rest: Any, **named: Any) -> Any:
        if next(calls) == table:
            free = os.statvfs(ballast.parent)
            ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - room)))
        return whole(self, *rest, **named)

    pd.DataFrame.to_parquet = to_parquet  # type: ignore[method-assign]
    return cli.main(sys.argv[4:])


if __name__ == "__main__":
    sys.exit(main())
