"""GPUs that are left: counted with Ray played by a table; and a real group that goes on in one process."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import RayActorError

from liveavatar import paths
from liveavatar.hardware import cores
from liveavatar.load import load_engine
from liveavatar.render.job import Progress, RenderResult, run_job
from liveavatar.render.timings import memory_summary
from tasks.cluster import gpus, group, head, host
from tasks.cluster.actor import EngineSpec, engine_actor
from tasks.cluster.gpus import HOLDER, GpusLeft
from tasks.cluster.replicas import Replicas
from tests.render_jobs import noise_job

FRAMES = 168


@dataclass
class FakeRay:
    """A cluster: GPUs by machine and number, named actors, each on a GPU."""

    gpus: list[tuple[str, str]]
    broken: set[tuple[str, str]] = field(default_factory=set)
    actors: dict[str, tuple[str, str] | None] = field(default_factory=dict)  # by name: its GPU
    lost: set[tuple[str, str]] = field(default_factory=set)  # whose machine goes down when it is asked
    busy: set[str] = field(default_factory=set)  # actors that render

    def __post_init__(self) -> None:
        self.util = SimpleNamespace(list_named_actors=lambda: list(self.actors), get_node_ip_address=lambda: "10.0.0.1")

    def free(self) -> list[tuple[str, str]]:
        return [gpu for gpu in self.gpus if gpu not in self.actors.values()]

    def available_resources(self) -> dict[str, float]:
        return {"GPU": len(self.free())}

    def remote(self, _: type) -> Any:
        def start(name: str, answers: Callable[[], bool]) -> Any:
            gpu = next(iter(self.free()), None)
            self.actors[name] = gpu
            return SimpleNamespace(name=name, ask=SimpleNamespace(remote=lambda: (name, gpu)))

        def options(name: str, **rest: Any) -> Any:
            assert (rest["num_gpus"], rest["num_cpus"], rest["lifetime"]) == (1, 0, "detached")
            assert rest["runtime_env"]["env_vars"] == gpus.GPU_ORDER
            return SimpleNamespace(remote=lambda answers: start(name, answers))

        return SimpleNamespace(options=options)

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        done = [reference for reference in references if reference[1] is not None][:1]
        return done, [reference for reference in references if reference not in done]

    def get(self, reference: Any) -> tuple[str, str, bool]:
        _, gpu = reference
        if gpu in self.lost:
            raise RayActorError
        return *gpu, gpu not in self.broken

    def kill(self, actor: Any) -> None:
        del self.actors[actor.name]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own."""
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


A0, A1, B0 = ("10.0.0.1", "0"), ("10.0.0.1", "1"), ("10.0.0.2", "0")
HELD = f"{HOLDER}77"


