"""Measures on curves whose answer is known, and a whole run on a short clip."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from liveavatar import config
from liveavatar.bench.quality import judge, report
from liveavatar.bench.quality.bench import QualityBench, TrueClip
from liveavatar.bench.quality.faces import best_lag, blink_depth, corner_lift, correlation, head_spread
from liveavatar.bench.quality.films import Film, make_scene, true_film
from liveavatar.bench.quality.run import CONTRACT, QualityOptions, run
from liveavatar.bench.quality.steps import recommend, sweep_split
from liveavatar.checkpoints.load import read_config
from liveavatar.engine.engine import Engine
from liveavatar.errors import InputError
from liveavatar.face.landmarks import MOUTH_CORNERS, Face, FaceTracker
from liveavatar.media.film import FilmWriter
from liveavatar.quality import goals
from liveavatar.quality.split import Clip, load_split
from liveavatar.render.job import RenderJob, RenderResult, run_job
from liveavatar.timing import SAMPLE_RATE


def test_correlation_leaves_out_what_was_not_seen() -> None:
    a = np.arange(20.0)
    b = 3 * a + 1
    b[5] = np.nan
    assert correlation(a, b) == pytest.approx(1)
    assert correlation(a, -b) == pytest.approx(-1)
    assert np.isnan(correlation(a, np.ones(20)))


@pytest.mark.parametrize("late", [-3, 0, 2])
def test_lag_of_shifted_curves(late: int) -> None:
    curve = np.convolve(np.random.default_rng(1).normal(size=200), np.ones(5), "same")
    assert best_lag([np.roll(curve, late), np.roll(curve, late)], [curve, curve]) == late


def test_blinks_and_heads() -> None:
    lids = np.full(200, 0.12)
    assert blink_depth(lids) == pytest.approx(0)
    lids[50:56] = 0.012
    assert blink_depth(lids) == pytest.approx(0.9)
    head = np.radians(np.stack([3 * np.sin(np.arange(500) / 7)] * 3, 1))
    assert head_spread(head) == pytest.approx(3 / np.sqrt(2), rel=0.02)
    assert head_spread(np.concatenate([head, np.full((5, 3), np.nan)])) == pytest.approx(head_spread(head))


@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_a_smile_lifts_the_corners_of_a_tilted_head_too(angle: float) -> None:
    points = np.zeros((478, 2), np.float32)
    points[[33, 263]] = [[-50, 0], [50, 0]]
    points[[13, 14]] = [[0, 60], [0, 64]]
    points[list(MOUTH_CORNERS)] = [[-25, 57], [25, 57]]  # five pixels above the middle of the lips
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    assert corner_lift(Face(points @ turn.T, 1.0)) == pytest.approx(0.05, abs=1e-3)


def test_edges_of_blocks_but_not_of_the_coder() -> None:
    change = np.ones(192)
    change[0] = np.nan
    change[48::48] = 50  # key frames
    assert judge.edge_jump(change) == pytest.approx(1)
    change[12] = 13
    assert judge.edge_jump(change) == pytest.approx(2 / (1 + 12 / 188))
    assert np.isnan(judge.edge_jump(np.ones(12)))


def test_specks_on_a_lattice_are_seen() -> None:
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(90, 160, (3, 64, 96, 1), dtype=np.uint8), 3, 3)
    plain = judge.grid_ratio(frames)
    assert 1 <= plain < 1.6
    dotted = frames.copy()
    dotted[:, 3::8, 5::8] = 0
    assert judge.grid_ratio(dotted) > 2 * plain
    assert np.isnan(judge.grid_ratio(np.full((2, 16, 16, 3), 128, np.uint8)))


def test_goals_tell_kept_missed_and_unmeasured() -> None:
    values = {"openness_corr": 0.95, "sync_error_frames": 1.2, "edge_jump": 1.0, "flicker_ratio": 0.86,
              "jerk_index_ratio": 1.2, "av_offset_frames": -1}  # fmt: skip
    found = {c.name: (c.ok, c.goal_reached) for c in goals.check(values, {"silent_lip": "no silence"}, {})}
    assert found["openness_corr"] == (True, False)
    assert found["sync_error_frames"] == (False, False)
    assert found["edge_jump"] == (True, True)
    assert found["flicker_ratio"] == (True, False)
    assert found["jerk_index_ratio"] == (False, False)
    assert found["av_offset_frames"] == (False, False)
    assert found["silent_lip"] == (None, None)
    lacking = {c.name: c for c in goals.check(values, {"silent_lip": "no silence"}, {"openness_corr": 2})}
    assert lacking["silent_lip"].reason == "no silence"
    assert lacking["openness_corr"].ok is False
    assert "2 made films" in lacking["openness_corr"].reason


def _row(steps: int, sync: float, psnr: float | None, ms: float = 20.0) -> dict[str, object]:
    return {"steps": steps, "size": "s", "clips": 1, "sync_error_frames": sync, "texture_psnr": psnr, "jerk_index": 1.0,
            "openness_corr": 0.9, "edge_jump": 1.0, "identity_ratio": 1.0, "ms_per_frame": ms}  # fmt: skip


def test_the_fewest_steps_that_are_as_good_as_any() -> None:
    rows = [_row(1, 1.0, 25.0), _row(2, 0.5, 27.0), _row(4, 0.45, 28.9, ms=50.0), _row(8, 0.4, 29.0)]
    assert recommend("s", rows)["recommended_steps"] == 4
    assert recommend("s", rows)["real_time_here"] is False
    assert recommend("s", [_row(1, 0.5, None), _row(2, 0.5, None)])["recommended_steps"] == 1


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load(config.MINI_DIR, device="cpu")


def test_the_true_film_is_as_good_as_itself(short: Path, tmp_path: Path, engine: Engine) -> None:
    clip = load_split(short)[0]
    scene = make_scene(tmp_path, clip.photo(), clip.speech(), clip.info.caption, engine)
    film = true_film(clip, scene)
    seen = judge.look(film, scene.photo, clip.speech(), FaceTracker())
    pair = judge.Pair("00", seen, seen, clip.labels(), judge.compare_posed(film, clip, clip.labels()))
    summary = judge.summarise([pair])
    made, true = summary.made, summary.true
    assert not summary.gaps
    for name in ("openness_corr", "width_corr", "identity_ratio", *(f"{r}_ratio" for r in judge.RATIOS)):
        assert made[name] == pytest.approx(1), name
    assert made["lag_frames"] == 0
    assert made["texture_psnr"] > 36  # what the coder costs
    assert made["edge_jump"] == true["edge_jump"]


def test_a_run_prints_everything_and_leaves_its_films(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[RenderJob] = []
    tracks: list[np.ndarray] = []

    def noted(engine: Engine, job: RenderJob) -> RenderResult:
        jobs.append(job)
        tracks.extend([] if job.pose is None else [np.load(job.pose)])
        return run_job(engine, job)

    monkeypatch.setattr("liveavatar.bench.quality.films.run_job", noted)
    result = run(QualityOptions(model_dir=config.MINI_DIR, out=tmp_path / "out", full=False, steps=1, folder=short))
    json.dumps(result, allow_nan=False)
    assert set(CONTRACT) <= set(result)
    assert all(result[name] is not None or result["reasons"][name] for name in CONTRACT)
    assert [c["name"] for c in result["checks"]] == [g.name for g in goals.GOALS]
    assert set(result["missed"]) == {c["name"] for c in result["checks"] if c["ok"] is False}
    assert result["ae_psnr"] > 28
    assert -1 <= result["openness_corr"] <= 1
    model = read_config(config.MINI_DIR)
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
    assert (tmp_path / "out" / "films" / "00" / "steps1.mp4").is_file()
    assert (tmp_path / "out" / "sheet_00.jpg").is_file()
    page = next((tmp_path / "out").glob("quality_mini_*.md")).read_text()
    assert "| openness_corr |" in page


@pytest.mark.parametrize(
    ("asked", "model", "films"),
    [
        pytest.param({}, {"pose_guided": True, "lids_conditioned": True}, ["free", "head", "head and eyes"], id="all"),
        pytest.param({}, {"pose_guided": True, "lids_conditioned": False}, ["free", "head"], id="model without lids"),
        pytest.param({}, {"pose_guided": False, "lids_conditioned": True}, ["free"], id="model without head"),
        pytest.param({"eyed": False}, {"pose_guided": True, "lids_conditioned": True}, ["free", "head"], id="sweep"),
        pytest.param({"posed": False}, {"pose_guided": True, "lids_conditioned": True}, ["free"], id="no posed films"),
    ],
)
def test_films_that_a_clip_costs(
    asked: dict[str, bool], model: dict[str, bool], films: list[str], stored: list[Clip],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made: list[str] = []

    def drawn(_engine: object, scene: object, steps: int, head: Any = None, eyes: Any = None, **_: object) -> Film:
        made.append("free" if head is None else "head" if eyes is None else "head and eyes")
        return Film(Path(made[-1]))

    monkeypatch.setattr("liveavatar.bench.quality.bench.render_scene", drawn)
    monkeypatch.setattr(judge, "look", lambda *_: None)
    monkeypatch.setattr(judge, "compare_posed", lambda film, *_: {"texture_psnr": float(len(film.path.name))})
    engine: Any = SimpleNamespace(config=replace(config.TINY, **model))
    scene: Any = SimpleNamespace(photo=None)
    true: Any = TrueClip(stored[0], scene, None, stored[0].labels())  # type: ignore[arg-type]
    pair = QualityBench(engine, [], Path()).judge_clip(true, 4, **asked)
    assert made == films
    wanted = {"texture_psnr": 4.0, "texture_psnr_eyes": 13.0}
    assert pair.posed == dict(list(wanted.items())[: len(films) - 1])


def test_a_face_that_cannot_be_read_is_a_gap(short: Path, tmp_path: Path, engine: Engine) -> None:
    clip = load_split(short)[0]
    scene = make_scene(tmp_path, clip.photo(), clip.speech(), clip.info.caption, engine)
    tracker = FaceTracker()
    true = judge.look(true_film(clip, scene), scene.photo, clip.speech(), tracker)
    height, width = scene.photo.shape[:2]
    grey = tmp_path / "grey.mp4"
    with FilmWriter(grey, size=(width, height), audio=scene.sound) as sink:
        sink.write(np.random.default_rng(0).integers(100, 110, (36, height, width, 3), dtype=np.uint8))
        sink.close()
    made = judge.look(Film(grey), scene.photo, clip.speech(), tracker)
    summary = judge.summarise([judge.Pair("a", true, made, clip.labels()), judge.Pair("b", true, true, clip.labels())])
    for name in ("openness_corr", "jerk_index", "identity_min", "blink_depth"):
        assert summary.gaps[name] == 1, name
    missed = {c.name for c in goals.check(summary.made, summary.reasons, summary.gaps) if c.ok is False}
    assert {"openness_corr", "jerk_index_ratio", "identity_ratio", "blink_depth_ratio"} <= missed


def test_recordings_are_judged_by_their_sound(short: Path, tmp_path: Path) -> None:
    import soundfile

    from liveavatar.bench.quality.recordings import judge_recordings

    clips = load_split(short)
    with pytest.raises(InputError, match="no such folder"):
        judge_recordings(_no_engine(), tmp_path / "nowhere", clips, 1, tmp_path, print)
    with pytest.raises(InputError, match="holds no sound"):
        judge_recordings(_no_engine(), tmp_path, clips, 1, tmp_path, print)
    folder = tmp_path / "voices"
    folder.mkdir()
    soundfile.write(folder / "a.wav", load_split()[0].speech()[: 2 * SAMPLE_RATE], SAMPLE_RATE)
    engine = Engine.load(config.MINI_DIR, device="cpu")
    rows = judge_recordings(engine, folder, clips, 1, tmp_path / "work", lambda _: None)
    assert [(r["recording"], r["portrait"]) for r in rows] == [("a.wav", "clip 00")]
    assert rows[0]["motion_energy"] > 0
    assert rows[0]["lip_sync"] is not None or rows[0]["reasons"]["lip_sync"]


def _no_engine() -> Engine:
    """Refusals come before the engine is touched."""
    return Engine.__new__(Engine)


def test_what_cannot_work_is_refused_before_anything_is_rendered(short: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        run(QualityOptions(model_dir=config.MINI_DIR, recordings=tmp_path / "nowhere", folder=short))
    with pytest.raises(InputError, match="9"):
        run(QualityOptions(model_dir=config.MINI_DIR, steps=9, folder=short))
    with pytest.raises(InputError, match="evaluation_pack"):
        run(QualityOptions(model_dir=config.MINI_DIR, folder=tmp_path))


def test_steps_are_compared_on_the_split(short: Path) -> None:
    tables = list(sweep_split(config.MINI_DIR, [1, 2], None, lambda _: None, short))
    assert [len(rows) for rows, _ in tables] == [1, 2]
    rows, sizes = tables[-1]
    assert [(r["steps"], r["size"], r["clips"]) for r in rows] == [(1, "all", 1), (2, "all", 1)]
    assert [s["size"] for s in sizes] == ["256*384"]
    assert sizes[0]["recommended_steps"] in (1, 2)
    assert all(r["ms_per_frame"] > 0 and r["openness_corr"] is not None for r in rows)
    assert rows[0]["openness_corr"] != rows[1]["openness_corr"]
