"""Blocks that go round the ranks once a step: the bits of one process, snapshots that fit either, and every end."""

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from liveavatar.bench.gpu.build import ATTENTION8, BF16, DRY, FP8, FP8_ALL, BenchEngine, Mode, bench_job, fast_engine
from liveavatar.bench.gpu.ranks import BenchRank, rank_engine
from liveavatar.distributed import tpp
from liveavatar.distributed.circular import circle
from liveavatar.distributed.group import Group, GroupError
from liveavatar.distributed.tpp import request
from liveavatar.engine.denoiser import DenoiseSpec
from liveavatar.engine.job import Block, StreamJob
from liveavatar.engine.placement import RankTimes, share_layers
from liveavatar.engine.sampling import sigma_steps
from liveavatar.pose.packed import DrawnPose, pack
from tests.fast.blocks import assert_equal, blocks_of
from tests.job_changes import changed

CPU = torch.device("cpu")
SIZE = (64, 64)
HERE = "127.0.0.1"
EIGHT = replace(DRY, dit=replace(DRY.dit, num_layers=8, audio_inject_layers=(0, 3, 6)))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@contextmanager
def group(
    mode: Mode, layers: tuple[int, ...], jobs: int, through_host: bool = False, limit_s: float = 60.0
) -> Iterator[tuple[BenchRank, list[Any]]]:
    """The engine of the last rank, and the processes of the others, each of which serves so many jobs."""
    world = len(layers)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["liveavatar.bench.gpu.ranks"])
    last = Group(world - 1, world, CPU, limit_s, through_host)
    address = last.host(HERE)
    processes: list[Any] = [
        context.Process(target=_serve, args=(mode, rank, layers, address, jobs, through_host, limit_s), daemon=True)
        for rank in range(world - 1)
    ]
    for process in processes:
        process.start()
    try:
        last.join(address)
        yield rank_engine(EIGHT, mode, last, torch.float32, vae=True, layers=layers), processes
    finally:
        last.leave()
        for process in processes:
            process.join(5)
            process.kill()


def _serve(
    mode: Mode,
    rank: int,
    layers: tuple[int, ...],
    address: tuple[str, int],
    jobs: int,
    through_host: bool,
    limit_s: float,
) -> None:
    torch.set_num_threads(1)
    joined = Group(rank, len(layers), CPU, limit_s, through_host)
    joined.join(address)
    engine = rank_engine(EIGHT, mode, joined, torch.float32, vae=False, layers=layers)
    for _ in range(jobs):
        engine.serve()
    joined.leave()


@cache
def alone(mode: Mode) -> BenchEngine:
    return fast_engine(EIGHT, mode, CPU, torch.float32)


def job(blocks: int = 7, steps: int = 4, clip: int = 24) -> StreamJob:
    return changed(bench_job(EIGHT, SIZE, blocks, steps), infer_frames=clip)  # the reference changes after a clip


WORLDS = [
    pytest.param(FP8_ALL, (5, 3), (1, 4), id="2, 8 bits"),
    pytest.param(BF16, (3, 3, 2), (3,), id="3"),
    pytest.param(ATTENTION8, (3, 2, 2, 1), (4,), id="4, 8-bit attention", marks=pytest.mark.nightly),
    pytest.param(FP8_ALL, (5, 3), (2, 3, 5, 6), id="2, other steps", marks=pytest.mark.nightly),
    pytest.param(FP8, (2, 2, 2, 1, 1), (1, 2, 3, 4, 5, 6), id="5", marks=pytest.mark.nightly),
    pytest.param(FP8, (2, 2, 1, 1, 1, 1), (3, 4), id="6", marks=pytest.mark.nightly),
    pytest.param(FP8, (2, 1, 1, 1, 1, 1, 1), (4, 6), id="7", marks=pytest.mark.nightly),
    pytest.param(FP8, (1,) * 8, (1, 2, 3, 4, 5, 6), id="8", marks=pytest.mark.nightly),
]


@pytest.mark.parametrize(("mode", "layers", "steps"), WORLDS)
def test_blocks_that_go_round_have_the_bits_of_one_process(
    mode: Mode, layers: tuple[int, ...], steps: tuple[int, ...]
) -> None:
    jobs = [job(blocks, count, clip) for count in steps for blocks, clip in ((1, 24), (7, 12))]
    with group(mode, layers, len(jobs)) as (engine, processes):
        for wanted in jobs:
            made = blocks_of(engine, wanted)
            assert_equal(made, blocks_of(alone(mode), wanted))
            assert all(len(b.step_s) == wanted.settings.sample_steps and min(b.step_s) > 0 for b in made)
            assert all(len(b.busy_s) == len(layers) and min(b.busy_s) > 0 for b in made)
    assert [p.exitcode for p in processes] == [0] * (len(layers) - 1)


def test_snapshots_fit_one_process_and_the_other_way_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpp, "GATHER_SHARE", math.inf)
    whole = blocks_of(alone(FP8_ALL), job(9), every=1)
    with group(FP8_ALL, (3, 3, 2), jobs=8) as (engine, _):
        for every in (1, 4):
            spread = blocks_of(engine, job(9), every=every)
            assert_equal(spread, whole)
            ours, theirs = spread[3].state, whole[3].state
            assert ours is not None
            assert theirs is not None
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name].float(), theirs[name].float()) for name in ours)
        # Before the reference changes, right before, right after it, and at the end.
        for index in (0, 1, 2, 3, 7):
            assert_equal(blocks_of(engine, job(9), whole[index].state), whole[index + 1 :])
    assert_equal(blocks_of(alone(FP8_ALL), job(9), ours), whole[4:])


