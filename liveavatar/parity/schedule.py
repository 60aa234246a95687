"""Parity of the sampler's noise levels and of its Euler update in fp32 and bf16."""

from collections.abc import Iterator

import torch

from liveavatar.config import RELEASED_SIGMAS
from liveavatar.engine.sampling import euler_step
from liveavatar.parity.fixtures import FixtureFile, Fixtures
from liveavatar.parity.report import Comparison, Part

FILES = ("scheduler",)
NAMES = ("scheduler.sigmas", "scheduler.euler_fp32", "scheduler.euler_bf16")
TOLERANCE = 1e-5
TIMESTEP_SCALE = 1000.0


def check(fix: Fixtures) -> Iterator[Part]:
    """Compare noise levels for every step count of the set, and both trajectories."""
    file = fix.file("scheduler")
    levels = Comparison()
    for key, expected in file.tensors.items():
        steps, _, what = key.partition(".")
        if not steps.startswith("steps"):
            continue
        sigmas = RELEASED_SIGMAS[int(steps.removeprefix("steps"))]
        if what == "sigmas":
            levels.add(key, torch.tensor((*sigmas, 0.0)), expected)
        else:  # timesteps are a thousand times the levels: compared on the levels' scale
            levels.add(key, torch.tensor(sigmas), expected / TIMESTEP_SCALE)
    yield levels.part("scheduler.sigmas", TOLERANCE)
    for dtype in ("fp32", "bf16"):
        yield _trajectory(file, f"traj_{dtype}.").part(f"scheduler.euler_{dtype}", TOLERANCE)


def _trajectory(file: FixtureFile, prefix: str) -> Comparison:
    result = Comparison()
    tensors = file.below(prefix)
    if not tensors:
        return result
    num_steps = sum(k.startswith("model_out") for k in tensors)
    sigmas = (*RELEASED_SIGMAS[num_steps], 0.0)
    x = tensors["noise"]
    for i in range(num_steps):
        x = euler_step(x, tensors[f"model_out{i}"], sigmas[i], sigmas[i + 1])
        result.add(f"{prefix}x{i + 1}", x, tensors[f"x{i + 1}"])
    return result
