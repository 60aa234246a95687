"""Renders whose model counts head angles from the portrait: its own are read off the picture, given, or made up."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from liveavatar.config import FROM_CAMERA, FROM_PORTRAIT
from liveavatar.face.head_pose import portrait_pose
from liveavatar.face.landmarks import FaceTracker
from liveavatar.face.models import FaceModelUnavailable
from liveavatar.load import load_engine
from liveavatar.paths import REPO_ROOT
from liveavatar.render.job import RenderJob, RenderResult, run_job
from tests.job_changes import changed
from tests.render_jobs import SIZE, noise_job

FRAMES = 24
NOD = np.stack([0.1 * np.sin(np.arange(FRAMES) / k) for k in (5, 3, 7)], 1).astype(np.float32) + np.float32(0.05)


@pytest.fixture
def job(tmp_path: Path) -> RenderJob:
    """A second of noise over the sample portrait, whose head is to nod."""
    job = noise_job(tmp_path, FRAMES)
    portrait = Image.open(REPO_ROOT / "data" / "samples" / "portrait.png").convert("RGB")
    portrait.resize(SIZE).save(job.image)
    np.save(tmp_path / "pose.npy", NOD)
    return changed(job, sample_steps=2, pose=tmp_path / "pose.npy")


def render(model_dir: Path, job: RenderJob, origin: str, track: np.ndarray | None = None) -> RenderResult:
    """Render with a model that counts from `origin`; `track` is told in place of the job's."""
    engine = load_engine(model_dir, device="cpu", dtype="float32")
    engine.backend.config = replace(engine.config, pose_guided=True, pose_origin=origin)
    if track is not None:
        pose = job.image.with_name("other.npy")
        np.save(pose, track)
        job = replace(job, pose=pose)
    return run_job(engine, job)


def test_eyes_that_the_model_is_not_told_are_ignored_with_one_warning(
    tiny_model: Path, job: RenderJob, caplog: pytest.LogCaptureFixture
) -> None:
    eyes = np.concatenate((NOD, np.full((FRAMES, 3), 0.5, np.float32)), 1)
    made = render(tiny_model, job, FROM_CAMERA, eyes)
    assert made.notes == ("the model tiny is not told the lids and the gaze of the pose track, and ignores it",)
    assert caplog.text.count(made.notes[0]) == 1
    assert made.latents_sha256 == render(tiny_model, job, FROM_CAMERA).latents_sha256


def no_tracker(*_: object) -> None:
    raise AssertionError("the tracker was loaded")


def test_the_head_of_the_portrait_is_read_off_it(tiny_model: Path, job: RenderJob) -> None:
    head = portrait_pose(np.asarray(Image.open(job.image)))
    assert head is not None
    assert np.abs(head).max() > 0.01, "it does not look straight into the camera"
    made = render(tiny_model, job, FROM_PORTRAIT)
    assert made.notes == ()
    assert made.latents_sha256 == render(tiny_model, job, FROM_CAMERA, NOD - head).latents_sha256
    assert made.latents_sha256 != render(tiny_model, job, FROM_CAMERA).latents_sha256


@pytest.mark.parametrize("missing", [False, True], ids=["no face", "no tracker"])
def test_without_a_face_it_is_the_mean_of_the_track(
    missing: bool, tiny_model: Path, job: RenderJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if missing:

        def absent() -> FaceTracker:
            raise FaceModelUnavailable("the package that provides cv2 is not installed")

        monkeypatch.setattr("liveavatar.face.head_pose.FaceTracker", absent)
    else:
        Image.new("RGB", SIZE, (120, 120, 120)).save(job.image)
    made = render(tiny_model, job, FROM_PORTRAIT)
    assert len(made.notes) == 1
    assert "mean of the given poses" in made.notes[0]
    assert made.notes[0] in caplog.text
    assert made.latents_sha256 == render(tiny_model, job, FROM_CAMERA, NOD - NOD.mean(0)).latents_sha256
    assert run_again(tiny_model, job).notes == made.notes, "a job that was done before says the same"


def run_again(model_dir: Path, job: RenderJob) -> RenderResult:
    """The same render, resumed after its end."""
    render(model_dir, job, FROM_PORTRAIT)
    return render(model_dir, replace(job, resume=True), FROM_PORTRAIT)


def test_the_tracker_is_loaded_only_where_it_is_needed(
    tiny_model: Path, job: RenderJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("liveavatar.face.head_pose.FaceTracker", no_tracker)
    render(tiny_model, job, FROM_CAMERA)
    render(tiny_model, replace(job, pose=None), FROM_PORTRAIT)
    head = (0.125, -0.0625, 0.03125)
    known = render(tiny_model, replace(job, portrait_pose=head), FROM_PORTRAIT)
    told = NOD - np.array(head, np.float32)
    assert known.latents_sha256 == render(tiny_model, job, FROM_CAMERA, told).latents_sha256
    with pytest.raises(AssertionError, match="tracker was loaded"):
        render(tiny_model, job, FROM_PORTRAIT)
