"""Renders: head angles counted from the portrait, and resuming from a damaged work folder.

The portrait's own angles are read off the picture, given, or made up. A render resumed from damaged files gives the
latents and the film of an undisturbed one, and a line about it.
"""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from liveavatar.config import FROM_CAMERA, FROM_PORTRAIT
from liveavatar.engine.engine import Engine
from liveavatar.engine.snapshot import write_snapshot
from liveavatar.errors import CapacityError, Interrupted
from liveavatar.face.head_pose import portrait_pose
from liveavatar.face.landmarks import FaceTracker
from liveavatar.face.models import FaceModelUnavailable
from liveavatar.files import sha256
from liveavatar.load import load_engine
from liveavatar.media.ffmpeg import probe_video, read_frames
from liveavatar.paths import REPO_ROOT
from liveavatar.render import collapse
from liveavatar.render import job as render_job
from liveavatar.render.collapse import Collapse
from liveavatar.render.job import CanvasPicture, RenderJob, RenderResult, run_job
from tests.job_changes import changed
from tests.render_jobs import SIZE, noise_job

FRAMES = 24
NOD = np.stack([0.1 * np.sin(np.arange(FRAMES) / k) for k in (5, 3, 7)], 1).astype(np.float32) + np.float32(0.05)
BLOCKS = 11
STOP = 10  # blocks done when the render is interrupted; snapshots lie before blocks 4 and 8


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
    assert made.notes == ("the model tiny has no input for the lids and the gaze of the pose track, and ignores it",)
    assert caplog.text.count(made.notes[0]) == 1
    assert made.latents_sha256 == render(tiny_model, job, FROM_CAMERA).latents_sha256


def test_a_head_turned_too_far_is_held_back_with_one_note(tiny_model: Path, job: RenderJob) -> None:
    engine = load_engine(tiny_model, device="cpu", dtype="float32")
    engine.backend.config = replace(engine.config, pose_guided=True, pose_limits=(17.0, 8.0, 8.0))
    np.save(job.image.with_name("far.npy"), NOD * np.float32([10, 1, 1]))
    made = run_job(engine, replace(job, pose=job.image.with_name("far.npy")))
    (note,) = made.notes
    assert "yaw of" in note
    assert "(limit 17)" in note
    assert "pitch" not in note


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


