"""Rendering end to end, small, on the CPU: repeatable, labelled truly, and in time with the sound."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from liveavatar.training.corpus import clips
from liveavatar.training.corpus.clips import (
    EVAL_SEED,
    TRAIN_SEED,
    ClipJob,
    ClipPlan,
    ClipRenderer,
    CorpusSettings,
    render_clips,
)
from liveavatar.training.corpus.head.geometry import HeadAssets
from liveavatar.training.corpus.layout import ClipLabels, list_clips
from liveavatar.training.corpus.render import fuse
from liveavatar.training.corpus.render.scene import Shot
from liveavatar.training.corpus.speech.tracks import SAMPLE_RATE, TrackInfo, load_tracks, write_index, write_track

SIZES = {"portrait": (96, 64), "landscape": (64, 96)}
# Closed, wide open, closed: one second each.
EVENTS = [(0.0, 0.96, 0), (0.96, 1.92, 11), (1.92, 6.0, 0)]


@pytest.fixture(scope="module")
def renderer(assets: HeadAssets, tmp_path_factory: pytest.TempPathFactory) -> ClipRenderer:
    folder = tmp_path_factory.mktemp("speech")
    time = np.arange(6 * SAMPLE_RATE) / SAMPLE_RATE
    audio = np.where((time > 0.96) & (time < 1.92), 0.3 * np.sin(time * 900), 0).astype(np.float32)
    info = TrackInfo(id="a", file="a.ogg", voice="x", split="train", seconds=6.0, events=EVENTS, text=[])
    write_track(folder, info, audio)
    write_index(folder, [info])
    settings = CorpusSettings(sizes=SIZES, supersample=1, batch=6)
    return ClipRenderer(assets, load_tracks(folder, "train"), settings)


@pytest.fixture(scope="module")
def clip(renderer: ClipRenderer) -> tuple[np.ndarray, ClipLabels]:
    # Starts one block into the track: the mouth opens at frame 12 of 20.
    return renderer.clip(ClipPlan(seed=11, orientation="portrait", track=0, block=1, num_frames=20))


def gap(landmarks: np.ndarray) -> np.ndarray:
    """Inner-lip gap in pixels per frame."""
    return np.linalg.norm(landmarks[:, 62] - landmarks[:, 66], axis=-1)


def test_shapes_and_truth(clip: tuple[np.ndarray, ClipLabels]) -> None:
    frames, labels = clip
    assert frames.shape == (21, 96, 64, 3)
    assert frames.dtype == np.uint8
    assert 20 < frames.mean() < 235
    assert frames.std() > 15
    inside = (labels.landmarks > 0) & (labels.landmarks < np.array([64, 96]))
    assert inside.all()
    assert len(labels.caption) > 10


def test_mouth_opens_with_the_sound_and_is_shut_in_the_photo(clip: tuple[np.ndarray, ClipLabels]) -> None:
    opening = gap(clip[1].landmarks)
    assert opening[14:20].mean() > 4 * opening[:10].mean()
    assert opening[-1] < 0.2 * opening[14:20].mean()


def test_open_mouth_is_dark_where_the_landmarks_say(clip: tuple[np.ndarray, ClipLabels]) -> None:
    frames, labels = clip
    at = labels.landmarks[:, [61, 62, 63, 65, 66, 67]].mean(1).round().astype(int)
    light = np.array([f[y, x].mean() for f, (x, y) in zip(frames, at, strict=True)])
    assert light[15:20].mean() < 0.75 * light[:9].mean()


def test_same_seed_same_bytes(renderer: ClipRenderer) -> None:
    plan = ClipPlan(seed=5, orientation="landscape", track=0, block=0, num_frames=2)
    (a, la), (b, lb) = renderer.clip(plan), renderer.clip(plan)
    assert np.array_equal(a, b)
    assert np.array_equal(la.landmarks, lb.landmarks)
    assert la.caption == lb.caption
    assert a.shape == (3, 64, 96, 3)


@pytest.mark.nightly
def test_compiled_functions_draw_the_same(renderer: ClipRenderer, caplog: pytest.LogCaptureFixture) -> None:
    """Check that all of them trace, at lengths that vary and for hair with and without curls, and none falls back."""
    plans = [
        ClipPlan(seed=s, orientation=o, track=0, block=1, num_frames=n)
        for s, o, n in ((1005, "landscape", 2), (1015, "portrait", 3), (1039, "portrait", 8))
    ]
    eager = [renderer.clip(p)[0] for p in plans]
    with fuse.compiling("aot_eager"):
        compiled = [renderer.clip(p)[0] for p in plans]
    assert [r.message for r in caplog.records if r.name == fuse.logger.name] == []
    for a, b in zip(eager, compiled, strict=True):
        assert np.abs(a.astype(int) - b).mean() < 0.01


def test_other_photo_is_the_photo_in_another_light(renderer: ClipRenderer, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Shot] = []

    def render(shots: list[Shot], *rest: object) -> torch.Tensor:
        drawn.extend(shots)
        return clips_render(shots, *rest)

    clips_render = clips.render
    monkeypatch.setattr(clips, "render", render)
    frames, labels = renderer.clip(ClipPlan(seed=1020, orientation="portrait", track=0, block=1, num_frames=8))
    speaking, photo, other = drawn[:3]  # the first batch
    assert frames.shape == (9, 96, 64, 3)
    assert labels.landmarks.shape == (9, 68, 2)
    assert labels.other is not None
    assert labels.other.picture.shape == (96, 64, 3)
    assert torch.equal(photo.vertices, other.vertices), "the same pose, and so the same landmarks"
    assert (photo.lighting, photo.backdrop) == (speaking.lighting, speaking.backdrop)
    assert other.lighting.name != photo.lighting.name
    assert speaking.lighting.words in labels.other.caption
    if other.backdrop is not photo.backdrop:
        assert speaking.backdrop.words in labels.other.caption
    apart = np.abs(labels.other.picture.mean((0, 1)) - frames[-1].mean((0, 1)))
    assert apart.max() > 5
    assert np.abs(frames[0].mean((0, 1)) - frames[-1].mean((0, 1))).max() < 3


def test_clip_is_the_same_with_and_without_other_photo(renderer: ClipRenderer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 1005 drew a photo in another light and place, as a held-out clip of these draws would have."""
    plan = ClipPlan(seed=1005, orientation="landscape", track=0, block=0, num_frames=4)
    frames, labels = renderer.clip(plan)
    monkeypatch.setattr(clips, "SAMPLE_SEED", 0)  # now it counts as held out
    alone, its = renderer.clip(plan)
    assert its.other is None
    assert np.array_equal(frames[:-1], alone[:-1])
    assert not np.array_equal(frames[-1], alone[-1])
    assert its.caption != labels.caption, "only a held-out caption must name the light"
    for name in ("landmarks", "expression", "head", "gaze"):
        assert np.array_equal(getattr(labels, name), getattr(its, name)), name