@pytest.mark.parametrize(
    ("cluster", "own", "left", "stay"),
    [
        pytest.param(FakeRay([A0, A1]), "", GpusLeft(2, ("GPU 0", "GPU 1")), 0, id="all are well"),
        pytest.param(FakeRay([A0, A1], broken={A0}), "", GpusLeft(1, ("GPU 1",), ("GPU 0",)), 1, id="one is broken"),
        pytest.param(FakeRay([A0, B0], broken={B0}), "", GpusLeft(1, ("GPU 0",), ("GPU 0 at 10.0.0.2",)), 1,
                     id="one of another machine"),
        pytest.param(FakeRay([A0], broken={A0}), "", GpusLeft(0, (), ("GPU 0",)), 1, id="none is left"),
        pytest.param(FakeRay([A0, A1], actors={HELD: A0}), "", GpusLeft(2, ("GPU 0", "GPU 1")), 0, id="it was mended"),
        pytest.param(FakeRay([A0, A1], {A0}, {HELD: A0}), "", GpusLeft(1, ("GPU 1",), ("GPU 0",)), 1,
                     id="it is broken still"),
        pytest.param(FakeRay([A0, A1], {A0}, {"group-v-2-t-0": A0, "group-v-2-t-1": A1}), "group-v-2-",
                     GpusLeft(1, ("GPU 1",), ("GPU 0",)), 1, id="the ranks of the own group are ended"),
        pytest.param(FakeRay([A0, A1], {A0}, {"engine-v": A0, "engine-v-1": A1}), "engine-v",
                     GpusLeft(1, (), ("GPU 0",)), 1, id="another engine keeps its GPU"),
        pytest.param(FakeRay([A0, A1], {A0}, {"engine-v": A0, "engine-v-1": A1}, busy={"engine-v-1"}), "engine-v",
                     GpusLeft(0, (), ("GPU 0",), 1), 1, id="another engine renders"),
        pytest.param(FakeRay([A0, B0], lost={B0}), "", GpusLeft(1, ("GPU 0",)), 0, id="a machine is lost meanwhile"),
    ],
)  # fmt: skip
def test_gpus_that_cannot_be_used_are_held(
    cluster: FakeRay, own: str, left: GpusLeft, stay: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = replace(cluster, actors=dict(cluster.actors))
    others = [name for name in cluster.actors if not name.startswith(HOLDER) and not (own and name.startswith(own))]
    others += [name for name in cluster.actors if name == f"{own}-1"]
    monkeypatch.setattr(gpus, "ray", cluster)
    monkeypatch.setattr(gpus, "num_gpus", lambda: float(len(cluster.gpus)))
    monkeypatch.setattr(gpus, "end_actor", cluster.actors.pop)
    monkeypatch.setattr(gpus, "is_idle", lambda name: name not in cluster.busy)
    assert gpus.look(own) == left
    held = {gpu for name, gpu in cluster.actors.items() if name.startswith(HOLDER)}
    assert held == cluster.broken
    assert len(held) == stay
    assert [name for name in cluster.actors if not name.startswith(HOLDER)] == others
    assert gpus.any_held() == bool(held)


def test_a_gpu_that_ray_does_not_give_back_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeRay([A1])
    monkeypatch.setattr(gpus, "ray", cluster)
    monkeypatch.setattr(gpus, "num_gpus", lambda: 2.0)  # a killed process that hangs in the driver has the other
    assert gpus.look("") == GpusLeft(1, ("GPU 1",))
    assert not cluster.actors


@pytest.mark.parametrize(
    ("left", "words"),
    [
        pytest.param(GpusLeft(0, (), ("GPU 0",)), "no GPU is left, GPU 0 cannot be used", id="none"),
        pytest.param(
            GpusLeft(1, ("GPU 1",), ("GPU 0", "GPU 2")), "1 GPU is left (GPU 1), GPU 0 and GPU 2 cannot be used", id="1"
        ),
        pytest.param(GpusLeft(3, ("GPU 0", "GPU 1")), "3 GPUs are left (GPU 0, GPU 1)", id="one has an engine"),
        pytest.param(GpusLeft(0, (), ("GPU 0",), 1), "no GPU is left, GPU 0 cannot be used, 1 is busy with another job",
                     id="one is busy"),
        pytest.param(GpusLeft(0, (), (), 2), "no GPU is left, 2 are busy with other jobs", id="two are busy"),
    ],
)  # fmt: skip
def test_the_gpus_that_are_left_are_named(left: GpusLeft, words: str) -> None:
    assert str(left) == words


@pytest.mark.parametrize(("code", "usable"), [(0, True), (1, False), (-9, False)])
def test_the_probe_answers_by_its_exit_code(code: int, usable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=code))
    assert gpus.driver_answers() == usable


def test_a_gpu_whose_driver_does_not_answer_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    assert not gpus.driver_answers()


@pytest.mark.parametrize(
    ("numbers", "initialized", "driver", "broken", "lost"),
    [
        pytest.param([], True, False, True, False, id="no GPU"),
        pytest.param([0], False, True, True, False, id="not used yet, and well"),
        pytest.param([0], False, False, False, True, id="it cannot be used at all"),
        pytest.param([0], True, True, False, False, id="an error of ours"),
        pytest.param([0], True, True, True, True, id="an error of CUDA stays"),
    ],
)
def test_a_process_knows_that_its_gpu_is_lost(
    numbers: list[int], initialized: bool, driver: bool, broken: bool, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def synchronize() -> None:
        if broken:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(ray, "get_gpu_ids", lambda: numbers)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: initialized)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(gpus, "driver_answers", lambda: driver)
    assert gpus.gpu_lost() == lost


def test_a_gpu_that_does_not_answer_at_all_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [0])
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: never.wait(20))
    monkeypatch.setattr(gpus, "PROBE_SECONDS", 0.1)
    began = time.monotonic()
    assert gpus.gpu_lost()
    assert gpus.gpu_lost(0.2)
    assert 0.3 <= time.monotonic() - began < 10
    never.set()


def test_a_look_waits_for_that_of_another_process(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    cluster = FakeRay([A0])
    monkeypatch.setattr(gpus, "ray", cluster)
    monkeypatch.setattr(gpus, "num_gpus", lambda: 1.0)
    home.mkdir(parents=True, exist_ok=True)
    place = str(paths.gpu_look())
    holds = f"import filelock; lock = filelock.FileLock({place!r}); lock.acquire(); print(1, flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "1\n"
    looks: list[GpusLeft] = []
    looking = threading.Thread(target=lambda: looks.append(gpus.look("")))
    looking.start()
    looking.join(0.5)
    assert not looks
    other.communicate("\n")
    looking.join(60)
    assert looks == [GpusLeft(1, ("GPU 0",))]


def test_a_holder_knows_its_gpu_and_is_never_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "die_with_parent", lambda: None)
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [3])
    holder = gpus.GpuHolder(lambda: False)
    assert holder.ask()[1:] == ("3", False)
    assert not holder.is_idle()


