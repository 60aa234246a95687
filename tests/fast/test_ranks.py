"""The fast path spread over processes: the bits of one process, also where a step is cut between two layers."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from liveavatar.bench.gpu.build import ATTENTION8, BF16, DRY, FP8, FP8_ALL, Mode, bench_job, fast_engine
from liveavatar.bench.gpu.ranks import BenchRank, rank_engine
from liveavatar.config import LIVE_AVATAR_14B
from liveavatar.distributed import balance
from liveavatar.distributed.group import Group
from liveavatar.engine.job import StreamJob
from liveavatar.engine.placement import RankTimes, split_layers
from liveavatar.engine.settings import RenderSettings
from liveavatar.hardware import Machine, gpu_of
from liveavatar.planning.memory import MemoryModel
from liveavatar.planning.request import PlanRequest
from liveavatar.planning.speed import decode_layers
from tests.fast.blocks import assert_equal, blocks_of
from tests.job_changes import changed

CPU = torch.device("cpu")
SIZE = (64, 64)
HERE = "127.0.0.1"
LIMIT_SECONDS = 60.0


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@contextmanager
def group(
    mode: Mode, world: int, jobs: int, own_decoder: bool = False, through_host: bool = False
) -> Iterator[BenchRank]:
    """The engine of the last rank; every other one serves so many jobs in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["liveavatar.bench.gpu.ranks"])
    last = Group(world - 1, world, CPU, LIMIT_SECONDS, through_host)
    address = last.host(HERE)
    processes: list[Any] = [
        context.Process(target=_serve, args=(mode, rank, world, address, jobs, through_host), daemon=True)
        for rank in range(world - 1)
    ]
    for process in processes:
        process.start()
    try:
        last.join(address)
        engine = rank_engine(DRY, mode, last, torch.float32, vae=True)
        engine.placement.own_decoder = own_decoder
        yield engine
    finally:
        last.leave()
        for process in processes:
            process.join(5)
            process.kill()


def _serve(mode: Mode, rank: int, world: int, address: tuple[str, int], jobs: int, through_host: bool) -> None:
    torch.set_num_threads(1)
    joined = Group(rank, world, CPU, LIMIT_SECONDS, through_host)
    joined.join(address)
    engine = rank_engine(DRY, mode, joined, torch.float32, vae=False)
    for _ in range(jobs):
        engine.serve()
    joined.leave()


def job(blocks: int = 7, steps: int = 4) -> StreamJob:
    return changed(bench_job(DRY, SIZE, blocks, steps), infer_frames=24)  # the reference changes after two blocks


@pytest.mark.parametrize(
    ("mode", "world", "decode_layers"),
    [
        pytest.param(BF16, 2, None, id="whole steps on 2", marks=pytest.mark.nightly),
        pytest.param(FP8, 4, None, id="whole steps on 4, 8-bit linears", marks=pytest.mark.nightly),
        pytest.param(BF16, 3, 2.5, id="layers on 3", marks=pytest.mark.nightly),
        pytest.param(FP8_ALL, 4, 3.0, id="layers on 4, 8 bits", marks=pytest.mark.nightly),
        pytest.param(ATTENTION8, 2, 3.0, id="layers on 2, 8-bit attention"),
        pytest.param(FP8, 5, 1.0, id="layers on 5, more than steps", marks=pytest.mark.nightly),
        pytest.param(FP8, 8, 1.5, id="layers on 8", marks=pytest.mark.nightly),
    ],
)
def test_ranks_make_the_bits_of_one_process_and_its_snapshots(
    mode: Mode, world: int, decode_layers: float | None
) -> None:
    alone = fast_engine(DRY, mode, CPU, torch.float32)
    whole = blocks_of(alone, job(), every=4)
    with group(mode, world, jobs=3) as engine:
        engine.placement.decode_layers = decode_layers
        cut = [s for s in engine.works(4) if s.stop_layer is not None]
        assert bool(cut) == (decode_layers is not None)
        spread = blocks_of(engine, job(), every=4)
        assert_equal(spread, whole)
        assert all(len(b.busy_s) == world and min(b.busy_s) > 0 and len(b.step_s) == 4 for b in spread)
        ours, theirs = spread[3].state, whole[3].state
        assert ours is not None
        assert theirs is not None
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name].float(), theirs[name].float()) for name in ours)
        assert_equal(blocks_of(engine, job(), theirs), whole[4:])
        assert_equal(blocks_of(engine, job(3, steps=5)), blocks_of(alone, job(3, steps=5)))
    assert_equal(blocks_of(alone, job(), ours), whole[4:])


