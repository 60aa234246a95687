"""Measures of held-out video on pictures whose answer is known."""

import pytest
import torch

from liveavatar.quality import reference
from liveavatar.quality.reference import region_weights


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        pytest.param(0.2, 20.0, id="a tenth of the range is 20 dB"),
        pytest.param(0.02, 40.0, id="a hundredth is 40 dB"),
    ],
)
def test_psnr(noise: float, expected: float) -> None:
    truth = torch.zeros(1, 3, 2, 8, 8)
    assert reference.psnr(truth + noise, truth) == pytest.approx(expected, abs=0.01)


def test_edge_jump_sees_block_edges() -> None:
    steps = torch.ones(48)
    smooth = steps.cumsum(0) / 100
    steps[12::12] = 3.0
    jumpy = steps.cumsum(0) / 100
    video = lambda s: s.view(1, 1, -1, 1, 1).expand(1, 3, -1, 4, 4)  # noqa: E731
    assert reference.mean_edge_jump(video(smooth)) == pytest.approx(1.0)
    assert reference.mean_edge_jump(video(jumpy)) > 2


def test_blur_loses_energy() -> None:
    sharp = torch.rand(1, 3, 2, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    soft = torch.nn.functional.avg_pool2d(sharp.transpose(1, 2).flatten(0, 1), 3, 1, 1)
    soft = soft.unflatten(0, (1, 2)).transpose(1, 2)
    assert reference.energy_kept(sharp, sharp) == pytest.approx(1.0)
    assert reference.energy_kept(soft, sharp) < 0.5


def test_error_share_counts_what_lies_in_the_part_of_the_mask() -> None:
    truth = torch.zeros(1, 3, 1, 4, 4)
    made = truth.clone()
    made[..., 0, 0], made[..., 1, 1], made[..., 3, 3] = 0.3, 0.1, 0.9  # squares 9 : 1, and one outside
    mask, part = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    mask[..., 3, 3], part[..., 0, 0], part[..., 3, 3] = 0, 1, 1
    assert reference.error_share(made, truth, mask, part) == pytest.approx(0.9)


def test_dots_on_a_lattice_are_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    even = 0.1 * torch.randn(1, 3, 8, 64, 96, generator=generator)
    dotted = even.clone()
    dotted[..., 3::8, 5::8] += 0.5
    assert reference.lattice_ratio(even) < 1.4
    assert reference.lattice_ratio(dotted) > 4


def test_frame_steps_are_the_mean_change_between_frames() -> None:
    video = torch.zeros(1, 3, 3, 2, 2)
    video[:, :, 1] = 0.2
    assert float(reference.frame_steps(video).mean()) == pytest.approx(0.2)
    assert float(reference.frame_steps(video[:, :, :1].expand(-1, -1, 3, -1, -1)).mean()) == 0


def test_region_weights_mark_mouth_and_eyes() -> None:
    landmarks = torch.full((68, 2), 32.0)
    landmarks[36:42] = torch.tensor([20.0, 20.0])
    landmarks[42:48] = torch.tensor([44.0, 20.0])
    landmarks[48:68] = torch.tensor([32.0, 48.0])
    weights = region_weights(landmarks, (64, 64))
    assert weights[48, 32] == 5
    assert weights[20, 20] == weights[20, 44] == 3
    assert weights[2, 2] == 1
