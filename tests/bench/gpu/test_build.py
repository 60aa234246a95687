"""Engines with random weights: their precisions, their memory, and the job they are measured with."""

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from liveavatar.bench.gpu.build import DRY, FP8, FP8_ALL, BenchEngine, bench_job, random_dit, random_prompt
from liveavatar.engine.job import StreamJob
from liveavatar.fast.dit import FastDiT, accelerate
from liveavatar.fast.weights import LayerWeights, Linear, Resident

CPU = torch.device("cpu")


@pytest.mark.parametrize("fp8", [False, True], ids=["fp32", "fp8"])
def test_layers_that_are_alike_are_packed_apart(fp8: bool) -> None:
    """Weights that are made in little memory take as much as others in the end."""
    apart, alike = (accelerate(random_dit(DRY.dit, CPU, torch.float32, a), fp8=fp8) for a in (False, True))
    assert num_bytes(alike) == num_bytes(apart) > 0


def num_bytes(dit: FastDiT) -> int:
    """Of all memory that a transformer's weights lie in."""
    found: dict[int, int] = {}
    waiting: list[Any] = [vars(dit)]
    while waiting:
        match waiting.pop():
            case torch.Tensor() as t:
                found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            case torch.nn.Module() as module:
                waiting.extend(module.parameters())
            case dict() as named:
                waiting.extend(named.values())
            case list() | tuple() as several:
                waiting.extend(several)
            case Resident() as layers:
                waiting.extend(vars(layers).values())
            case LayerWeights() | Linear() as part:
                waiting.extend(getattr(part, f.name) for f in fields(part))
    return sum(found.values())


def test_weights_are_the_same_every_time_and_norms_are_ones() -> None:
    first, again = (random_dit(DRY.dit, CPU, torch.float32).state_dict() for _ in range(2))
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    norms = {name: w for name, w in first.items() if name.endswith(("norm_q.weight", "norm_k.weight", "norm3.weight"))}
    assert len(norms) > DRY.dit.num_layers
    assert all(bool((w == 1).all()) for w in norms.values())
    assert first["blocks.0.ffn.0.weight"].std() == pytest.approx(1.4 * DRY.dit.dim**-0.5, rel=0.05)


@pytest.mark.parametrize("blocks", [3, 8, 9])
def test_job_has_features_for_all_its_frames(blocks: int) -> None:
    job = bench_job(DRY, (48, 32), blocks, steps=2)
    assert job.image.shape == (32, 48, 3)
    assert job.num_frames == 12 * blocks <= job.features.shape[2]
    assert job.features.shape[:2] == (DRY.dit.audio_layers, DRY.dit.audio_dim)
    assert job.settings.sample_steps == 2


def test_prompt_rows_hang_on_its_length_alone() -> None:
    encode = random_prompt(DRY, CPU)
    assert torch.equal(encode("abc"), encode("xyz"))
    assert not torch.equal(encode("abc"), encode("abcd"))
    assert encode("abc").shape == (1, DRY.dit.text_len, DRY.dit.text_dim)


@pytest.mark.parametrize(
    ("asked", "mode", "cache"),
    [("auto", FP8, "bf16"), ("auto", FP8_ALL, "fp8"), ("bf16", FP8_ALL, "bf16"), ("int8", FP8, "int8")],
)
def test_a_job_opens_in_the_precisions_of_the_mode_unless_it_names_its_own(asked: str, mode: Any, cache: str) -> None:
    opened: list[StreamJob] = []
    engine: Any = SimpleNamespace(open=opened.append)
    job = bench_job(DRY, (16, 16), 1)
    BenchEngine(engine, None, mode).open(replace(job, settings=replace(job.settings, kv_cache_dtype=asked)))  # type: ignore[arg-type]
    assert (opened[0].settings.fp8, opened[0].settings.kv_cache_dtype) == (True, cache)