def test_a_later_job_is_divided_by_measured_times_and_has_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "ENOUGH", 1)
    monkeypatch.setattr(balance, "rank_times", lambda *_: RankTimes((0.1, 0.1), 0.6))
    alone = blocks_of(fast_engine(DRY, FP8, CPU, torch.float32), job(8))
    with group(FP8, 2, jobs=2) as engine:
        engine.placement.decode_layers_of = lambda *_: 0.0
        divided = []
        for _ in range(2):
            assert_equal(blocks_of(engine, job(8)), alone)
            divided.append([work.num_layers_of(DRY.dit.num_layers) for work in engine.works(4)])
    assert divided == [[8, 8], [11, 5]]


def test_a_job_brings_its_precision_to_every_rank() -> None:
    asked = changed(job(blocks=4), kv_cache_dtype="int8")
    alone = blocks_of(fast_engine(DRY, FP8_ALL, CPU, torch.float32), asked)
    with group(FP8, 2, jobs=1) as engine:
        assert_equal(blocks_of(engine, asked), alone)


def test_latents_may_take_the_way_through_host_memory() -> None:
    with group(FP8, 3, jobs=1, through_host=True) as engine:
        assert engine.placement.group.staging(8) is not None
        engine.placement.decode_layers = 2.5
        made = blocks_of(engine, job(4))
        engine.forget_sizes()
        assert engine.placement.current is None  # nor anything that it held
    assert_equal(made, blocks_of(fast_engine(DRY, FP8, CPU, torch.float32), job(4)))


def test_the_decoder_may_have_a_rank_of_its_own() -> None:
    with group(FP8, 3, jobs=2, own_decoder=True) as engine:
        made = [blocks_of(engine, job(3)), blocks_of(engine, job(3))]  # buffers of the first are used again
    for blocks in made:
        assert_equal(blocks, blocks_of(fast_engine(DRY, FP8, CPU, torch.float32), job(3)))


def test_layers_are_spread_as_the_plan_of_a_jobs_own_size_says() -> None:
    engine = rank_engine(DRY, FP8, Group(0, 1, CPU), torch.float32, vae=True)
    asked = []

    def decoding(width: int, height: int, kv_cache_dtype: str) -> float:
        asked.append((width, height, kv_cache_dtype))
        return width / 32

    engine.placement.decode_layers_of = decoding
    for size in ((64, 64), (128, 64)):
        engine.open(bench_job(DRY, size, 1)).close()
        assert engine.placement.decode_layers == size[0] / 32
    assert asked == [(64, 64, "bf16"), (128, 64, "bf16")]
    h200, settings = gpu_of("NVIDIA H200", 141.0), RenderSettings(prompt="", fp8=True)
    request = PlanRequest(width=384, height=256, num_frames=250, settings=settings)
    model = MemoryModel(LIVE_AVATAR_14B, request, Machine(gpus=(h200,) * 4, cores=8, host_gb=500.0, disk_gb=500.0))
    weight = decode_layers(LIVE_AVATAR_14B, h200.rates, True, 384, 256)
    assert model.rank_work() == split_layers(4, LIVE_AVATAR_14B.dit.num_layers, 4, weight)
