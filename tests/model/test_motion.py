"""The motion packer: the newest latents finest and first, the older ones coarser, at negative times."""

import pytest
import torch

from liveavatar.model.motion import FramePacker, motion_rotation, motion_tokens
from liveavatar.model.rope import rotation

CPU = torch.device("cpu")
C, D, H = 3, 8, 12


@pytest.fixture(scope="module")
def packer() -> FramePacker:
    torch.manual_seed(0)
    return FramePacker(C, D).requires_grad_(False)


@pytest.mark.parametrize(("h", "w"), [(8, 8), (16, 24)])
def test_tokens_and_their_positions_are_as_many_as_counted(packer: FramePacker, h: int, w: int) -> None:
    count = motion_tokens(h, w)
    assert packer(torch.randn(2, C, 19, h, w)).shape == (2, count, D)
    assert motion_rotation(h, w, H, False, CPU).cos.shape == (count, H // 2)
    assert count == (h // 2) * (w // 2) + (h // 4) * (w // 4) + 4 * (h // 8) * (w // 8)


@pytest.mark.parametrize(
    ("latent", "tokens"),
    [
        pytest.param(18, range(16), id="the newest"),
        pytest.param(17, range(16, 20), id="the one before"),
        pytest.param(16, range(16, 20), id="packed with that"),
        pytest.param(15, range(23, 24), id="the newest of the old ones"),
        pytest.param(3, range(20, 21), id="the fourth oldest"),
        pytest.param(0, range(20, 21), id="the oldest"),
    ],
)
def test_a_latent_reaches_the_tokens_of_its_run(packer: FramePacker, latent: int, tokens: range) -> None:
    video = torch.randn(1, C, 19, 8, 8)
    changed = video.clone()
    changed[:, :, latent] += 1
    differs = (packer(changed) != packer(video)).any(-1)[0]
    assert differs.nonzero().flatten().tolist() == list(tokens)


def test_missing_latents_count_as_zero_and_too_many_are_left_out(packer: FramePacker) -> None:
    video = torch.randn(1, C, 21, 8, 8)
    assert torch.equal(packer(video), packer(video[:, :, 2:]))
    padded = torch.cat((torch.zeros(1, C, 12, 8, 8), video[:, :, :7]), dim=2)
    assert torch.equal(packer(video[:, :, :7]), packer(padded))


@pytest.mark.parametrize("shift", [0, 30])
def test_positions_are_times_before_the_stream_and_corners_of_the_picture(shift: int) -> None:
    made = motion_rotation(16, 8, H, False, CPU, shift)
    fine = [(-1, y, x) for y in range(8) for x in range(4)]
    middle = [(-3, y, x) for y in (0, 2, 4, 7) for x in (0, 3)]
    coarse = [(t, y, 0) for t in (-19, -14, -9, -4) for y in (0, 7)]
    t, y, x = torch.tensor(fine + middle + coarse).unbind(-1)
    wanted = rotation(t + shift, y, x, H)
    assert torch.equal(made.cos, wanted.cos)
    assert torch.equal(made.sin, wanted.sin)
