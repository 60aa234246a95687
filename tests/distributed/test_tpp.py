"""Steps spread over processes: the bits of one process, snapshots that fit either, no silence when a rank is lost."""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from liveavatar.checkpoints.load import load_model, save_model
from liveavatar.config import TINY
from liveavatar.distributed.group import GroupError
from liveavatar.engine.engine import Engine
from liveavatar.engine.job import Block, StreamJob, TensorFeatures
from liveavatar.engine.settings import RenderSettings
from liveavatar.errors import InputError
from liveavatar.load import load_engine
from liveavatar.pose.packed import DrawnPose, pack
from tests.job_changes import changed
from tests.ranks import group
from tests.released import SCALED, make_released

BLOCKS = 10


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def changing_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, but with a reference that changes after the first clip, guided by a head pose and by eyes."""
    loaded = load_model(tiny_model, "cpu", torch.float32)
    folder = tmp_path_factory.mktemp("models") / "changing"
    parts = {name: getattr(loaded, name).state_dict() for name in ("dit", "vae", "text")}
    save_model(
        folder, replace(TINY, reanchor=True, pose_guided=True, lids_conditioned=True, gaze_conditioned=True), parts
    )
    return folder


@pytest.fixture(scope="module")
def alone(tiny_model: Path) -> Callable[[int], list[Block]]:
    """What one process makes in so many steps: six blocks."""
    return cache(lambda steps: stream(single(tiny_model), make_job(steps, num_frames=72)))


def make_job(sample_steps: int = 4, infer_frames: int = 24, num_frames: int = 12 * BLOCKS - 5) -> StreamJob:
    rng = np.random.default_rng(0)
    return StreamJob(
        image=rng.integers(0, 255, (128, 128, 3), dtype=np.uint8),
        settings=RenderSettings(
            prompt="a calm woman in warm light", sample_steps=sample_steps, infer_frames=infer_frames
        ),
        features=TensorFeatures(torch.from_numpy(rng.normal(size=(5, 768, 100))).float()),
        num_frames=num_frames,
    )


def stream(engine: Engine, job: StreamJob, state: dict[str, torch.Tensor] | None = None, **options: Any) -> list[Block]:
    """All blocks, from `state` on; states are copied."""
    opened = engine.open(job)
    if state is not None:
        opened.restore(state)
    try:
        return [
            replace(b, state=b.state and {name: t.clone() for name, t in b.state.items()})
            for b in opened.blocks(**options)
        ]
    finally:
        opened.close()


def single(model_dir: Path) -> Engine:
    return load_engine(model_dir, "cpu", "float32")


def assert_equal(made: list[Block], expected: list[Block]) -> None:
    assert [b.index for b in made] == [b.index for b in expected]
    for ours, theirs in zip(made, expected, strict=True):
        assert torch.equal(ours.latents, theirs.latents)
        assert (ours.frames is None) == (theirs.frames is None)
        assert ours.frames is None or np.array_equal(ours.frames, theirs.frames)


@pytest.mark.parametrize(
    ("world", "own", "steps"),
    [
        pytest.param(1, False, (3, 4, 5), id="1", marks=pytest.mark.nightly),
        pytest.param(2, False, (3, 4, 5), id="2"),
        pytest.param(2, True, (3, 4, 5), id="1 and a decoder", marks=pytest.mark.nightly),
        pytest.param(3, False, (3, 4, 5), id="3", marks=pytest.mark.nightly),
        pytest.param(3, True, (3, 4, 5), id="2 and a decoder", marks=pytest.mark.nightly),
        pytest.param(4, False, (4, 5), id="4", marks=pytest.mark.nightly),
        pytest.param(4, True, (3, 4, 5), id="3 and a decoder"),
        pytest.param(5, True, (4, 5), id="4 and a decoder", marks=pytest.mark.nightly),
    ],
)
def test_a_group_makes_the_bits_of_one_process(
    tiny_model: Path, alone: Callable[[int], list[Block]], world: int, own: bool, steps: tuple[int, ...]
) -> None:
    with group(tiny_model, world, own, jobs=len(steps)) as (member, _):
        engine = member.engine()
        for sample_steps in steps:
            made = stream(engine, make_job(sample_steps, num_frames=12 * world + 12))
            assert_equal(made, alone(sample_steps)[: world + 1])
            assert all(len(b.step_s) == sample_steps and min(b.step_s) > 0 for b in made)
            assert world == 1 or all(len(b.wait_s) == world and max(b.wait_s) > 0 for b in made)
            assert all(len(b.memory) == world and all(m.process > 0.05 for m in b.memory) for b in made)


@pytest.fixture(scope="module")
def drawn_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in the released layout, guided by latents of a drawn skeleton."""
    return make_released(tmp_path_factory.mktemp("models") / "drawn")


