"""Pose latents of a drawn skeleton: the released formula clip by clip, block by block, the same after a resume."""

import numpy as np
import pytest
import torch
from torch import Tensor

from liveavatar.engine.plain import BackendEncoder
from liveavatar.engine.pose_latents import SkeletonLatents
from liveavatar.model.stream_state import State
from liveavatar.model.vae_wan import WanVAE
from liveavatar.pose.packed import DrawnPose, pack
from tests.released import SCALED

CLIP_BLOCKS, CLIP = 2, 24
H, W = 32, 48


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    torch.manual_seed(0)
    return WanVAE(SCALED.vae).eval()


class Counted(BackendEncoder):
    """An encoder that counts the pictures it is given."""

    pictures = 0

    def encode(self, video_13THW: Tensor, state: State) -> Tensor:
        self.pictures += video_13THW.shape[2]
        return super().encode(video_13THW, state)


def encoder(vae: WanVAE) -> Counted:
    return Counted(vae, vae.encode_stream, torch.device("cpu"), torch.float32, (H // 8, W // 8))


@pytest.fixture
def drawn() -> DrawnPose:
    rng = np.random.default_rng(0)
    return DrawnPose(pack(rng.integers(0, 255, (40, H, W, 3), dtype=np.uint8)))


def released(vae: WanVAE, drawn: DrawnPose, clip: int) -> Tensor:
    """The released formula: a clip behind a copy of its first picture, black after the end; one latent is dropped."""
    pictures = np.zeros((CLIP, H, W, 3), np.uint8)
    given = drawn.frames(clip * CLIP, min((clip + 1) * CLIP, drawn.num_frames))
    pictures[: len(given)] = given
    video = torch.from_numpy(pictures).permute(3, 0, 1, 2)[None].float() / 255.0 * 2 - 1.0
    return vae.encode(torch.cat((video[:, :, :1], video), dim=2))[:, :, 1:]


def test_blocks_are_the_released_formula(vae: WanVAE, drawn: DrawnPose) -> None:
    made = SkeletonLatents(drawn, encoder(vae), CLIP_BLOCKS)
    latents = torch.cat([made.latents(index) for index in range(4)], dim=2)
    expected = torch.cat([released(vae, drawn, clip) for clip in range(2)], dim=2)
    assert latents.shape == (1, 16, 12, H // 8, W // 8)
    torch.testing.assert_close(latents, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_a_resumed_stream_has_the_same_bits(vae: WanVAE, drawn: DrawnPose, start: int) -> None:
    whole = SkeletonLatents(drawn, encoder(vae), CLIP_BLOCKS)
    blocks = [whole.latents(index).clone() for index in range(4)]
    resumed = SkeletonLatents(drawn, encoder(vae), CLIP_BLOCKS)
    for index in range(start, 4):
        assert torch.equal(resumed.latents(index), blocks[index])


def test_a_block_is_encoded_once_for_all_its_steps(vae: WanVAE, drawn: DrawnPose) -> None:
    counted = encoder(vae)
    made = SkeletonLatents(drawn, counted, CLIP_BLOCKS)
    for index in (0, 0, 0, 1, 1):
        made.latents(index)
    assert counted.pictures == 1 + CLIP