def test_turned_heads_and_spoken_photos_are_shares_of_their_own(renderer: ClipRenderer) -> None:
    plan = ClipPlan(seed=1020, orientation="portrait", track=0, block=1, num_frames=12)
    plain, turned, spoken = (
        ClipRenderer(renderer.assets, renderer.tracks, replace(renderer.settings, turned=t, spoken_photos=s)).clip(
            plan
        )[1]
        for t, s in ((0, 0), (1, 0), (0, 1))
    )
    away = np.abs(turned.head[:-1] - turned.head[-1])
    assert np.degrees(away.max()) > 8 > np.degrees(np.abs(plain.head[:-1] - plain.head[-1]).max())
    assert np.array_equal(spoken.head, plain.head)
    assert np.array_equal(spoken.expression[:-1], plain.expression[:-1])
    assert not np.array_equal(spoken.expression[-1], plain.expression[-1])
    assert len({plain.caption, turned.caption, spoken.caption}) == 1


def test_plans_of_processes_never_meet(renderer: ClipRenderer) -> None:
    train = {renderer.plan("train", k, r, 8, 48).seed for r in range(8) for k in range(100)}
    held_out = [renderer.plan("eval", k, r, 4, 48) for r in range(4) for k in range(3)]
    assert len(train) == 800
    assert min(train) == TRAIN_SEED
    assert max(train) < EVAL_SEED
    assert sorted(p.seed for p in held_out) == [EVAL_SEED + i for i in range(12)]
    shares = [renderer.plan("train", k, 0, 8, 48).orientation for k in range(100)]
    assert shares.count("landscape") == 30
    assert all(0 <= renderer.plan("train", k, 0, 8, 48).block <= 12 - 4 for k in range(50))


def test_job_writes_what_list_clips_reads(renderer: ClipRenderer, tmp_path: Path) -> None:
    job = ClipJob(out=tmp_path, split="train", rank=2, world=4, num_clips=1, num_frames=2, seconds=60)
    assert render_clips(renderer, job) == 1
    (file,) = list_clips(tmp_path, "train")
    assert file.path.name == "portrait_2.npy"
    assert file.frames.shape == (1, 3, 96, 64, 3)
    assert file.seeds[0] == TRAIN_SEED + 200_000
    assert file.others.shape == (1, 96, 64, 3)
    assert not np.array_equal(file.others[0], file.frames[0, -1])
    assert file.other_captions != file.captions
    held = replace(job, split="eval", out=tmp_path / "eval", rank=0)
    assert render_clips(renderer, held) == 1
    assert not list((tmp_path / "eval").glob("*.other.npy"))
    assert "jawOpen" in file.expression_names


def test_another_stretch_shows_other_people(renderer: ClipRenderer, tmp_path: Path) -> None:
    job = ClipJob(out=tmp_path, split="train", rank=0, world=1, num_clips=1, num_frames=2, seconds=60, first=7)
    assert render_clips(renderer, job) == 1
    assert [int(s) for f in list_clips(tmp_path, "train") for s in f.seeds] == [TRAIN_SEED + 7]


def test_no_time_no_clips(renderer: ClipRenderer, tmp_path: Path) -> None:
    job = ClipJob(out=tmp_path, split="train", rank=0, world=1, num_clips=4, num_frames=12, seconds=-1)
    assert render_clips(renderer, job) == 0
    assert list_clips(tmp_path, "train") == []