def drawn_job() -> StreamJob:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (50, 64, 64, 3), dtype=np.uint8)
    features = torch.from_numpy(rng.normal(size=(SCALED.speech.num_states, SCALED.speech.dim, 60))).float()
    return replace(
        make_job(2, num_frames=60),
        image=pictures[0],
        features=TensorFeatures(features),
        skeleton=DrawnPose(pack(pictures)),
    )


def test_a_drawn_skeleton_guides_a_stream(drawn_model: Path) -> None:
    job, engine = drawn_job(), single(drawn_model)
    made = stream(engine, job, snapshot_every=3)
    free = stream(engine, replace(job, skeleton=None, num_frames=12))
    assert not torch.equal(made[0].latents, free[0].latents), "the pose matters"
    assert_equal(stream(engine, job, made[2].state), made[3:])
    with pytest.raises(InputError, match="draw them at its size"):
        engine.open(replace(job, image=np.zeros((64, 128, 3), np.uint8)))
    with pytest.raises(InputError, match="takes drawn pictures"):
        engine.open(replace(job, skeleton=None, pose=np.zeros((12, 3), np.float32)))


@pytest.mark.nightly
def test_a_drawn_skeleton_guides_a_group_as_one_process(drawn_model: Path) -> None:
    job = drawn_job()
    alone = stream(single(drawn_model), job, snapshot_every=3)
    for world, own in ((2, False), (3, True)):
        with group(drawn_model, world, own, jobs=2) as (member, _):
            assert_equal(stream(member.engine(), job), alone)
            assert_equal(stream(member.engine(), job, alone[2].state), alone[3:])


def test_a_model_of_angles_takes_no_skeleton(tiny_model: Path) -> None:
    with pytest.raises(InputError, match="takes head angles"):
        single(tiny_model).open(replace(make_job(), skeleton=drawn_job().skeleton))


@pytest.mark.parametrize("infer_frames", [12, *(pytest.param(n, marks=pytest.mark.nightly) for n in (24, 48))])
@pytest.mark.parametrize(
    ("world", "own"),
    [pytest.param(2, False, id="2"), pytest.param(4, True, id="3 and a decoder", marks=pytest.mark.nightly)],
)
def test_the_reference_changes_in_the_middle(changing_model: Path, world: int, own: bool, infer_frames: int) -> None:
    job = make_job(infer_frames=infer_frames)
    expected = stream(single(changing_model), job)
    fixed = stream(single(changing_model), replace(job, num_frames=12))
    assert torch.equal(fixed[0].latents, expected[0].latents)
    with group(changing_model, world, own) as (member, _):
        assert_equal(stream(member.engine(), job), expected)


