"""Noise levels and Euler updates of the reference; a level or an update that is off fails."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from liveavatar import parity
from liveavatar.config import RELEASED_SIGMAS
from liveavatar.parity import schedule
from tests.parity.sets import change


def found(directory: Path) -> dict[str, bool | None]:
    return {p.name: p.ok for p in parity.run_parity(directory, "scheduler.")}


def write_schedule(directory: Path) -> None:
    """Levels of four steps, and trajectories whose flow is known: x + the sum of differences of levels."""
    levels = torch.tensor([*RELEASED_SIGMAS[4], 0.0], dtype=torch.float64)
    tensors = {"steps4.sigmas": levels.float(), "steps4.timesteps": 1000 * levels[:-1].float()}
    for dtype in (torch.float32, torch.bfloat16):
        prefix = "traj_fp32." if dtype == torch.float32 else "traj_bf16."
        noise = torch.tensor([1.0, -0.5], dtype=dtype)
        tensors[f"{prefix}noise"] = noise
        x = noise
        for i in range(4):
            flow = torch.tensor([2.0, 0.25 * i], dtype=dtype)
            x = x + (flow.double() * (levels[i + 1] - levels[i])).to(torch.float32).to(dtype)
            tensors[f"{prefix}model_out{i}"], tensors[f"{prefix}x{i + 1}"] = flow, x
    save_file(tensors, directory / "scheduler.safetensors")


@pytest.mark.parametrize(
    ("key", "failed"),
    [
        pytest.param("steps4.sigmas", "scheduler.sigmas", id="a level"),
        pytest.param("traj_fp32.x3", "scheduler.euler_fp32", id="an update"),
    ],
)
def test_wrong_numbers_fail_their_part(key: str, failed: str, tmp_path: Path) -> None:
    write_schedule(tmp_path)
    assert found(tmp_path)["scheduler.sigmas"]
    assert found(tmp_path)["scheduler.euler_fp32"]
    before = found(tmp_path)
    change(tmp_path / "scheduler.safetensors", key, 2e-5)
    assert {name for name, ok in found(tmp_path).items() if ok != before[name]} >= {failed}
    assert found(tmp_path)[failed] is False


def test_timesteps_are_compared_on_the_scale_of_levels(tmp_path: Path) -> None:
    write_schedule(tmp_path)
    change(tmp_path / "scheduler.safetensors", "steps4.timesteps", 1000 * schedule.TOLERANCE / 2)
    assert found(tmp_path)["scheduler.sigmas"]
    change(tmp_path / "scheduler.safetensors", "steps4.timesteps", 1000 * schedule.TOLERANCE)
    assert found(tmp_path)["scheduler.sigmas"] is False


def test_a_missing_trajectory_is_no_success(tmp_path: Path) -> None:
    levels = torch.tensor([*RELEASED_SIGMAS[4], 0.0])
    save_file({"steps4.sigmas": levels}, tmp_path / "scheduler.safetensors")
    assert found(tmp_path) == {"scheduler.sigmas": True, "scheduler.euler_fp32": None, "scheduler.euler_bf16": None}
