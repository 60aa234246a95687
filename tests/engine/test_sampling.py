"""Noise levels, noise and distances: explicit lists, functions of the seed alone."""

from itertools import pairwise

import pytest
import torch

from liveavatar.config import LIVE_AVATAR_14B, MINI
from liveavatar.engine.sampling import clip_noise, euler_step, reference_distance, sigma_steps
from liveavatar.errors import InputError


@pytest.mark.parametrize(
    ("steps", "sigmas"),
    [
        pytest.param(1, (1.0, 0.0), id="one"),
        pytest.param(2, (1.0, 0.008929, 0.0), id="two"),
        pytest.param(4, (1.0, 0.857692, 0.602151, 0.008929, 0.0), id="four"),
        pytest.param(6, (1.0, 0.923343, 0.818923, 0.668327, 0.432225, 0.008929, 0.0), id="six"),
    ],
)
def test_released_sigmas(steps: int, sigmas: tuple[float, ...]) -> None:
    assert sigma_steps(LIVE_AVATAR_14B, steps) == pytest.approx(sigmas, abs=1e-6)


@pytest.mark.parametrize("steps", [0, 9, -1])
def test_unknown_step_count_is_refused_with_the_known_ones(steps: int) -> None:
    with pytest.raises(InputError, match=f"--sample_steps {steps}.*1, 2, 3, 4, 5, 6, 7, 8"):
        sigma_steps(MINI, steps)


def test_noise_is_a_function_of_seed_and_clip() -> None:
    shape = (4, 12, 2, 3)
    assert torch.equal(clip_noise(420, 1, shape), clip_noise(421, 0, shape))
    assert not torch.equal(clip_noise(420, 1, shape), clip_noise(420, 0, shape))


def test_distance_is_seeded_and_within_bounds() -> None:
    drawn = [reference_distance((4, 30), 420, b) for b in range(200)]
    assert drawn == [reference_distance((4, 30), 420, b) for b in range(200)]
    assert min(drawn) == 4
    assert max(drawn) == 30


def test_euler_step_integrates_a_constant_flow_exactly() -> None:
    x0, noise = torch.randn(3, 4), torch.randn(3, 4)
    x = noise
    sigmas = sigma_steps(MINI, 4)
    for sigma, following in pairwise(sigmas):
        x = euler_step(x, noise - x0, sigma, following)
    torch.testing.assert_close(x, x0)