def test_threads_are_those_of_the_last_rank(tiny_model: Path) -> None:
    job = make_job(num_frames=36)
    torch.set_num_threads(2)
    try:
        expected = stream(single(tiny_model), job)
        with group(tiny_model, 2, False) as (member, _):
            assert_equal(stream(member.engine(), job), expected)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("world", "own"),
    [
        pytest.param(2, False, id="2", marks=pytest.mark.nightly),
        pytest.param(4, False, id="4", marks=pytest.mark.nightly),
        pytest.param(3, True, id="2 and a decoder"),
    ],
)
def test_snapshots_fit_every_placement(changing_model: Path, world: int, own: bool) -> None:
    alone, job = single(changing_model), make_job()
    whole = stream(alone, job, snapshot_every=1)
    with group(changing_model, world, own, jobs=5) as (member, _):
        engine = member.engine()
        spread = stream(engine, job, snapshot_every=4)
        assert_equal(spread, whole)
        ours, theirs = spread[3].state, whole[3].state
        assert ours is not None
        assert theirs is not None
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        # Right before the reference changes, right after it, inside of clip two, and of clip four.
        for index in (1, 2, 3, 7):
            assert_equal(stream(engine, job, whole[index].state), whole[index + 1 :])
    assert_equal(stream(alone, job, ours), whole[4:])


def test_the_pose_reaches_every_rank(changing_model: Path) -> None:
    track = np.random.default_rng(1).uniform(0, 0.4, size=(22, 6)).astype(np.float32)
    still, moved = make_job(num_frames=36), replace(make_job(num_frames=36), pose=track)
    expected = stream(single(changing_model), moved)
    seeded = stream(single(changing_model), replace(moved, pose=track[:, :3]))
    assert not torch.equal(expected[0].latents, seeded[0].latents)
    assert not torch.equal(expected[0].latents, stream(single(changing_model), still)[0].latents)
    with group(changing_model, 3, True) as (member, _):
        assert_equal(stream(member.engine(), moved), expected)


def test_a_job_that_is_left_frees_the_group(tiny_model: Path) -> None:
    job = make_job()
    with group(tiny_model, 3, False, jobs=3) as (member, processes):
        engine = member.engine()
        opened = engine.open(job)
        blocks = opened.blocks(snapshot_every=4)
        for _ in range(3):
            next(blocks)
        opened.close()
        with engine.job(), pytest.raises(InputError, match="infer_frames"):
            engine.open(changed(job, infer_frames=13))
        assert_equal(stream(engine, job), stream(single(tiny_model), job))
    assert [p.exitcode for p in processes] == [0, 0]


def _later(seconds: float, action: Callable[[], None]) -> None:
    threading.Timer(seconds, action).start()


FAULTY = make_job(num_frames=60)


def _blocks_of(engine: Engine, fault: Callable[[], None]) -> list[Block]:
    opened = engine.open(FAULTY)
    blocks = opened.blocks()
    made = [next(blocks)]
    fault()
    return made + list(blocks)


@pytest.mark.parametrize("lost", [0, 1], ids=["first rank", "middle rank"])
def test_a_killed_rank_is_noticed_at_once(tiny_model: Path, lost: int) -> None:
    with group(tiny_model, 3, False) as (member, processes):
        since = list[float]()  # the fault: how long the group takes to begin does not count

        def fault() -> None:
            since.append(time.monotonic())
            os.kill(processes[lost].pid, signal.SIGKILL)
            processes[lost].join()

        with pytest.raises(GroupError, match="lost"):
            _blocks_of(member.engine(), fault)
        assert time.monotonic() - since[0] < 10


def test_a_rank_that_pauses_is_waited_for(tiny_model: Path) -> None:
    with group(tiny_model, 2, False) as (member, processes):

        def fault() -> None:
            os.kill(processes[0].pid, signal.SIGSTOP)
            _later(2, lambda: os.kill(processes[0].pid, signal.SIGCONT))

        assert_equal(_blocks_of(member.engine(), fault), stream(single(tiny_model), FAULTY))


def test_a_rank_that_hangs_is_given_up(tiny_model: Path) -> None:
    with group(tiny_model, 2, False, limit_s=3) as (member, processes):
        try:
            with pytest.raises(GroupError, match="lost"):
                _blocks_of(member.engine(), lambda: os.kill(processes[0].pid, signal.SIGSTOP))
        finally:
            os.kill(processes[0].pid, signal.SIGKILL)