def canvas_picture(image: Path) -> CanvasPicture:
    """A picture half as large again as the model's, which lies in its middle."""
    picture = Image.open(image)
    width, height = picture.size
    path = image.with_name("canvas.png")
    picture.resize((width * 3 // 2, height * 3 // 2)).save(path)
    box = (width / 4, height / 4, width * 1.25, height * 1.25)
    return CanvasPicture(path, box, (width / 2, height * 0.36, 57.0))


def test_a_pasted_film_has_the_latents_of_a_plain_one_and_the_picture_s_size(tiny_model: Path, job: RenderJob) -> None:
    job = replace(job, pose=None)
    plain = render(tiny_model, job, FROM_CAMERA)
    canvas = canvas_picture(job.image)
    made = render(tiny_model, replace(job, canvas=canvas), FROM_CAMERA)
    assert made.latents_sha256 == plain.latents_sha256
    assert made.num_frames == plain.num_frames
    info = probe_video(made.video)
    assert (info.width, info.height) == Image.open(canvas.path).size


@pytest.mark.parametrize("pasted", [False, True], ids=["the model's picture", "the user's picture"])
def test_a_film_begins_with_the_picture(pasted: bool, tiny_model: Path, job: RenderJob) -> None:
    canvas = canvas_picture(job.image) if pasted else None
    made = render(tiny_model, replace(job, pose=None, canvas=canvas), FROM_CAMERA)
    picture = np.asarray(Image.open(job.image if canvas is None else canvas.path).convert("RGB")).astype(int)
    away = [np.abs(frame.rgb - picture).mean() for frame in read_frames(made.video)]
    assert away[0] < min(3.0, away[1]), "coded, it is the picture"
    assert away[1] < away[6]


def test_an_interrupted_pasted_film_is_resumed_bit_for_bit(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render_job, "SNAPSHOT_SHARE", 100.0)
    engine = load_engine(tiny_model, device="cpu", dtype="float32")
    job = changed(noise_job(tmp_path, 72), sample_steps=1)
    job = replace(job, canvas=canvas_picture(job.image))
    whole = run_job(engine, replace(job, work_dir=tmp_path / "whole"))
    done: list[int] = []
    with pytest.raises(Interrupted):
        run_job(engine, job, lambda p: done.append(p.done), lambda: done[-1] == 5)
    resumed = run_job(engine, replace(job, resume=True))
    assert resumed.first_block == 4
    assert sha256(resumed.video) == sha256(whole.video)


class Renders:
    """Interrupted and finished work folders of one job, rendered once for all tests of a kind."""

    def __init__(self, folder: Path, engine: Engine, online: bool, pasted: bool) -> None:
        self.engine, self.folder = engine, folder
        folder.mkdir()
        self.job = replace(changed(noise_job(folder, 12 * BLOCKS), sample_steps=1), online=online)
        if pasted:
            self.job = replace(self.job, canvas=canvas_picture(self.job.image))
        done: list[int] = []
        with pytest.raises(Interrupted):
            run_job(engine, self.job, lambda p: done.append(p.done), lambda: done[-1] == STOP)
        shutil.copytree(self.job.work_dir, folder / "interrupted")
        result = run_job(engine, self.job)
        self.expected = result.latents_sha256, sha256(result.video)
        shutil.copytree(self.job.work_dir, folder / "finished")

    def resumed(self, state: str) -> RenderJob:
        """The job with a fresh copy of its interrupted or finished work folder."""
        shutil.rmtree(self.job.work_dir)
        shutil.copytree(self.folder / state, self.job.work_dir)
        return replace(self.job, resume=True)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((True, False), id="online"),
        pytest.param((True, True), id="pasted", marks=pytest.mark.nightly),
        pytest.param((False, False), id="offline", marks=pytest.mark.nightly),
    ],
)
def renders(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Renders:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render_job, "SNAPSHOT_SHARE", 100.0)
        engine = load_engine(tiny_model, device="cpu", dtype="float32")
        return Renders(tmp_path_factory.mktemp("resume") / "job", engine, *request.param)


