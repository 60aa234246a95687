"""Measures of the copying decoder on held-out clips: each reacts to what it is named after."""

import pytest
import torch

from liveavatar.checkpoints.load import load_model
from liveavatar.model.vae_compact import CompactVAE
from liveavatar.training import export, runtime
from liveavatar.training.data import Clips, load_clips
from liveavatar.training.reference_measures import held_out_measures, held_out_videos
from tests.training.conftest import ToyRun


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> CompactVAE:
    folder = tmp_path_factory.mktemp("model")
    export.export_random("tiny", folder)
    loaded = load_model(folder, "cpu", torch.float32, parts=("vae",)).vae
    assert isinstance(loaded, CompactVAE)
    return loaded


@pytest.fixture(scope="module")
def clips(corpus: ToyRun, rank: runtime.TrainRank) -> list[Clips]:
    return load_clips(corpus.clips, "eval", rank.device)


def test_the_picture_is_the_photo_or_the_last_frame(clips: list[Clips]) -> None:
    video, photo = held_out_videos(clips[0], 0, from_photo=True)
    _, frame = held_out_videos(clips[0], 0, from_photo=False)
    assert video.shape[2] % 4 == 0
    assert not torch.equal(photo, frame)
    assert photo.shape == frame.shape == (1, 3, 1, *clips[0].size)


def test_given_latents_are_decoded_instead_of_the_pictures(
    vae: CompactVAE, clips: list[Clips], rank: runtime.TrainRank
) -> None:
    plain = held_out_measures(vae, clips, rank, True)
    with torch.no_grad():
        encoded = [vae.encode(held_out_videos(c, 0, True)[0]).expand(len(c.frames), -1, -1, -1, -1) for c in clips]
    same = held_out_measures(vae, clips, rank, True, encoded)
    rough = held_out_measures(vae, clips, rank, True, [e + torch.randn_like(e) for e in encoded])
    assert same["psnr_face"] == pytest.approx(plain["psnr_face"], abs=0.01)
    assert rough["psnr_face"] != pytest.approx(plain["psnr_face"], abs=0.01)
