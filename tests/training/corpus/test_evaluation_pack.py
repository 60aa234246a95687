"""The split in the repository follows its plan, and packing can be interrupted and resumed."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from liveavatar.errors import InputError
from liveavatar.quality.split import FOLDER, Clip, load_split
from liveavatar.timing import FPS, SAMPLE_RATE
from liveavatar.training.corpus.clips import BLOCK_FRAMES, EVAL_SEED, ClipPlan
from liveavatar.training.corpus.evaluation_pack import BLOCKS, PLAN, PLANS, EvaluationClip, pack
from liveavatar.training.corpus.layout import ClipLabels
from liveavatar.training.corpus.speech.tracks import TrackInfo

MAX_BYTES = 6.5e6


def test_the_stored_split_follows_its_plan(stored: list[Clip]) -> None:
    made = [(c.info.seed, c.info.orientation, c.info.track, c.info.block) for c in stored]
    assert made == [(p.seed, p.orientation, p.track, p.block) for p in PLAN]
    assert {c.info.num_frames for c in stored} == {BLOCKS * BLOCK_FRAMES}
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) <= MAX_BYTES


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_plans_are_held_out(plan: tuple[EvaluationClip, ...]) -> None:
    # A training run judges itself by the seeds from EVAL_SEED on, a few hundred at most.
    assert all(p.seed >= EVAL_SEED + 10_000 for p in plan)
    assert {p.orientation for p in plan} == {"portrait", "landscape"}
    assert all(p.track.startswith("eval_") for p in plan)


def test_nobody_is_in_two_plans() -> None:
    seeds = [p.seed for plan in PLANS.values() for p in plan]
    assert len(set(seeds)) == len(seeds)


@dataclass
class _Track:
    info: TrackInfo

    def clip(self, block: int, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
        time = np.arange(num_frames * SAMPLE_RATE // FPS) / SAMPLE_RATE
        return (0.2 * np.sin(2 * np.pi * (200 + block) * time)).astype(np.float32), np.zeros((0, 3))


class _Renderer:
    """Draws a moving gradient and knows where its "face" is."""

    def __init__(self) -> None:
        info = {"file": "", "voice": "v", "split": "eval", "seconds": 9.0, "events": [], "text": []}
        self.tracks = [_Track(TrackInfo(id=i, **info)) for i in ("a", "b")]
        self.drawn: list[int] = []
        self.assets = SimpleNamespace(expression_names=["jawOpen", "eyeBlink_L", "eyeBlink_R", "mouthClose"])

    def clip(self, plan: ClipPlan) -> tuple[np.ndarray, ClipLabels]:
        self.drawn.append(plan.seed)
        count = plan.num_frames + 1
        y, x = np.mgrid[0:64, 0:64]
        frames = np.stack([np.stack([x * 3 + t, y * 3 + t, x + y], -1) for t in range(count)]).astype(np.uint8)
        landmarks = (30 + np.random.default_rng(plan.seed).normal(size=(count, 68, 2))).astype(np.float32)
        head = np.linspace(0.1, 0.2, 3 * count, dtype=np.float32).reshape(count, 3)
        return frames, ClipLabels(
            landmarks=landmarks, expression=np.tile(np.float16([0, 1, 0.5, 0]), (count, 1)), head=head,
            gaze=np.zeros((count, 2), np.float32), track=plan.track, block=plan.block, seed=plan.seed, caption="c",
        )  # fmt: skip


def test_packing_can_be_cut_and_taken_up(tmp_path: Path) -> None:
    plan = (EvaluationClip(7, "portrait", "b", 3), EvaluationClip(8, "portrait", "a", 0))
    first, second = _Renderer(), _Renderer()
    assert pack(tmp_path, first, plan[:1], blocks=1) == 1
    assert pack(tmp_path, second, plan, blocks=1) == 1
    assert (first.drawn, second.drawn) == ([7], [8])
    clips = load_split(tmp_path)
    assert [(c.info.seed, c.info.track, c.info.caption) for c in clips] == [(7, "b", "c"), (8, "a", "c")]
    frames, labels = second.clip(ClipPlan(seed=8, orientation="portrait", track=0, block=0, num_frames=12))
    stored = clips[1].labels()
    assert np.abs(stored.landmarks - labels.landmarks[:-1]).max() <= 1 / 64
    assert np.abs(stored.photo_landmarks - labels.landmarks[-1]).max() <= 1 / 64
    assert np.array_equal(stored.photo_head, labels.head[-1])
    np.testing.assert_allclose(stored.eyes, np.c_[np.full(12, 0.75), 0.8 * labels.head[:-1, :2]], rtol=1e-6)
    assert np.array_equal(clips[1].photo(), frames[-1])
    error = np.mean((clips[1].frames().astype(float) - frames[:-1]) ** 2)
    assert 10 * np.log10(255**2 / error) == pytest.approx(clips[1].info.film_psnr, abs=0.3)
    assert clips[1].info.film_psnr > 40


def test_packing_needs_its_tracks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no track eval_001"):
        pack(tmp_path, _Renderer(), PLAN, blocks=1)
