"""Kernels of the decoder equal their references."""

from types import ModuleType

import pytest
import torch
from torch import Tensor

from liveavatar.fast import reference
from tests.fast.cases import BF16, Case, close, draw, off
from tests.fast.interpreter import interpret, needs_interpreter


def pixels(channels: int, device: torch.device, seed: int = 0) -> Tensor:
    """[C, 2, 3, 5], channels innermost."""
    return draw(2, 3, 5, channels, device=device, dtype=BF16, seed=seed).permute(3, 0, 1, 2)


def rms_silu(module: ModuleType, device: torch.device) -> None:
    for channels, wide in ((12, 12), (96, 96), (12, 20), (96, 128)):
        x = pixels(channels, device)
        gamma, bias = (draw(channels, device=device, dtype=BF16, seed=seed) for seed in (1, 2))
        for left_out in (None, bias):
            got, wanted = (
                torch.ones(4, 3, 5, wide, dtype=BF16, device=device).permute(3, 0, 1, 2)[:, 2:] for _ in range(2)
            )
            module.rms_silu(x, left_out, gamma, got)
            reference.rms_silu(x, left_out, gamma, wanted)
            close(got, wanted)
            assert not got[channels:].any()


def add_bias(module: ModuleType, device: torch.device) -> None:
    for channels in (12, 96):
        bias = draw(channels, device=device, dtype=BF16, seed=1)
        for skip in (None, pixels(channels, device, seed=2)):
            got, wanted = pixels(channels, device), pixels(channels, device)
            module.add_bias(got, bias, skip)
            reference.add_bias(wanted, bias, skip)
            close(got, wanted)
            assert off(got.float(), pixels(channels, device).float(), 0.02) > 0.5


def enlarge(module: ModuleType, device: torch.device) -> None:
    for channels, rate in ((12, 1), (12, 2), (96, 2)):
        x, bias = pixels(rate * channels, device), draw(rate * channels, device=device, dtype=BF16, seed=1)
        for left_out in (None, bias):
            got, wanted = (
                torch.zeros(1 + 2 * rate, 6, 10, channels, dtype=BF16, device=device).permute(3, 0, 1, 2)
                for _ in range(2)
            )
            module.enlarge(x, left_out, got[:, 1:])
            reference.enlarge(x, left_out, wanted[:, 1:])
            close(got, wanted)
            assert not got[:, 0].any()
            assert torch.equal(got[:, :, ::2, 1::2], got[:, :, 1::2, ::2])


CASES = [
    pytest.param(rms_silu, id="decoder's norm"),
    pytest.param(add_bias, id="a convolution's bias, and the way around it"),
    pytest.param(enlarge, id="pixels four times, frames in order"),
]


@needs_interpreter
@pytest.mark.parametrize("case", CASES)
def test_interpreted_kernels_equal_their_references(case: Case) -> None:
    interpret(case)
