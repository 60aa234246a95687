"""Inputs of a stream's blocks are functions of their index; rings go into a snapshot and back by their step."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from liveavatar.config import TINY, ModelConfig
from liveavatar.engine.denoiser import (
    BlockInputs,
    Conditioning,
    DenoiseSpec,
    below,
    is_reanchored,
    load_rings,
    reanchors_at,
    ring_tensors,
)
from liveavatar.engine.engine import Engine
from liveavatar.engine.sampling import clip_noise
from liveavatar.engine.settings import RenderSettings
from liveavatar.errors import InputError
from liveavatar.pose.blinks import eye_track
from liveavatar.pose.track import LOOK_SCALE, POSE_SCALE
from tests.engine.jobs import guided, latents, make_job, nod, with_eyes

CPU = torch.device("cpu")
BF16 = torch.bfloat16
SPEC = DenoiseSpec(
    settings=RenderSettings(prompt="p", seed=7, infer_frames=24), sigmas=(1.0, 0.5, 0.25, 0.0), num_blocks=6, h=2, w=4
)
GAZE = replace(TINY, pose_guided=True, lids_conditioned=True, gaze_conditioned=True)
LIDS = replace(TINY, pose_guided=True, lids_conditioned=True)


def inputs(config: ModelConfig = TINY, pose: torch.Tensor | None = None, dtype: torch.dtype = BF16) -> BlockInputs:
    return BlockInputs(config, SPEC, conditioning(pose), dtype)


def conditioning(pose: torch.Tensor | None) -> Conditioning:
    """Conditioning of which only the pose is looked at."""
    nothing = torch.empty(0)
    return Conditioning(nothing, nothing, nothing, pose)


def channels(made: torch.Tensor | None) -> torch.Tensor:
    """Pose latents [1, C, 3, h, w], the same everywhere in a picture, as rows [3, C]."""
    assert made is not None
    assert made.shape == (1, TINY.dit.cond_dim, 3, SPEC.h, SPEC.w)
    assert (made == made[..., :1, :1]).all()
    return made[0, :, :, 0, 0].mT


def test_a_spec_counts_steps_and_blocks() -> None:
    assert (SPEC.num_steps, SPEC.clip_blocks) == (3, 2)


@pytest.mark.parametrize(
    ("reanchor", "at", "after"),
    [
        pytest.param(True, [2], [3, 4, 5], id="right before the second clip, and never again"),
        pytest.param(False, [], [], id="never"),
    ],
)
def test_the_reference_changes_once(reanchor: bool, at: list[int], after: list[int]) -> None:
    config, blocks = replace(TINY, reanchor=reanchor), range(SPEC.num_blocks)
    assert [block for block in blocks if reanchors_at(config, SPEC, block)] == at
    assert [block for block in blocks if is_reanchored(config, SPEC, block)] == after


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (5, 2, 3, 0)], ids=["in order", "resumed, backwards"])
def test_a_block_has_its_own_part_of_its_clip_s_noise(order: tuple[int, ...]) -> None:
    stream = inputs()
    clips = [clip_noise(7, clip, (TINY.dit.in_dim, 6, 2, 4)).to(BF16) for clip in range(3)]
    for index in order:
        clip, block = divmod(index, 2)
        assert torch.equal(stream.noise(index, CPU)[0], clips[clip][:, 3 * block : 3 * block + 3])


@pytest.mark.parametrize("low", [4, 9])
def test_the_reference_is_as_far_at_every_step(low: int) -> None:
    stream = inputs(replace(TINY, dit=replace(TINY.dit, ref_distance=(low, low + 20))))
    drawn = [[stream.distance(index, step) for step in range(4)] for index in range(40)]
    assert all(len(set(block)) == 1 for block in drawn)
    assert {block[0] for block in drawn} <= set(range(low, low + 21))
    assert len({block[0] for block in drawn}) > 10


def test_a_model_without_pose_has_no_pose_latents() -> None:
    assert inputs().pose(1, CPU) is None
    assert not inputs().has_pose
    assert inputs(LIDS).has_pose


def test_a_head_reaches_the_latents_of_its_own_block() -> None:
    track = torch.full((18, 6), torch.nan)
    track[:, :3] = torch.arange(18.0)[:, None] * POSE_SCALE
    rows = channels(inputs(replace(TINY, pose_guided=True), track, torch.float32).pose(2, CPU))
    torch.testing.assert_close(rows[:, :3], torch.tensor([[6.0], [7.0], [8.0]]).expand(3, 3))
    assert (rows[:, 3] == 1).all()
    assert not rows[:, 4:].any()


def test_eyes_are_those_of_the_seed_where_the_track_has_none() -> None:
    seeded = torch.from_numpy(eye_track(7, 6, 3))
    scaled = seeded / torch.tensor([1, LOOK_SCALE, LOOK_SCALE])
    free = channels(inputs(GAZE, None, torch.float32).pose(2, CPU))
    torch.testing.assert_close(free[:, 4:], scaled)
    assert not free[:, :4].any(), "the head is free"
    assert torch.equal(channels(inputs(LIDS, None, torch.float32).pose(2, CPU))[:, 4], seeded[:, 0])
    assert not channels(inputs(LIDS, None, torch.float32).pose(2, CPU))[:, 5:].any()
    track = torch.zeros(18, 6)
    track[:, 3], track[:, 4:] = 0.5, torch.nan
    mixed = channels(inputs(GAZE, track, torch.float32).pose(2, CPU))
    assert (mixed[:, 4] == 0.5).all()
    torch.testing.assert_close(mixed[:, 5:], scaled[:, 1:])


def test_conditioning_is_copied_whole() -> None:
    parts = [torch.rand(1, 2), torch.rand(1, 3), torch.rand(1, 4), torch.rand(5, 6)]
    for pose in (parts[3], None):
        copied = Conditioning(parts[0], parts[1], parts[2], pose).to(CPU)
        assert torch.equal(copied.text, parts[0])
        assert torch.equal(copied.reference, parts[1])
        assert torch.equal(copied.motion, parts[2])
        assert (copied.pose is None) == (pose is None)


class Ring:
    """A ring of two tensors."""

    def __init__(self, value: float, dtype: torch.dtype = BF16) -> None:
        self.kept = {"k": torch.full((2, 2), value, dtype=dtype), "v": torch.full((2, 2), -value, dtype=dtype)}

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.kept

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, t in self.kept.items():
            t.copy_(tensors[name])


def test_every_step_gets_its_own_ring_back() -> None:
    saved = {name: t.clone() for name, t in ring_tensors({1: Ring(1), 11: Ring(11)}).items()}
    assert saved.keys() == {"cache1.k", "cache1.v", "cache11.k", "cache11.v"}
    rings = {1: Ring(0), 11: Ring(0)}
    load_rings(rings, saved | {"position": torch.tensor(4)})
    for step, ring in rings.items():
        assert (ring.kept["k"] == step).all()
        assert (ring.kept["v"] == -step).all()
    assert below({"decoder.a": saved["cache1.k"], "decoders": saved["cache1.v"]}, "decoder.").keys() == {"a"}


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        pytest.param({0: Ring(1, torch.float32)}, "in float32, and this job in bfloat16", id="another dtype"),
        pytest.param({1: Ring(1)}, "in nothing, and this job in bfloat16", id="of another step"),
    ],
)
def test_a_snapshot_in_another_precision_is_refused_and_changes_nothing(saved: dict[int, Any], words: str) -> None:
    ring = Ring(3)
    with pytest.raises(InputError, match=f"{words}; drop --resume"):
        load_rings({0: ring}, ring_tensors(saved))
    assert (ring.kept["k"] == 3).all()


def test_eyes_that_are_not_given_are_seeded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    conditioned = guided(engine, replace(TINY, lids_conditioned=True, gaze_conditioned=True))

    def made(pose: np.ndarray, lids: float, gaze: float) -> torch.Tensor:
        track = np.array([[lids, gaze, gaze]], np.float32)
        monkeypatch.setattr("liveavatar.engine.denoiser.eye_track", lambda _seed, _first, count: track.repeat(count, 0))
        return latents(list(conditioned.open(make_job(48, pose=pose)).blocks(decode=False)))

    wanted = made(nod(48), 0.5, 0.125)
    assert torch.equal(made(with_eyes(48, 0.5, 0.125), 0, 0), wanted)
    assert torch.equal(made(with_eyes(48, 0.5)[:, :4], 0, 0.125), wanted), "lids given, gaze seeded"
    assert torch.equal(made(with_eyes(48, np.nan, 0.125), 0.5, 0), wanted), "gaze given, lids seeded"
    assert not torch.equal(made(with_eyes(48, 0.5, 0.125), 0, 0), made(nod(48), 0, 0))
    short = with_eyes(26, 0.5, 0.125)
    ended, held = made(short, 0, 0), made(short, 0.5, 0.125)
    assert torch.equal(ended[:2], held[:2])
    assert not torch.equal(ended[2:3], held[2:3]), "after the end of the track eyes go on as seeded"


@pytest.mark.parametrize("lids_conditioned", [True, False])
@pytest.mark.parametrize("gaze_conditioned", [True, False])
def test_a_model_with_conditioned_eyes_moves_them_by_the_seed(
    engine: Engine, lids_conditioned: bool, gaze_conditioned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditioned = guided(
        engine, replace(TINY, lids_conditioned=lids_conditioned, gaze_conditioned=lids_conditioned and gaze_conditioned)
    )

    def rendered(*, lids: float, gaze: float) -> torch.Tensor:
        track = np.array([[lids, gaze, gaze]], np.float32)
        monkeypatch.setattr("liveavatar.engine.denoiser.eye_track", lambda _seed, _first, count: track.repeat(count, 0))
        return latents(list(conditioned.open(make_job(72)).blocks(decode=False)))

    still = rendered(lids=0, gaze=0)
    assert torch.equal(rendered(lids=1, gaze=0), still) is not lids_conditioned
    assert torch.equal(rendered(lids=0, gaze=0.1), still) is not (lids_conditioned and gaze_conditioned)
