"""A group of Ray actors: the bits of one process, reused, rebuilt when a rank is killed, and gone when we are."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray
import torch

from liveavatar.errors import Interrupted
from liveavatar.hardware import cores
from liveavatar.load import load_engine
from liveavatar.render.job import Progress, RenderJob, RenderResult, run_job
from liveavatar.render.timings import rank_summary
from tasks.cluster import group, head
from tasks.cluster.actor import EngineSpec
from tasks.cluster.host import EngineHost
from tests.render_jobs import noise_job

FRAMES = 168  # a job whose end is far enough away when its sixth block is reported to be hit in its middle


@pytest.fixture(scope="module")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray of our own; afterwards none of its processes is left."""
    others = set(psutil.Process().children(recursive=True))  # such as the fork server of other tests
    os.environ["LIVEAVATAR_HOME"] = str(tmp_path_factory.mktemp("home"))
    head.connect()
    yield
    family = [p for p in psutil.Process().children(recursive=True) if p not in others]
    head.disconnect()
    assert len(family) > 2
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE and "ray" in " ".join(p.cmdline())]


@pytest.fixture
def job(tmp_path: Path) -> RenderJob:
    """Seven seconds of noise: fourteen blocks, a snapshot every four."""
    return noise_job(tmp_path, FRAMES)


@pytest.fixture
def expected(tiny_model: Path, job: RenderJob, tmp_path: Path) -> RenderResult:
    """What one process makes of the job."""
    torch.set_num_threads(cores())
    try:
        engine = load_engine(tiny_model, device="cpu", dtype="float32")
        return run_job(engine, replace(job, work_dir=tmp_path / "alone"))
    finally:
        torch.set_num_threads(1)


def spec_of(tiny_model: Path, ranks: int = 2) -> EngineSpec:
    return EngineSpec(model_dir=tiny_model, version="t" * 64, device="cpu", dtype="float32", ranks=ranks)


def pid_of(actor: object) -> int:
    return int(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())))  # type: ignore[attr-defined]


@pytest.mark.nightly
def test_reused_rebuilt_resumed_and_gone(
    local_ray: None,
    tiny_model: Path,
    job: RenderJob,
    expected: RenderResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(head, "LOCAL_STOP_SECONDS", head.STOP_SECONDS)  # as in a cluster, where engines stay
    spec = spec_of(tiny_model)
    loads: list[float] = []
    first = EngineHost(spec).render(job, lambda _: None, loads.append)
    assert first.latents_sha256 == expected.latents_sha256
    assert [s["role"] for s in rank_summary(first.rows, first.works)] == ["steps 1-2", "steps 3-4 + decoder"]
    pids = [pid_of(actor) for actor in group.group_actors(spec)]

    # A rank is killed in the middle of the second job.
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if progress.done >= 6 and not killed:
            os.kill(pids[0], signal.SIGKILL)
            killed.append(progress.done)

    second = EngineHost(spec).render(replace(job, work_dir=tmp_path / "second"), kill, loads.append)
    assert killed
    assert second.latents_sha256 == expected.latents_sha256
    assert second.first_block >= 4
    assert loads[1] < 0.5  # the second job found the model loaded
    assert len(loads) == 3
    actors = group.group_actors(spec)
    assert not set(pids) & {pid_of(actor) for actor in actors}
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)

    # Ctrl-C in the middle of the third; then one process goes on with it.
    third = replace(job, work_dir=tmp_path / "third")

    def interrupt(progress: Progress) -> None:
        if progress.done >= 6 and not interrupted:
            interrupted.append(progress.done)
            signal.raise_signal(signal.SIGINT)

    interrupted: list[int] = []
    with pytest.raises(Interrupted, match="--resume"):
        EngineHost(spec).render(third, interrupt, loads.append)
    torch.set_num_threads(cores())
    alone = run_job(load_engine(tiny_model, device="cpu", dtype="float32"), replace(third, resume=True))
    torch.set_num_threads(1)
    assert alone.first_block > 0
    assert alone.latents_sha256 == expected.latents_sha256

    # The same group takes the next job.
    fourth = EngineHost(spec).render(replace(job, work_dir=tmp_path / "fourth"), lambda _: None, loads.append)
    assert fourth.latents_sha256 == expected.latents_sha256
    assert [pid_of(a) for a in group.group_actors(spec)] == [pid_of(a) for a in actors]


def test_threads_that_load_and_meet_share_one_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second rank would take the meeting point of the first along, and the others would wait for it in vain."""
    made: list[object] = []

    class SlowRank:
        def __init__(self, *_: object) -> None:
            time.sleep(0.2)  # as long as importing torch.distributed
            made.append(self)

    monkeypatch.setattr("liveavatar.load.Rank", SlowRank)
    actor = group.RankActor(EngineSpec(model_dir=tmp_path, version="v", ranks=2), num_threads=1, index=0)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: actor.rank, range(2))
    assert first is second
    assert len(made) == 1