@pytest.fixture
def two_gpus(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray of our own that takes this machine for one with two GPUs."""
    init = ray.init
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", lambda **options: init(**options, num_gpus=2))
    head.connect()
    yield
    head.disconnect()


@pytest.mark.nightly
@pytest.mark.skipif(torch.cuda.is_available(), reason="its two GPUs are played by the CPU")
def test_a_group_that_has_lost_a_gpu_goes_on_in_one_process(
    two_gpus: None,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = noise_job(tmp_path, FRAMES)
    threads = torch.get_num_threads()
    torch.set_num_threads(cores())
    engine = load_engine(tiny_model, device="cpu", dtype="float32")
    expected = run_job(engine, replace(job, work_dir=tmp_path / "alone"))
    torch.set_num_threads(threads)

    broken = tmp_path / "GPU 0 is broken"

    def answers() -> bool:
        return not (broken.exists() and os.environ["CUDA_VISIBLE_DEVICES"] == "0")

    def strike(progress: Progress) -> None:
        if progress.done >= 6 and not broken.exists():
            broken.touch()
            pids = [ray.get(a.__ray_call__.remote(lambda _: os.getpid())) for a in group.group_actors(spec)]
            os.kill(pids[0], signal.SIGKILL)

    def replan(num_gpus: int) -> EngineSpec:
        planned.append(num_gpus)
        return replace(spec, ranks=num_gpus)

    planned: list[int] = []
    spec = EngineSpec(model_dir=tiny_model, version="t" * 64, dtype="float32", ranks=2)
    monkeypatch.setattr(host, "look", lambda own: gpus.look(own, answers))
    with caplog.at_level(logging.WARNING):
        result = host.EngineHost(spec, replan).render(job, strike, lambda _: None)
    assert planned == [1]
    assert result.first_block >= 4
    assert result.latents_sha256 == expected.latents_sha256
    assert result.video.read_bytes() == expected.video.read_bytes()
    assert {len(row.memory) for row in result.rows} == {1, 2}
    assert len(memory_summary(result.rows)["ranks"]) == 2
    line = "1 GPU is left (GPU 1), GPU 0 cannot be used; planned for 2, the job goes on with 1"
    assert [record.getMessage() for record in caplog.records].count(line) == 1

    # The next job knows of it; once the GPU is mended, the one after it has both again.
    host.EngineHost(spec).begin_loading()
    again = host.EngineHost(spec, replan).render(replace(job, work_dir=tmp_path / "again"), lambda _: None, print)
    assert planned == [1, 1]
    assert again.latents_sha256 == expected.latents_sha256
    broken.unlink()
    deadline = time.monotonic() + 60
    third = host.EngineHost(spec, replan).render(replace(job, work_dir=tmp_path / "third"), lambda _: None, print)
    assert planned == [1, 1]
    assert len(third.works) == 2
    assert third.latents_sha256 == expected.latents_sha256
    assert time.monotonic() < deadline
    assert not gpus.any_held()


@pytest.mark.nightly
@pytest.mark.skipif(torch.cuda.is_available(), reason="its two GPUs are played by the CPU")
def test_a_batch_that_has_lost_a_gpu_goes_on_with_the_other_engine(
    two_gpus: None, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "GPU 0 is broken"
    spec = EngineSpec(model_dir=tiny_model, version="b" * 64, dtype="float32")
    began: list[tuple[int, int]] = []  # number of the engine and of the job
    both = threading.Barrier(2)

    def answers() -> bool:
        return not (broken.exists() and os.environ["CUDA_VISIBLE_DEVICES"] == "0")

    def gpu_of(engine: Any) -> tuple[str, int]:
        asked: Any = engine.__ray_call__.remote(lambda _: (os.environ["CUDA_VISIBLE_DEVICES"], os.getpid()))
        return ray.get(asked)  # type: ignore[no-any-return]

    def render(number: int, replicas: Replicas) -> RenderResult:
        job = replace(noise_job(tmp_path, FRAMES), digest=f"{number}" * 64, work_dir=tmp_path / f"work{number}")

        def on_engine(replica: int) -> RenderResult:
            nonlocal job
            own = replace(spec, replica=replica)

            def strike(progress: Progress) -> None:
                if progress.done < 6 or broken.exists():
                    return
                gpu, pid = gpu_of(engine_actor(own))
                if gpu == "0":
                    broken.touch()
                    os.kill(pid, signal.SIGKILL)

            began.append((replica, number))
            if len(began) <= 2:
                both.wait(60)
            try:
                return host.EngineHost(own).render(job, strike, lambda _: None, replicas.interruption)
            finally:
                job = replace(job, resume=True)

        return replicas.run(on_engine)

    monkeypatch.setattr(host, "look", lambda own: gpus.look(own, answers))
    replicas = Replicas(2)
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda number: render(number, replicas), range(3)))
    assert broken.exists()
    assert len({result.latents_sha256 for result in results}) == 1, "the same noise in every job"
    assert any("goes on with 1 of its engines" in record.getMessage() for record in caplog.records)
    assert len(began) == 4, "only the job that was struck begins twice"