def flip_bit(path: Path, position: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 1
    path.write_bytes(data)


def newest_snapshot(work: Path) -> Path:
    return max((work / "snapshots").glob("block-*.safetensors"))


@pytest.mark.parametrize(
    ("damage", "first_block", "says"),
    [
        pytest.param(lambda work: None, 8, [], id="nothing"),
        pytest.param(lambda work: flip_bit(newest_snapshot(work)), 4, ["block-000008 is damaged"], id="snapshot"),
        pytest.param(
            lambda work: flip_bit(work / "latents.bin", 0.6), 4,
            ["block 6 in latents.bin", "ahead of the 6 whole blocks"], id="latents",
        ),
        pytest.param(
            lambda work: flip_bit(work / "latents.bin", 0.1), 0,
            ["block 1 in latents.bin", "ahead of the 1 whole"], id="latents before every snapshot",
            marks=pytest.mark.nightly,
        ),
    ],
)  # fmt: skip
def test_an_interrupted_render_falls_back(
    damage: Callable[[Path], None], first_block: int, says: list[str], renders: Renders
) -> None:
    job = renders.resumed("interrupted")
    damage(job.work_dir)
    result = run_job(renders.engine, job)
    assert result.first_block == first_block
    assert (result.latents_sha256, sha256(result.video)) == renders.expected
    assert len(result.notes) == len(says)
    assert all(part in note for part, note in zip(says, result.notes, strict=True))


def test_a_render_that_finds_no_space_for_a_snapshot_goes_on_from_the_one_before(
    renders: Renders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, block: int, job_digest: str, tensors: dict[str, torch.Tensor]) -> Path:
        if block == 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        return write_snapshot(folder, block, job_digest, tensors)

    monkeypatch.setattr(render_job, "SNAPSHOT_SHARE", 100.0)
    job = replace(renders.job, work_dir=renders.folder / "no space")
    with monkeypatch.context() as patch:
        patch.setattr(render_job, "write_snapshot", full)
        with pytest.raises(CapacityError, match="the disk is full"):
            run_job(renders.engine, job)
    result = run_job(renders.engine, replace(job, resume=True))
    assert result.first_block == 4
    assert (result.latents_sha256, sha256(result.video)) == renders.expected


@pytest.mark.parametrize(
    "damage",
    [
        "video cut",
        "latents flipped",
        *(pytest.param(d, marks=pytest.mark.nightly) for d in ("video flipped", "nothing")),
    ],
)
def test_a_finished_render_is_handed_out_only_whole(damage: str, renders: Renders) -> None:
    job = renders.resumed("finished")
    video = job.work_dir / "video.mp4"
    if damage == "video cut":
        video.write_bytes(video.read_bytes()[: int(0.6 * video.stat().st_size)])
    elif damage != "nothing":
        flip_bit(video if damage == "video flipped" else job.work_dir / "latents.bin")
    result = run_job(renders.engine, job)
    assert (result.latents_sha256, sha256(result.video)) == renders.expected
    assert (result.first_block == BLOCKS) == (damage == "nothing")
    name = "latents.bin" if damage == "latents flipped" else "video.mp4"
    expected = [] if damage == "nothing" else [f"{name} of the finished render does not match its digest"]
    assert [note.split(";")[0] for note in result.notes][: len(expected) or None] == expected


def test_half_written_files_of_a_full_disk_are_removed(renders: Renders) -> None:
    job = renders.resumed("interrupted")
    leftovers = [job.work_dir / ".video.mp4.0a1b2c3d.tmp", job.work_dir / "snapshots" / ".block.safetensors.0a.tmp"]
    for path in leftovers:
        path.touch()
    run_job(renders.engine, job)
    assert not any(path.exists() for path in leftovers)


class Alarm:
    """A watch that finds a collapse from frame 70 on when it has seen 120 frames."""

    begun: ClassVar[list[int]] = []

    def __init__(self, portrait: np.ndarray, ledger: Path) -> None:
        assert portrait.shape == (*SIZE, 3)
        assert ledger.name == "collapse.jsonl"

    def begin(self, num_frames: int) -> None:
        self.begun.append(num_frames)

    def add(self, frames: np.ndarray, first: int) -> Collapse | None:
        return Collapse(70, "sharpness", 0.3) if first + len(frames) >= 120 else None

    def take(self) -> Collapse | None:
        return None


@pytest.mark.parametrize("online", [True, False], ids=["online", "offline"])
def test_a_video_that_falls_apart_ends_where_it_was_good(
    online: bool, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_engine(tiny_model, device="cpu", dtype="float32")
    whole = replace(noise_job(tmp_path, 132), online=online)
    expected = run_job(engine, whole)
    monkeypatch.setattr(collapse, "SHORTEST", 132)
    monkeypatch.setattr(render_job, "CollapseWatch", Alarm)
    done: list[int] = []
    job = replace(whole, work_dir=tmp_path / "cut")
    with pytest.raises(Interrupted):
        run_job(engine, job, lambda p: done.append(p.done), lambda: len(done) == 9)
    result = run_job(engine, replace(job, resume=True), lambda p: done.append(p.done))
    assert max(done) == (10 if online else 11), "rendering stops at the alarm; all latents are there before decoding"
    assert (result.num_frames, len(result.rows), result.latents_shape[0]) == (48, 4, 4)
    assert result.latents.read_bytes() == expected.latents.read_bytes()[: result.latents.stat().st_size]
    assert result.latents_sha256 == sha256(result.latents)
    pictures = zip(read_frames(result.video), read_frames(expected.video), strict=False)
    assert all((cut.rgb == frame.rgb).all() for cut, frame in pictures)
    info = probe_video(result.video)
    assert (info.num_frames, info.audio_seconds) == (48, pytest.approx(1.92, abs=0.05))
    assert result.collapse == Collapse(70, "sharpness", 0.3)
    assert [note for note in result.notes if "the video ends at 2 s (--ignore_collapse" in note]
    assert run_job(engine, replace(job, resume=True)).collapse == result.collapse, "it is read again"
    assert run_job(engine, replace(job, ignore_collapse=True, digest="e" * 64)).num_frames == 132


def test_a_short_video_is_not_watched(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_job, "CollapseWatch", Alarm)
    engine = load_engine(tiny_model, device="cpu", dtype="float32")
    assert run_job(engine, noise_job(tmp_path, 132)).collapse is None
