"""The plain denoiser: every step at its own noise level, from the noise of its block down to the last level."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from liveavatar.config import TINY
from liveavatar.engine.engine import Engine
from liveavatar.errors import InputError
from liveavatar.model.dit import CausalDiT, NoiseLevel
from tests.engine.jobs import make_job


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_every_step_has_its_own_noise_level(engine: Engine, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, levels, flows = [], [], []
    whole = CausalDiT.step

    def step(self: CausalDiT, x: torch.Tensor, level: NoiseLevel, *rest: Any) -> torch.Tensor:
        flow = whole(self, x, level, *rest)
        inputs.append(x.clone())
        levels.append(level)
        flows.append(flow.clone())
        return flow

    monkeypatch.setattr(CausalDiT, "step", step)
    stream = engine.open(make_job(sample_steps=steps))
    block = next(iter(stream.blocks()))
    stream.close()
    sigmas = (*TINY.sigmas[steps], 0.0)
    assert len(levels[:steps]) == steps
    for index, level in enumerate(levels[:steps]):
        own, others = sigmas[index], sigmas[:index] + sigmas[index + 1 :]
        assert is_level(engine, level, own), f"step {index + 1} has another noise level than {own}"
        assert not any(is_level(engine, level, other) for other in others)
    after = [x + flow * (b - a) for x, flow, a, b in zip(inputs, flows, sigmas, sigmas[1:], strict=False)]
    for made, next_input in zip(after[: steps - 1], inputs[1:steps], strict=True):
        torch.testing.assert_close(made, next_input)
    torch.testing.assert_close(after[steps - 1][0].float(), torch.as_tensor(block.latents).float())


def test_rings_that_are_to_wait_in_host_memory_are_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match=r"rings_on_host: .* load it with offload=True"):
        engine.open(replace(make_job(), rings_on_host=True))


def is_level(engine: Engine, level: NoiseLevel, sigma: float) -> bool:
    """Tell whether a noise level is that of a sigma."""
    expected = engine.backend.dit.noise_level(torch.full((1, 1), sigma))
    return torch.allclose(level.e, expected.e) and torch.allclose(level.e0, expected.e0)
