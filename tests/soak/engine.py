"""One job on an engine or a group, without a command, while things go wrong inside its processes.

Processes are killed, stopped for a while or for good, a rank runs out of memory, a snapshot is damaged or finds no
space, a small disk is really full, clocks jump, the driver or the head of Ray is killed. Every run must end with the
latents and the film of the undisturbed run, byte for byte.

`python -m tests.soak.engine FOLDER MODEL` makes runs of the cases that arrive on standard input, a line of JSON each.
"""

import errno
import hashlib
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import torch
from PIL import Image
from scipy.io import wavfile

from liveavatar.audio.feature_file import save_features
from liveavatar.engine.settings import RenderSettings
from liveavatar.errors import CapacityError
from liveavatar.hardware import cores
from liveavatar.load import load_engine
from liveavatar.render.job import SNAPSHOT_SHARE, Progress, RenderJob, RenderResult, run_job
from liveavatar.render.sound import FileSound
from tasks.cluster import actor, group, head
from tasks.cluster.actor import EngineSpec
from tasks.cluster.host import EngineHost
from tests.soak.case import Case
from tests.soak.commands import STORY_CHARACTERS, tail
from tests.soak.disk import small_disk
from tests.soak.wrapped import jump_clock

BLOCKS = 20
FRAMES = 12 * BLOCKS - 7
CHILD_SECONDS = 300.0
GONE_SECONDS = 5.0  # after a driver was killed, nothing of it is left
HUNG_SECONDS = 6.0  # the time limit in runs where a process is stopped for good
ROOMY_BYTES = 200_000_000


