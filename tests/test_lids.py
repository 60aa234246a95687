"""Lids that are told: the same wherever a stream is cut, blinks as often and as long as people's."""

import numpy as np
import torch

from liveavatar.lids import GAP, STRETCH, blink, closure
from liveavatar.pose import ANGLES, free_head, pose_latents

PER_SECOND = 25 / 4  # latents


def test_any_part_of_the_track_is_that_of_the_whole() -> None:
    whole = closure(7, 0, 600)
    for first, count in ((0, 3), (186, 9), (300, 300), (597, 3)):
        np.testing.assert_array_equal(closure(7, first, count), whole[first : first + count])
    assert not np.array_equal(closure(8, 0, 600), whole)


def test_lids_shut_now_and_then_and_open_again() -> None:
    seconds = 300
    track = closure(420, 0, int(seconds * PER_SECOND))
    assert track.min() >= 0
    assert track.max() <= 1
    shut = track > 0.3
    blinks = int((shut[1:] & ~shut[:-1]).sum())
    assert seconds / (GAP[1] + 1) < blinks < seconds / GAP[0]
    assert shut.mean() < 0.2
    edges = np.abs(np.diff(track))[np.arange(STRETCH, seconds, STRETCH) * 25 // 4 - 1]
    assert edges.max() < 0.3, "no blink is cut off where draws change"


def test_a_blink_shuts_for_a_fifth_of_a_second() -> None:
    time = np.arange(0, 2, 0.001)
    shut = blink(time, 1.0)
    assert shut.max() == 1
    assert 0.15 < (shut > 0.3).mean() * 2 < 0.3


def test_latents_hold_head_and_lids_apart() -> None:
    track, lids = torch.full((2, 6, 3), 0.3), torch.rand(2, 6)
    both = pose_latents(track, 3, 5, lids, ANGLES + 2)
    assert both.shape == (2, 5, 6, 3, 5)
    assert torch.equal(both[:, :4], pose_latents(track, 3, 5))
    free = pose_latents(None, 3, 5, lids, ANGLES + 2)
    assert torch.equal(free_head(both), free)
    assert not free[:, :4].any()
    assert torch.equal(free[:, 4, :, 2, 4], lids)
    assert not pose_latents(track, 3, 5, None, ANGLES + 2)[:, 4].any()
