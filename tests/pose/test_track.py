"""Pose tracks: what the transformer is told, mirroring, and tracks that do not last as long as the sound."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from liveavatar.config import FROM_CAMERA, FROM_PORTRAIT, TINY, ModelConfig
from liveavatar.errors import CheckpointError, InputError
from liveavatar.pose.track import (
    POSE_SCALE,
    angles_beyond,
    conditioning_track,
    eyes_ignored,
    fit_eyes,
    fit_length,
    latent_track,
    mirrored,
    mirrored_eyes,
    pose_latents,
    split_track,
)


def test_latents_are_constant_maps_of_scaled_angles_and_presence() -> None:
    track = torch.tensor([[0.3, -0.15, 0.0], [0.0, 0.0, 0.6]])
    latents = pose_latents(track[None], 3, 5)
    assert latents.shape == (1, 4, 2, 3, 5)
    assert torch.equal(latents, latents[..., :1, :1].expand_as(latents))
    torch.testing.assert_close(latents[0, :3, :, 0, 0].T * POSE_SCALE, track)
    assert (latents[:, 3] == 1).all(), "looking straight ahead is a pose too"


def test_a_latent_has_the_mean_of_its_frames() -> None:
    frames = torch.arange(24.0).view(8, 3)
    torch.testing.assert_close(latent_track(frames), torch.stack([frames[:4].mean(0), frames[4:].mean(0)]))


def test_the_mirrored_picture_turns_and_tilts_the_other_way() -> None:
    assert torch.equal(mirrored(torch.tensor([[0.1, 0.2, 0.3]])), torch.tensor([[-0.1, 0.2, -0.3]]))


def test_the_mirrored_picture_looks_to_the_other_side() -> None:
    assert torch.equal(mirrored_eyes(torch.tensor([[0.4, 0.1, 0.05]])), torch.tensor([[0.4, -0.1, 0.05]]))


@pytest.mark.parametrize(
    "wanted", [pytest.param(20, id="cut"), pytest.param(60, id="as long"), pytest.param(150, id="lengthened")]
)
def test_fitted_tracks_are_as_long_as_asked_and_smooth(wanted: int) -> None:
    frames = (0.2 * np.sin(np.arange(60) / 10)[:, None] * [1, 0.5, 0.2]).astype(np.float32)
    fitted = fit_length(frames, wanted)
    assert fitted.shape == (wanted, 3)
    assert fitted.dtype == np.float32
    assert np.array_equal(fitted[:60], frames[:wanted])
    assert np.abs(np.diff(fitted, axis=0)).max() < 0.025
    if wanted > 60:
        np.testing.assert_allclose(fitted[-1], frames.mean(0), atol=1e-6)


@pytest.mark.parametrize(
    ("columns", "given"),
    [
        pytest.param(3, (False, False, False), id="head"),
        pytest.param(4, (True, False, False), id="lids"),
        pytest.param(6, (True, True, True), id="lids and gaze"),
    ],
)
def test_a_track_is_head_and_eyes(columns: int, given: tuple[bool, ...]) -> None:
    track = np.random.default_rng(0).uniform(0, 0.3, (8, columns))
    head, eyes = split_track(track)
    assert np.array_equal(head, track[:, :3])
    assert eyes.dtype == np.float32
    assert (np.isfinite(eyes) == given).all()
    assert np.array_equal(eyes[:, : columns - 3], track[:, 3:].astype(np.float32))
    fitted = fit_eyes(eyes, 12)
    assert np.array_equal(fitted[:8], eyes, equal_nan=True)
    assert np.isnan(fitted[8:]).all()
    assert np.array_equal(fit_eyes(eyes, 5), eyes[:5], equal_nan=True)


def test_eyes_that_a_model_is_not_told_are_named() -> None:
    none, lids, both = (
        TINY,
        replace(TINY, lids_conditioned=True),
        replace(TINY, lids_conditioned=True, gaze_conditioned=True),
    )
    head, shut, all_given = np.zeros((4, 3)), np.zeros((4, 4)), np.zeros((4, 6))
    gaze_alone = np.where(np.arange(6) == 3, np.nan, all_given)
    said = {"none": none, "lids": lids, "both": both}
    found = {name: [eyes_ignored(m, t) for t in (head, shut, all_given, gaze_alone)] for name, m in said.items()}
    assert found == {
        "none": ["", "the lids", "the lids and the gaze", "the gaze"],
        "lids": ["", "", "the gaze", "the gaze"],
        "both": ["", "", "", ""],
    }


def test_configs_from_before_pose_guidance_are_read_as_not_guided() -> None:
    raw = json.loads(replace(TINY, pose_guided=True).to_json())
    assert ModelConfig.from_json(json.dumps(raw)).pose_guided
    del raw["pose_guided"]
    assert not ModelConfig.from_json(json.dumps(raw)).pose_guided


def test_the_origin_of_head_angles_is_part_of_a_config() -> None:
    config = replace(TINY, pose_origin=FROM_PORTRAIT)
    assert ModelConfig.from_json(config.to_json()) == config
    raw = json.loads(config.to_json())
    assert raw["pose_origin"] == "portrait"
    with pytest.raises(CheckpointError, match="head angles from 'moon'"):
        ModelConfig.from_json(json.dumps({**raw, "pose_origin": "moon"}))
    del raw["pose_origin"]
    assert ModelConfig.from_json(json.dumps(raw)).pose_origin == FROM_CAMERA, "configs from before"


def test_a_track_is_told_against_the_camera_or_the_portrait() -> None:
    camera = replace(TINY, pose_guided=True)
    portrait = replace(camera, pose_origin=FROM_PORTRAIT)
    track = np.array([[0.1, 0.2, 0.3], [0.0, -0.2, 0.1]], np.float32)
    head = np.array([0.1, -0.1, 0.0], np.float32)
    assert np.array_equal(conditioning_track(camera, track, None), track)
    assert np.array_equal(conditioning_track(camera, track, head), track)
    np.testing.assert_allclose(conditioning_track(portrait, track, head), [[0, 0.3, 0.3], [-0.1, -0.1, 0.1]], atol=1e-7)
    assert conditioning_track(portrait, track, head.astype(np.float64)).dtype == np.float32
    for bad, says in ((None, "give portrait_pose"), (np.zeros(2), "3 finite"), (np.full(3, np.nan), "3 finite")):
        with pytest.raises(InputError, match=says):
            conditioning_track(portrait, track, bad)


LIMITED = replace(TINY, pose_guided=True, pose_limits=(20.0, 10.0, 10.0))


def test_angles_within_the_limits_stay_as_they_are() -> None:
    track = np.radians([[16, -8, 8], [-16, 8, -8], [0, 0, 0]]).astype(np.float32)
    assert np.array_equal(conditioning_track(LIMITED, track, None), track)
    assert np.array_equal(conditioning_track(replace(LIMITED, pose_limits=()), 5 * track, None), 5 * track)
    assert not angles_beyond(LIMITED, track, None)


def test_larger_angles_approach_the_limits_in_order() -> None:
    asked = np.radians(np.linspace(-45, 45, 91))[:, None].repeat(3, 1).astype(np.float32)
    kept = np.degrees(conditioning_track(LIMITED, asked, None))
    assert np.abs(kept).max(0) == pytest.approx([20, 10, 10], abs=0.1)
    assert (np.abs(kept) <= np.array(LIMITED.pose_limits) + 1e-4).all()
    assert (np.diff(kept, axis=0) >= -1e-5).all(), "a head that turns further is never shown turned less"
    assert np.allclose(kept, -kept[::-1], atol=1e-5)
    assert np.diff(np.degrees(asked[:, 0]) - kept[:, 0], n=2).max() < 0.2, "no kink"


def test_limits_count_from_the_origin_of_the_model() -> None:
    model = replace(LIMITED, pose_origin=FROM_PORTRAIT)
    portrait = np.radians([20, 0, 0]).astype(np.float32)
    track = np.radians([[30, 0, 0]]).astype(np.float32)
    assert np.degrees(conditioning_track(model, track, portrait)) == pytest.approx(np.array([[10, 0, 0]]), abs=1e-4)
    assert not angles_beyond(model, track, portrait)
    assert angles_beyond(model, -track, portrait) == "yaw of 50 degrees (limit 20)"
