"""A whole benchmark on one short clip."""

import json
from pathlib import Path

import numpy as np
import pytest

from liveavatar import paths
from liveavatar.bench.quality import report
from liveavatar.bench.quality.run import CONTRACT, QualityOptions, run
from liveavatar.checkpoints.directory import read_config
from liveavatar.engine.engine import Engine
from liveavatar.errors import InputError
from liveavatar.quality import goals
from liveavatar.quality.split import load_split
from liveavatar.render.job import RenderJob, RenderResult, run_job


@pytest.mark.nightly
def test_a_run_prints_everything_and_leaves_its_videos(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[RenderJob] = []
    tracks: list[np.ndarray] = []

    def noted(engine: Engine, job: RenderJob) -> RenderResult:
        jobs.append(job)
        tracks.extend([] if job.pose is None else [np.load(job.pose)])
        return run_job(engine, job)

    monkeypatch.setattr("liveavatar.bench.quality.videos.run_job", noted)
    result = run(QualityOptions(model_dir=paths.MINI_DIR, out=tmp_path / "out", full=False, steps=1, folder=short))
    json.dumps(result, allow_nan=False)
    assert set(CONTRACT) <= set(result)
    assert all(result[name] is not None or result["reasons"][name] for name in CONTRACT)
    assert [c["name"] for c in result["checks"]] == [g.name for g in goals.GOALS]
    assert set(result["missed"]) == {c["name"] for c in result["checks"] if c["ok"] is False}
    assert result["ae_psnr"] > 28
    assert -1 <= result["openness_corr"] <= 1
    model = read_config(paths.MINI_DIR)
    guided, eyed = model.pose_guided, model.pose_guided and model.lids_conditioned
    assert (result["texture_psnr"] is not None, result["texture_psnr_eyes"] is not None) == (guided, eyed)
    labels = load_split(short)[0].labels()
    photo_head = tuple(labels.photo_head.tolist())
    assert [job.portrait_pose for job in jobs if job.pose is not None] == [photo_head] * (guided + eyed)
    told = np.concatenate((labels.head, labels.eyes), 1)
    wanted = [told[:, :3]] * guided + [told[:, : 6 if model.gaze_conditioned else 4]] * eyed
    assert [t.shape for t in tracks] == [w.shape for w in wanted]
    assert all(np.array_equal(t, w) for t, w in zip(tracks, wanted, strict=True))
    shown = "\n".join(report.lines(result))
    assert all(g.name in shown for g in goals.GOALS)
    assert (tmp_path / "out" / "videos" / "00" / "steps1.mp4").is_file()
    assert (tmp_path / "out" / "sheet_00.jpg").is_file()
    page = next((tmp_path / "out").glob("quality_mini_*.md")).read_text()
    assert "| openness_corr |" in page


def test_what_cannot_work_is_refused_before_anything_is_rendered(short: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        run(QualityOptions(model_dir=paths.MINI_DIR, recordings=tmp_path / "nowhere", folder=short))
    with pytest.raises(InputError, match="9"):
        run(QualityOptions(model_dir=paths.MINI_DIR, steps=9, folder=short))
    with pytest.raises(InputError, match="evaluation_pack"):
        run(QualityOptions(model_dir=paths.MINI_DIR, folder=tmp_path))
