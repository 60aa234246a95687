"""Latents that the transformer draws of a clip: they follow its truth the less, the more noise they begin with."""

from dataclasses import replace

import pytest
import torch

from liveavatar.checkpoints.load import load_model
from liveavatar.model.vae_compact import CompactVAE
from liveavatar.training import export, runtime
from liveavatar.training.data import Clips, load_clips
from liveavatar.training.drawn import clip_window, draw_clips, load_drawer
from liveavatar.training.features import FeatureBank, load_bank
from liveavatar.training.flow import AvatarNet
from tests.training.conftest import ToyRun

Drawer = tuple[AvatarNet, CompactVAE, Clips, FeatureBank]


@pytest.fixture(scope="module")
def drawer(encoded: ToyRun, rank: runtime.TrainRank, tmp_path_factory: pytest.TempPathFactory) -> Drawer:
    folder = tmp_path_factory.mktemp("model")
    export.export_random("tiny", folder)
    net = load_drawer(folder, rank.device)
    vae = load_model(folder, "cpu", torch.float32, parts=("vae",)).vae
    assert isinstance(vae, CompactVAE)
    bank = load_bank(encoded.run, "train", net.cfg.dit.audio_history_frames, rank.device)
    return net, vae, load_clips(encoded.clips, "train", rank.device)[0], bank


def test_little_noise_leaves_the_truth(drawer: Drawer, rank: runtime.TrainRank) -> None:
    net, vae, clips, bank = drawer
    index = torch.arange(len(clips.frames))
    with torch.no_grad():
        true = [clip_window(net.cfg, vae, clips, bank, index, mirror, rank).latents for mirror in (False, True)]
    near, far = (draw_clips(net, vae, clips, bank, rank, levels=(s, s)).float() for s in (0.05, 0.9))
    assert near.shape == (len(clips.frames), 2, *true[0].shape[1:])
    for number, latents in enumerate(true):
        near_error, far_error = ((d[:, number] - latents).square().mean() for d in (near, far))
        assert near_error < 0.25 * far_error
    assert near_error < 0.25 * latents.var()


def test_a_mirrored_window_mirrors_picture_and_pose(drawer: Drawer, rank: runtime.TrainRank) -> None:
    net, vae, clips, bank = drawer
    index = torch.arange(len(clips.frames))
    with torch.no_grad():
        plain = clip_window(net.cfg, vae, clips, bank, index, False, rank)
        twice = replace_frames(clips, clips.frames.flip(-2))
        other = clip_window(net.cfg, vae, twice, bank, index, True, rank)
    assert torch.allclose(plain.latents, other.latents, atol=1e-5)
    assert plain.pose is not None
    assert other.pose is not None
    assert torch.allclose(plain.pose[:, [0, 2]], -other.pose[:, [0, 2]])
    assert torch.equal(plain.pose[:, 1], other.pose[:, 1])


def replace_frames(clips: Clips, frames: torch.Tensor) -> Clips:
    return replace(clips, frames=frames)


def test_the_first_frames_of_clips_keep_their_photos(drawer: Drawer) -> None:
    clips = drawer[2]
    cut = clips.first(1, 4)
    assert cut.num_frames == 4
    assert torch.equal(cut.frames[0, -1], clips.frames[0, -1])
    assert torch.equal(cut.landmarks[0, :4], clips.landmarks[0, :4])
    assert len(cut.captions) == len(cut.others) == 1