@pytest.mark.parametrize("seen", [0, 1, 3, 6])
def test_a_job_that_is_left_frees_the_group(seen: int) -> None:
    with group(FP8, (3, 3, 2), jobs=2) as (engine, processes):
        opened = engine.open(job(9))
        blocks = opened.blocks(snapshot_every=2)
        for _ in range(seen):
            next(blocks)
        opened.close()
        opened.close()
        assert_equal(blocks_of(engine, job(5)), blocks_of(alone(FP8), job(5)))
    assert [p.exitcode for p in processes] == [0, 0]


def test_latents_may_take_the_way_through_host_memory() -> None:
    with group(FP8, (3, 3, 2), jobs=2, through_host=True) as (engine, _):
        made = [blocks_of(engine, job(5)), blocks_of(engine, job(5))]
        engine.forget_sizes()
    for blocks in made:
        assert_equal(blocks, blocks_of(alone(FP8), job(5)))


def test_sound_that_still_arrives_holds_no_earlier_block_up() -> None:
    """The sound of a block is there only once the block before has been handed over, and late."""
    wanted, handed, asked = job(6), list[int](), list[int]()

    def ready(index: int) -> bool | None:
        if index >= 6:
            return False
        asked.append(index)
        late = index > len(handed) or asked.count(index) < 3
        return None if late else True

    with group(FP8, (3, 3, 2), jobs=1, limit_s=8.0) as (engine, _):
        opened = engine.open(wanted)
        made = []
        for block in opened.blocks(ready=ready):
            handed.append(block.index)
            made.append(block)
        opened.close()
    assert_equal(made, blocks_of(alone(FP8), wanted))


def test_no_rank_gives_up_while_sound_is_missing() -> None:
    wanted, since = job(3), list[float]()

    def ready(index: int) -> bool | None:
        if index == 2 and not since:
            since.append(time.monotonic())
        time.sleep(0.05)
        if index == 2 and time.monotonic() - since[0] < 5:  # longer than the time limit
            return None
        return index < 3

    with group(FP8, (4, 4), jobs=1, limit_s=3.0) as (engine, _):
        opened = engine.open(wanted)
        made = list(opened.blocks(ready=ready))
        opened.close()
    assert_equal(made, blocks_of(alone(FP8), wanted))


def test_a_drawn_skeleton_goes_round_with_its_block() -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (30, 64, 64, 3), dtype=np.uint8)
    wanted = replace(job(3), skeleton=DrawnPose(pack(pictures)))
    expected = blocks_of(alone(FP8), wanted)
    assert not torch.equal(expected[0].latents, blocks_of(alone(FP8), job(3))[0].latents)
    with group(FP8, (3, 3, 2), jobs=1) as (engine, _):
        assert_equal(blocks_of(engine, wanted), expected)


def _blocks_of(engine: BenchRank, wanted: StreamJob, fault: Callable[[], None]) -> list[Block]:
    opened = engine.open(wanted)
    blocks = opened.blocks()
    made = [next(blocks)]
    fault()
    made += list(blocks)
    opened.close()
    return made


@pytest.mark.parametrize("lost", [0, 1], ids=["first rank", "middle rank"])
def test_a_killed_rank_is_noticed_at_once(lost: int) -> None:
    with group(FP8, (3, 3, 2), jobs=1) as (engine, processes):
        since = list[float]()  # the fault: how long the group takes to begin does not count

        def fault() -> None:
            since.append(time.monotonic())
            os.kill(processes[lost].pid, signal.SIGKILL)
            processes[lost].join()

        with pytest.raises(GroupError, match="lost"):
            _blocks_of(engine, job(9), fault)
        assert time.monotonic() - since[0] < 15


def test_a_rank_that_pauses_is_waited_for() -> None:
    with group(FP8, (4, 4), jobs=1) as (engine, processes):

        def fault() -> None:
            os.kill(processes[0].pid, signal.SIGSTOP)
            threading.Timer(2, lambda: os.kill(processes[0].pid, signal.SIGCONT)).start()

        assert_equal(_blocks_of(engine, job(6), fault), blocks_of(alone(FP8), job(6)))


def test_a_rank_that_hangs_is_given_up() -> None:
    with group(FP8, (4, 4), jobs=1, limit_s=3) as (engine, processes):
        try:
            with pytest.raises(GroupError, match="lost"):
                _blocks_of(engine, job(9), lambda: os.kill(processes[0].pid, signal.SIGSTOP))
        finally:
            os.kill(processes[0].pid, signal.SIGKILL)


def test_rank_0_gets_what_enters_and_what_goes_on() -> None:
    engine = rank_engine(EIGHT, FP8, Group(1, 2, CPU), torch.float32, vae=False, layers=(4, 4))
    settings = job().settings
    spec = DenoiseSpec(settings=settings, sigmas=sigma_steps(EIGHT, 4), num_blocks=1, h=8, w=8, skeleton=True)
    shapes = circle(engine.backend, spec).shapes
    entering = request(EIGHT, torch.float32, spec).shapes
    assert shapes[: len(entering)] == entering
    assert shapes[len(entering)] == ((1, EIGHT.dit.in_dim, 3, 8, 8), torch.float32), "latents"


def test_a_rank_keeps_its_own_layers_only() -> None:
    layers = share_layers(4, 8, RankTimes((1.0,) * 3, 4.0))
    assert layers == (3, 3, 2)
    rank = rank_engine(EIGHT, FP8, Group(1, 3, CPU), torch.float32, vae=False, layers=layers)
    whole = rank_engine(EIGHT, FP8, Group(0, 1, CPU), torch.float32, vae=False)
    assert len(rank.backend.dit.layers) == 3
    ours, theirs = rank.backend.dit.layers.use(4), whole.backend.dit.layers.use(4)
    for name, linear in ours.linears().items():
        assert torch.equal(linear.weight.float(), theirs.linears()[name].weight.float())
