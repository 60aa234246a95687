"""Videos are measured beside their true ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from liveavatar import paths
from liveavatar.bench.quality import judge
from liveavatar.bench.quality.videos import Video, make_scene, true_video
from liveavatar.config import TINY
from liveavatar.engine.engine import Engine
from liveavatar.face.landmarks import FaceTracker
from liveavatar.load import load_engine
from liveavatar.media.film import FilmWriter
from liveavatar.media.opening import OPENING
from liveavatar.model.vae_compact import CompactVAE
from liveavatar.quality import goals
from liveavatar.quality.curves import correlation
from liveavatar.quality.split import load_split


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load_engine(paths.MINI_DIR, device="cpu")


def test_specks_on_a_lattice_are_seen() -> None:
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(90, 160, (3, 64, 96, 1), dtype=np.uint8), 3, 3)
    plain = judge.grid_ratio(frames)
    assert 1 <= plain < 1.6
    dotted = frames.copy()
    dotted[:, 3::8, 5::8] = 0
    assert judge.grid_ratio(dotted) > 2 * plain
    assert np.isnan(judge.grid_ratio(np.full((2, 16, 16, 3), 128, np.uint8)))


def test_frames_that_begin_with_the_portrait_are_not_compared() -> None:
    true = np.random.default_rng(0).uniform(0, 0.3, 48)
    made = np.where(np.arange(48) < OPENING, 0.0, true)
    assert judge.opened_correlation(made, true) == pytest.approx(1)
    assert correlation(made, true) < 0.97
    late = np.where(np.arange(48) < OPENING + 3, 0.0, true)
    assert judge.opened_correlation(late, true) < 0.99


@pytest.mark.nightly
def test_the_true_video_is_as_good_as_itself(short: Path, tmp_path: Path, engine: Engine) -> None:
    clip = load_split(short)[0]
    scene = make_scene(tmp_path, clip.photo(), clip.speech(), clip.info.caption, engine)
    video = true_video(clip, scene)
    seen = judge.look(video, scene.photo, clip.speech(), FaceTracker())
    pair = judge.Pair("00", seen, seen, clip.labels(), judge.compare_posed(video, clip, clip.labels()))
    summary = judge.summarise([pair])
    rendered, true = summary.rendered, summary.true
    assert not summary.gaps
    for name in (
        "openness_corr",
        "width_corr",
        "openness_corr_whole",
        "identity_ratio",
        *(f"{r}_ratio" for r in judge.RATIOS),
    ):
        assert rendered[name] == pytest.approx(1), name
    assert rendered["lag_frames"] == 0
    assert rendered["texture_psnr"] > 36  # what the coder costs
    assert rendered["edge_jump"] == true["edge_jump"]


@pytest.mark.nightly
def test_a_face_that_cannot_be_read_is_a_gap(short: Path, tmp_path: Path, engine: Engine) -> None:
    clip = load_split(short)[0]
    scene = make_scene(tmp_path, clip.photo(), clip.speech(), clip.info.caption, engine)
    tracker = FaceTracker()
    true = judge.look(true_video(clip, scene), scene.photo, clip.speech(), tracker)
    height, width = scene.photo.shape[:2]
    grey = tmp_path / "grey.mp4"
    with FilmWriter(grey, size=(width, height), audio=scene.sound) as writer:
        writer.write(np.random.default_rng(0).integers(100, 110, (36, height, width, 3), dtype=np.uint8))
        writer.close()
    rendered = judge.look(Video(grey), scene.photo, clip.speech(), tracker)
    summary = judge.summarise(
        [judge.Pair("a", true, rendered, clip.labels()), judge.Pair("b", true, true, clip.labels())]
    )
    for name in ("openness_corr", "jerk_index", "identity_min", "blink_depth"):
        assert summary.gaps[name] == 1, name
    missed = {c.name for c in goals.check(summary.rendered, summary.reasons, summary.gaps) if c.ok is False}
    assert {"openness_corr", "jerk_index_ratio", "identity_ratio", "blink_depth_ratio"} <= missed


@torch.inference_mode()
def test_a_decoder_that_copies_is_shown_the_portrait() -> None:
    torch.manual_seed(0)
    vae = CompactVAE(replace(TINY.vae, reference_width=8)).eval()
    assert vae.decoder.branch is not None
    torch.nn.init.ones_(vae.decoder.branch.conv_gate.bias)  # every pixel is the portrait's, wherever the flow finds it
    grey, video = np.full((64, 48, 3), 200, np.uint8), torch.zeros(1, 3, 8, 64, 48)
    assert torch.allclose(judge.autoencoded(vae, video, grey), torch.tensor(200 / 127.5 - 1), atol=1e-5)
    assert not torch.allclose(vae.decode(vae.encode(video)), torch.tensor(200 / 127.5 - 1), atol=0.1)