@dataclass(kw_only=True)
class Soak:
    """A job, its expected digests, and the folder of the runs."""

    folder: Path
    model_dir: Path
    stop_seconds: float = 3.0
    job: RenderJob = field(init=False)
    expected: tuple[str, str] = field(init=False)
    needed_bytes: int = field(init=False)  # on the disk, by a whole run

    def __post_init__(self) -> None:
        """Make the inputs, and the undisturbed film in this process."""
        rng = np.random.default_rng(0)
        picture, sound = self.folder / "face.png", self.folder / "voice.wav"
        Image.fromarray(rng.integers(0, 255, (256, 384, 3), dtype=np.uint8)).save(picture)
        wavfile.write(sound, 16_000, rng.normal(scale=0.1, size=640 * FRAMES).astype(np.float32))
        save_features(self.folder / "features.pt", torch.from_numpy(rng.normal(size=(5, 768, FRAMES))).float())
        self.job = RenderJob(
            digest=hashlib.sha256(b"soak").hexdigest(),
            work_dir=self.folder / "undisturbed",
            image=picture,
            sound=FileSound(features=self.folder / "features.pt", audio=sound, num_frames=FRAMES),
            settings=RenderSettings(prompt="a calm woman"),
            online=True,
        )
        before = torch.get_num_threads()
        torch.set_num_threads(cores())
        self.expected = digests(run_job(load_engine(self.model_dir, device="cpu", dtype="float32"), self.job))
        torch.set_num_threads(before)
        self.needed_bytes = sum(path.stat().st_size for path in self.job.work_dir.rglob("*") if path.is_file())

    def run(self, index: int, fault: str, ranks: int, moment: int, rank: int) -> dict[str, Any]:
        """Render once with a fault and compare the result with the undisturbed one.

        Args:
            index: of the run.
            fault: what goes wrong.
            ranks: of the group; 1 is a single engine.
            moment: blocks done when it does.
            rank: that it happens to.

        Raises:
            AssertionError: latents or film are not those of the undisturbed run, or the fault never struck.
        """
        spec = EngineSpec(
            model_dir=self.model_dir, version="s" * 64, device="cpu", dtype="float32",
            ranks=ranks, own_decoder=ranks == 5, limit_s=HUNG_SECONDS if fault == "hang" else 120.0,
        )  # fmt: skip
        job = replace(self.job, work_dir=self.folder / f"run-{index}")
        if fault == "full":
            job = replace(job, work_dir=self.folder / f"disk-{index}" / "work")
        started = time.monotonic()
        if fault == "driver":
            struck = self._lose_driver(spec, job, moment)
            result = render(spec, replace(job, resume=True), lambda _: None)
        elif fault == "head":
            struck, result = self._lose_head(spec, job, moment)
        elif fault == "full":
            struck, result = self._fill(spec, job, moment)
        else:
            end_actors(spec)  # a group of an earlier run has another time limit
            strike = Strike(spec, job, fault, moment, rank, self.stop_seconds)
            try:
                result = render(spec, job, strike)
            except CapacityError:
                if fault != "disk":
                    raise
                strike.mend()
                result = render(spec, replace(job, resume=True), lambda _: None)
            struck = strike.struck or strike.mark.exists()
        facts = {
            "run": index, "fault": fault, "ranks": ranks, "rank": rank, "moment": moment,
            "resumed_at": result.first_block, "seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip
        assert struck or fault == "none", f"the fault never struck: {facts}"
        assert digests(result) == self.expected, facts
        assert len(result.rows) == BLOCKS, facts
        return facts

    def _child(self, spec: EngineSpec, job: RenderJob, moment: int) -> "subprocess.Popen[bytes]":
        """Render in a process of its own, and come back when it is about so far."""
        order = self.folder / "order.pickle"
        order.write_bytes(pickle.dumps((spec, job)))
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        with self._story.open("wb") as errors:
            child = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-m", "tests.soak.engine", str(order)], env=environment,
                stdout=errors, stderr=errors,
            )  # fmt: skip
        deadline = time.monotonic() + CHILD_SECONDS
        snapshots = job.work_dir / "snapshots"
        while not (snapshots.exists() and any(snapshots.glob("*.safetensors"))):
            if child.poll() is not None:
                raise AssertionError(f"the driver ended ({child.poll()}): {tail(self._story)}")
            if time.monotonic() > deadline:
                raise AssertionError(f"no snapshot after {CHILD_SECONDS:.0f} s: {self._stacks(child)}")
            time.sleep(0.05)
        time.sleep(0.02 * moment)
        return child

    @property
    def _story(self) -> Path:
        return self.folder / "driver"

    def _stacks(self, child: "subprocess.Popen[bytes]") -> str:
        """End a driver that hangs, and return what it wrote: the stacks of its threads at last."""
        child.send_signal(signal.SIGABRT)
        child.wait(CHILD_SECONDS)
        return tail(self._story)

    def _lose_driver(self, spec: EngineSpec, job: RenderJob, moment: int) -> bool:
        """Kill the driver; within seconds nothing is left of it."""
        child = self._child(spec, job, moment)
        family = psutil.Process(child.pid).children(recursive=True)
        running = child.poll() is None
        child.kill()
        child.wait(CHILD_SECONDS)
        _, alive = psutil.wait_procs(family, timeout=GONE_SECONDS)
        left = [p.name() for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        assert not left, f"left behind: {left}"
        return running and (job.work_dir / "blocks.jsonl").exists()

    def _lose_head(self, spec: EngineSpec, job: RenderJob, moment: int) -> tuple[bool, RenderResult]:
        """Kill the head of the driver's Ray; the driver itself goes on with another."""
        child = self._child(spec, job, moment)
        heads = [p for p in psutil.Process(child.pid).children(recursive=True) if "gcs_server" in p.name()]
        running = child.poll() is None and not (job.work_dir / "finished.json").exists()
        for process in heads:
            process.kill()
        try:
            code = child.wait(CHILD_SECONDS)
        except subprocess.TimeoutExpired as e:
            raise AssertionError(f"no end {CHILD_SECONDS:.0f} s after Ray's head: {self._stacks(child)}") from e
        assert code == 0, f"the driver did not survive the loss of Ray's head ({code}): {tail(self._story)}"
        return running and bool(heads), pickle.loads((job.work_dir / "result.pickle").read_bytes())

    def _fill(self, spec: EngineSpec, job: RenderJob, moment: int) -> tuple[bool, RenderResult]:
        """Render on a disk that is really full after a while; then it grows."""
        disk = job.work_dir.parent
        disk.mkdir()
        with small_disk(disk, int(self.needed_bytes * (0.3 + 0.03 * moment))) as grow:
            try:
                result = render(spec, job, lambda _: None)
            except CapacityError:
                grow(ROOMY_BYTES)
                result = render(spec, replace(job, resume=True), lambda _: None)
                film = self.folder / f"{disk.name}.mp4"
                film.write_bytes(result.video.read_bytes())
                return True, replace(result, video=film)
        return False, result


class Strike:
    """Progress listener that does the damage when enough blocks are done."""

    def __init__(
        self, spec: EngineSpec, job: RenderJob, fault: str, moment: int, rank: int, stop_seconds: float
    ) -> None:
        self.spec, self.job, self.fault, self.moment = spec, job, fault, moment
        self.stop_seconds = stop_seconds
        self.struck = False
        self.mark = job.work_dir.with_suffix(".struck")
        actors: list[Any] = group.group_actors(spec) if spec.ranks > 1 else [actor.engine_actor(spec)]
        self.actor = (
            actors[-1] if fault in ("kill last", "disk") or spec.ranks == 1 else actors[rank % (spec.ranks - 1)]
        )
        self.pid = int(ray.get(self.actor.__ray_call__.remote(lambda _: os.getpid())))
        if fault == "memory":
            ray.get(self.actor.__ray_call__.remote(_run_out_of_memory, moment, self.mark))
        if fault == "clock":
            ray.get([a.__ray_call__.remote(_jump_clock) for a in actors])
            self.struck = True
        if fault == "disk":
            ray.get(self.actor.__ray_call__.remote(_fill_disk, self.mark))

    def __call__(self, progress: Progress) -> None:
        """Do the damage when it is time."""
        if self.struck or self.fault in ("memory", "disk") or progress.done < self.moment:
            return
        self.struck = True
        if self.fault in ("stop", "hang"):
            os.kill(self.pid, signal.SIGSTOP)
        if self.fault == "stop":
            threading.Timer(self.stop_seconds, os.kill, (self.pid, signal.SIGCONT)).start()
        if self.fault == "snapshot":
            newest = sorted((self.job.work_dir / "snapshots").glob("*.safetensors"))[-1:]
            for path in newest:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        if self.fault in ("kill", "kill last", "snapshot"):
            os.kill(self.pid, signal.SIGKILL)

    def mend(self) -> None:
        """Free the disk."""
        ray.get(self.actor.__ray_call__.remote(_free_disk))


def end_actors(spec: EngineSpec) -> None:
    """End the resident processes of a model."""
    for name in ray.util.list_named_actors():
        if actor.spec_name(spec) in name:
            ray.kill(ray.get_actor(name, head.NAMESPACE))


def _jump_clock(_: object) -> None:
    jump_clock()


def _run_out_of_memory(_: object, moment: int, mark: Path) -> None:
    """Fail in a rank for want of memory at a block to come, once, and create the file `mark`."""
    from liveavatar.engine.plain import PlainDenoiser

    whole = PlainDenoiser.queue

    def queue(self: PlainDenoiser, index: int, *rest: Any) -> Any:
        if index == moment:
            PlainDenoiser.queue = whole  # type: ignore[method-assign]
            mark.touch()
            raise torch.OutOfMemoryError("out of memory, as the soak wants it")
        return whole(self, index, *rest)

    PlainDenoiser.queue = queue  # type: ignore[method-assign, assignment]


def _fill_disk(_: object, mark: Path) -> None:
    """Fail the second snapshot of the rank that owns the job for want of space, and create the file `mark`.

    A second one is written however long the first took.
    """
    from liveavatar.render import job

    whole = job.write_snapshot
    calls: list[int] = []

    def write(folder: Path, *rest: Any) -> Path:
        calls.append(1)
        if len(calls) > 1:
            mark.touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        return whole(folder, *rest)

    job.write_snapshot = write  # type: ignore[assignment]
    job.SNAPSHOT_SHARE = math.inf


def _free_disk(_: object) -> None:
    from liveavatar.engine.snapshot import write_snapshot
    from liveavatar.render import job

    job.write_snapshot = write_snapshot
    job.SNAPSHOT_SHARE = SNAPSHOT_SHARE


def render(spec: EngineSpec, job: RenderJob, on_progress: Callable[[Progress], None]) -> RenderResult:
    """Render on a group or a single engine."""
    return EngineHost(spec).render(job, on_progress, lambda _: None)


def digests(result: RenderResult) -> tuple[str, str]:
    """Return the digests of latents and video."""
    return result.latents_sha256, hashlib.sha256(result.video.read_bytes()).hexdigest()


def run_case(soak: Soak, case: Case) -> dict[str, Any]:
    """Make a run of a case drawn by `tests.soak.case.draw`."""
    began = time.monotonic()
    ranks = (1, 2, 2, 3, 4)[case.run % 5]
    moment = 5 + int(case.moment * (BLOCKS - 11))
    try:
        facts = soak.run(case.run, case.fault, ranks, moment, case.run % 4)
        found = {"outcome": "survived", "resumed_at": facts["resumed_at"]}
    except AssertionError as e:
        text = str(e) or traceback.format_exc()[-STORY_CHARACTERS:]
        found = {"outcome": "missed" if "never struck" in text else "failed", "problem": text}
    except PermissionError as e:
        found = {"outcome": "missed", "problem": f"no small disk can be mounted ({e})"}
    except Exception:  # noqa: BLE001 (each is a fault to report)
        found = {"outcome": "failed", "problem": traceback.format_exc()[-STORY_CHARACTERS:]}
    return {**case.facts(), "ranks": ranks, **found, "seconds": round(time.monotonic() - began, 1)}


def main() -> int:
    """Run the command line: the driver of one job, or a server of cases."""
    if len(sys.argv) == 2:
        spec, job = pickle.loads(Path(sys.argv[1]).read_bytes())
        result = render(spec, job, lambda _: None)
        (job.work_dir / "result.pickle").write_bytes(pickle.dumps(result))
        head.disconnect()
        return 0
    folder, model_dir = map(Path, sys.argv[1:])
    os.environ["LIVEAVATAR_HOME"] = str(folder / "home")
    rows = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no row
    soak = Soak(folder=folder, model_dir=model_dir)
    head.connect()
    try:
        for line in sys.stdin:
            rows.write(json.dumps(run_case(soak, Case(**json.loads(line)))) + "\n")
            rows.flush()
    finally:
        head.disconnect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
