"""A scene's files, the job that renders it, and true pictures through the same coder."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from liveavatar.bench.quality import videos
from liveavatar.bench.quality.videos import RenderedScene, make_scene, render_scene, true_video, video_frames
from liveavatar.quality.split import Clip
from liveavatar.render.job import RenderJob
from liveavatar.render.timings import BlockRow
from liveavatar.timing import SAMPLE_RATE

PHOTO = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)


def test_a_scene_is_what_the_engine_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "write_features", lambda sound, out, *of: 24 if of == ("speech", Path("MODEL")) else 0)
    engine: Any = SimpleNamespace(config=SimpleNamespace(speech="speech"), model_dir=Path("MODEL"))
    speech = np.linspace(-1.5, 1.5, SAMPLE_RATE, dtype=np.float32)  # float: louder than full scale stays
    scene = make_scene(tmp_path / "a" / "b", PHOTO, speech, "words", engine)
    assert (scene.folder, scene.prompt, scene.num_frames) == (tmp_path / "a" / "b", "words", 24)
    assert np.array_equal(np.asarray(Image.open(scene.folder / "photo.png")), PHOTO)
    sound, rate = soundfile.read(scene.sound, dtype="float32")
    assert rate == SAMPLE_RATE
    assert np.array_equal(sound, speech)


@pytest.mark.parametrize(
    ("given", "name", "track"),
    [
        pytest.param({}, "steps3", None, id="the model moves the head"),
        pytest.param({"head": np.full((5, 3), 0.2)}, "steps3-posed", (5, 3), id="posed"),
        pytest.param(
            {"head": np.full((5, 3), 0.2), "eyes": np.ones((5, 1))}, "steps3-posed-eyes", (5, 4), id="head and lids"
        ),
        pytest.param({"prompt": "other words"}, "steps3-prompt", None, id="another prompt"),
    ],
)
def test_the_job_of_a_scene(
    given: dict[str, Any], name: str, track: tuple[int, int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[RenderJob] = []
    tracks: list[np.ndarray] = []

    def rendered(_: object, job: RenderJob) -> Any:
        jobs.append(job)
        tracks.extend([] if job.pose is None else [np.load(job.pose)])
        job.work_dir.mkdir()
        job.work_dir.with_suffix(".lock").touch()
        video = job.work_dir / "video.mp4"
        video.write_bytes(name.encode())
        rows = [BlockRow(block=b, step_ms=[1.0], decode_ms=1.0, block_ms=100.0 + b, ready_s=0.1) for b in range(3)]
        return SimpleNamespace(video=video, rows=rows, num_frames=24, render_s=0.6)

    monkeypatch.setattr(videos, "run_job", rendered)
    video = render_scene(None, RenderedScene(tmp_path, PHOTO, "words", 24), 3, photo_head=np.ones(3), **given)  # type: ignore[arg-type]
    (job,) = jobs
    assert (video.path.name, video.path.read_bytes()) == (f"{name}.mp4", name.encode())
    assert (video.ms_per_frame, video.block_ms) == (25.0, 101.0)
    assert (job.settings.prompt, job.settings.sample_steps) == (given.get("prompt", "words"), 3)
    assert (job.portrait_pose, job.online) == ((1, 1, 1), True)
    assert [(t.shape, t.dtype) for t in tracks] == ([] if track is None else [(track, np.float32)])
    assert all((t[:, :3] == np.float32(0.2)).all() and (t[:, 3:] == 1).all() for t in tracks), "head first"
    assert not job.work_dir.exists(), "only the video is kept"
    assert not job.work_dir.with_suffix(".lock").exists()


def test_the_true_video_has_the_clips_pictures(
    stored: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = np.repeat(np.arange(40, 90, 10, dtype=np.uint8), 64 * 96 * 3).reshape(5, 64, 96, 3)
    monkeypatch.setattr(Clip, "frames", lambda _: pictures)
    scene = RenderedScene(tmp_path, PHOTO, "", 5)
    soundfile.write(scene.sound, np.zeros(3200, np.float32), SAMPLE_RATE)
    made = video_frames(true_video(stored[0], scene))
    assert made.shape == pictures.shape
    assert np.abs(made.astype(int) - pictures).mean() < 3


def test_a_clips_scene_lies_in_a_folder_of_its_name(
    stored: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = replace(stored[0], info=replace(stored[0].info, name="07", caption="calm"))
    for part, value in {"photo": PHOTO, "speech": np.zeros(640, np.float32)}.items():
        monkeypatch.setattr(Clip, part, lambda _, value=value: value)
    monkeypatch.setattr(videos, "write_features", lambda *_: 1)
    engine: Any = SimpleNamespace(config=SimpleNamespace(speech=None), model_dir=None)
    scene = videos.scene_of(clip, engine, tmp_path)
    assert (scene.folder, scene.prompt) == (tmp_path / "07", "calm")
