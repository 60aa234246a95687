"""What a pose file becomes for an engine; remarks about angles are tested with whole renders in `test_job`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from liveavatar.audio.feature_file import save_features
from liveavatar.config import LIVE_AVATAR_14B, TINY
from liveavatar.engine.settings import RenderSettings
from liveavatar.errors import InputError
from liveavatar.load import load_engine
from liveavatar.pose.packed import pack
from liveavatar.render.job import run_job
from liveavatar.render.pose import JobPose, read_pose
from tests.released import SCALED, make_released
from tests.render_jobs import noise_job

IMAGE = np.zeros((64, 96, 3), np.uint8)
GUIDED = replace(TINY, pose_guided=True)


def test_without_a_file_nothing_guides() -> None:
    assert read_pose(GUIDED, None, IMAGE, None, pytest.fail) == JobPose()


def test_a_track_is_for_a_model_of_angles(tmp_path: Path) -> None:
    np.save(tmp_path / "pose.npy", np.full((5, 3), 0.1, np.float32))
    pose = read_pose(GUIDED, tmp_path / "pose.npy", IMAGE, None, pytest.fail)
    assert pose.track is not None
    assert pose.track.shape == (5, 3)
    assert pose.skeleton is None
    with pytest.raises(InputError, match="holds no packed pictures"):
        read_pose(LIVE_AVATAR_14B, tmp_path / "pose.npy", IMAGE, None, pytest.fail)


def test_pictures_are_for_a_model_of_skeletons(tmp_path: Path) -> None:
    np.save(tmp_path / "pose.npy", pack(np.full((4, 64, 96, 3), 7, np.uint8)))
    pose = read_pose(LIVE_AVATAR_14B, tmp_path / "pose.npy", IMAGE, None, pytest.fail)
    assert (pose.track, pose.portrait) == (None, None)
    assert pose.skeleton is not None
    assert pose.skeleton.frames(3, 5)[:, 0, 0, 0].tolist() == [7, 0]


@pytest.mark.nightly
def test_a_render_follows_a_drawn_skeleton(tmp_path: Path) -> None:
    folder = make_released(tmp_path / "model")
    job = noise_job(tmp_path, 24)
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(SCALED.speech.num_states, SCALED.speech.dim, 24))).float()
    save_features(tmp_path / "features.pt", features)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(job.image)
    np.save(tmp_path / "pose.npy", pack(rng.integers(0, 255, (24, 64, 64, 3), dtype=np.uint8)))
    engine = load_engine(folder, device="cpu", dtype="float32")
    settings = RenderSettings(prompt="a calm woman", sample_steps=1, infer_frames=12)
    free = replace(job, settings=settings, work_dir=tmp_path / "free")
    made = run_job(engine, replace(job, settings=settings, pose=tmp_path / "pose.npy"))
    assert made.num_frames == 24
    assert made.latents_sha256 != run_job(engine, free).latents_sha256
    assert all(len(row.readings) == 1 and row.readings[0].process > 0.05 for row in made.rows)
