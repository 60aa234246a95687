"""Pairs for the decoder that copies: points of a frame lie in the picture where the targets say."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from liveavatar.quality.reference import to_video
from liveavatar.training import runtime
from liveavatar.training.data import load_clips
from liveavatar.training.reference_pairs import (
    PairSampler,
    at_points,
    flow_loss,
    load_stills,
    moving_grid,
    parted_starts,
)
from tests.training.conftest import ToyRun


def sampler(corpus: ToyRun, rank: runtime.TrainRank, still_share: float) -> PairSampler:
    clips = load_clips(corpus.clips, "train", rank.device)
    return PairSampler(clips, [], 8, still_share, rank.generator(3))


def test_targets_of_a_still_show_what_its_points_show(corpus: ToyRun, rank: runtime.TrainRank) -> None:
    batch = sampler(corpus, rank, 1.0).sample(6)
    assert batch.video.shape == (6, 3, 8, 128, 128)
    assert batch.same_light.sum() > 0
    inside = ((batch.targets > 2) & (batch.targets < 125)).all(-1)
    for i in range(6):
        seen = at_points(batch.video[i].transpose(0, 1), batch.points[i])
        wanted = at_points(batch.reference[i].transpose(0, 1).expand(8, -1, -1, -1), batch.targets[i])
        if batch.same_light[i]:
            away = (seen - wanted).abs().mean(-1)[inside[i]]
            assert away.median() < 0.02, "a distorted picture shows other things than its points' targets"
    assert (batch.points - batch.targets).abs().max() > 3, "nothing moves"


def test_clip_pairs_follow_the_landmarks(corpus: ToyRun, rank: runtime.TrainRank) -> None:
    batch = sampler(corpus, rank, 0.0).sample(24)
    assert batch.weights.mean().item() == pytest.approx(1.0, abs=1e-4)
    offset = batch.points - batch.targets
    assert offset.abs().median() < 20
    assert 0 < batch.same_light.mean() < 1, "never, or always, another light"


def test_drawn_pairs_show_the_place_of_their_latents(corpus: ToyRun, rank: runtime.TrainRank) -> None:
    clips = load_clips(corpus.clips, "train", rank.device)
    drawn = []
    for c in clips:  # "latents" that are the mean red of every cell, so that they can be compared with the pictures
        video = to_video(c.frames)[:, :1, :-1]
        both = torch.stack((video, video.flip(-1)), 1)
        drawn.append(F.avg_pool3d(both.flatten(0, 1), (4, 16, 16)).unflatten(0, (-1, 2)))
    pairs = PairSampler(clips, [], 8, 0.2, rank.generator(3), drawn, 0.5)
    batch = pairs.sample(24)
    assert batch.latents is not None
    assert 4 < batch.drawn.sum() < 20
    seen = F.avg_pool3d(batch.video[:, :1], (4, 16, 16))
    assert torch.allclose(seen[batch.drawn], batch.latents[batch.drawn], atol=1e-4)
    assert not batch.latents[~batch.drawn].any()
    assert batch.same_light[batch.drawn].all(), "a drawn pair's picture got other colours"


def test_mouths_that_are_open_by_a_little_are_found() -> None:
    landmarks = torch.rand(2, 25, 68, 2)
    landmarks[:, :, 36:42], landmarks[:, :, 42:48] = torch.tensor([0.0, 0.0]), torch.tensor([100.0, 0.0])
    landmarks[:, :, 61:64], landmarks[:, :, 65:68] = torch.tensor([50.0, 80.0]), torch.tensor([50.0, 80.0])
    landmarks[1, 8:16, 65:68, 1] += 5.0  # eye distances of 0.05
    found = parted_starts(landmarks, 8)
    assert [1, 8] in found.tolist()
    assert set(found[:, 0].tolist()) == {1}


def test_a_known_flow_costs_nothing(rank: runtime.TrainRank) -> None:
    points = torch.rand(4, 68, 2) * 100 + 14
    flow = torch.zeros(4, 2, 32, 32)
    flow[:, 0], flow[:, 1] = 3.0, -2.0
    assert flow_loss(flow, points, points + torch.tensor([3.0, -2.0]), 128) < 1e-4
    assert flow_loss(flow, points, points, 128) > 3
    assert flow_loss(flow, points - 1000, points, 128) == 0, "points outside the picture count"


def test_a_distortion_moves_evenly() -> None:
    grid = moving_grid(9, 64, torch.Generator().manual_seed(1), torch.device("cpu"))
    steps = (grid[1:] - grid[:-1]).abs().amax((1, 2, 3))
    assert steps.max() < 1.5 * steps.min()


def test_stills_are_one_to_two_crops_long(tmp_path: Path, rank: runtime.TrainRank) -> None:
    for name, size in (("a.png", (40, 60)), ("b.jpg", (900, 500)), ("c.txt", None)):
        if size:
            Image.new("RGB", size, "red").save(tmp_path / name)
        else:
            (tmp_path / name).write_text("no picture")
    assert [min(s.shape[:2]) for s in load_stills(tmp_path, 128, rank.device)] == [128, 256]
