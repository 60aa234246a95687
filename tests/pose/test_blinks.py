"""Eye tracks: the same wherever a stream is cut, blinks and glances as often and as long as people's."""

import numpy as np
import torch

from liveavatar.pose.blinks import AWAY, GAP, STRETCH, blink, blinks, eye_track, saccades
from liveavatar.pose.track import EYES, HEAD, LOOK_SCALE, free_head, pose_latents

PER_SECOND = 25 / 4  # latents


def test_any_part_of_the_track_is_that_of_the_whole() -> None:
    whole = eye_track(7, 0, 600)
    for first, count in ((0, 3), (186, 9), (300, 300), (597, 3)):
        np.testing.assert_array_equal(eye_track(7, first, count), whole[first : first + count])
    assert not np.array_equal(eye_track(8, 0, 600), whole)


def test_lids_shut_now_and_then_and_open_again() -> None:
    seconds = 300
    lids = eye_track(420, 0, int(seconds * PER_SECOND))[:, 0]
    assert lids.min() >= 0
    assert lids.max() <= 1
    shut = lids > 0.3
    times = int((shut[1:] & ~shut[:-1]).sum())
    assert seconds / (GAP[1] + 1) < times < seconds / GAP[0]
    assert shut.mean() < 0.2
    edges = np.abs(np.diff(lids))[np.arange(STRETCH, seconds, STRETCH) * 25 // 4 - 1]
    assert edges.max() < 0.3, "no blink is cut off where draws change"


def test_eyes_look_at_the_camera_most_of_the_time_and_aside_now_and_then() -> None:
    look = eye_track(420, 0, int(600 * PER_SECOND))[:, 1:]
    assert 0.5 < (np.abs(look).max(1) < 1e-6).mean() < 0.85
    assert look.std(0)[0] > 1.5 * look.std(0)[1], "to the side more than up and down"
    assert np.abs(look).max() < 5 * max(AWAY)


def test_blinks_close_and_open() -> None:
    closed = blinks(500, np.random.default_rng(0))
    assert closed.max() > 0.9
    assert np.median(closed) < 0.05
    assert 3 <= ((closed[1:-1] > 0.5) & (closed[:-2] <= 0.5)).sum() <= 14


def test_a_blink_shuts_for_a_fifth_of_a_second() -> None:
    time = np.arange(0, 2, 0.001)
    shut = blink(time, 1.0)
    assert shut.max() == 1
    assert 0.15 < (shut > 0.3).mean() * 2 < 0.3


def test_a_glance_begins_at_the_camera_and_is_held() -> None:
    look = saccades(250, np.random.default_rng(3))
    assert not look[:14].any()
    moving = np.abs(np.diff(look, axis=0)).max(1) > 1e-6
    assert 0 < moving.sum() <= 3 * 250 / 15, "three frames a saccade, one in 0.6 s at most"


def test_latents_hold_head_and_eyes_apart() -> None:
    head, eyes = torch.full((2, 6, 3), 0.3), torch.rand(2, 6, EYES)
    both = pose_latents(head, 3, 5, eyes, HEAD + EYES)
    assert both.shape == (2, 7, 6, 3, 5)
    assert torch.equal(both[:, :HEAD], pose_latents(head, 3, 5))
    free = pose_latents(None, 3, 5, eyes, HEAD + EYES)
    assert torch.equal(free_head(both), free)
    assert not free[:, :HEAD].any()
    assert torch.equal(free[:, 4, :, 2, 4], eyes[..., 0])
    assert torch.equal(free[:, 5:, :, 2, 4], (eyes[..., 1:] / LOOK_SCALE).mT)
    lids_only = pose_latents(head, 3, 5, eyes[..., :1], HEAD + 1)
    assert torch.equal(lids_only, both[:, : HEAD + 1])
    assert not pose_latents(head, 3, 5, None, HEAD + EYES)[:, HEAD:].any()
