"""The fused kernels on Triton's interpreter equal their torch references, and a stream on them the plain engine's."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import islice

import pytest
import torch
from torch import Tensor

from liveavatar.engine.job import Block
from liveavatar.fast import accelerate, ops
from tests.fast.cases import CASES, Case
from tests.fast.engines import fast_engine, job, model, plain_engine, same
from tests.fast.interpreter import interpret, needs_interpreter, one_thread
from tests.job_changes import changed

pytestmark = needs_interpreter
WANTED = job(num_frames=60, sample_steps=1)  # the ring is full, then written anew; the reference changes on the way


@pytest.mark.parametrize("case", CASES)
def test_interpreted_kernels_equal_their_references(case: Case) -> None:
    interpret(case)


@pytest.fixture
def threads() -> Iterator[None]:
    """An engine with two threads decodes on the second."""
    with one_thread():
        yield


@cache
def plain(count: int) -> list[Block]:
    """The first blocks of the plain engine's stream."""
    return list(islice(plain_engine().open(WANTED).blocks(), count))


def blocks(monkeypatch: pytest.MonkeyPatch, count: int, fp8: bool, kv_cache_dtype: str = "bf16") -> list[Block]:
    """The first blocks of a stream whose every fused operation is an interpreted kernel."""
    from liveavatar.fast import kernels

    monkeypatch.setattr(ops, "backend", lambda device: kernels)
    loaded = model()
    dit = accelerate(copy.deepcopy(loaded.dit), fp8=fp8)
    engine = fast_engine(replace(loaded, dit=dit), fp8)
    return list(islice(engine.open(changed(WANTED, kv_cache_dtype=kv_cache_dtype, fp8=fp8)).blocks(), count))


def latents(made: list[Block]) -> Tensor:
    return torch.stack([b.latents for b in made])


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("threads")
def test_a_stream_on_kernels_equals_the_plain_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    same(blocks(monkeypatch, 5, fp8=False), plain(5))


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("kv_cache_dtype", ["fp8", "int8", "e4m3"])
def test_a_stream_on_kernels_in_8_bits_is_close(kv_cache_dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    got, wanted = latents(blocks(monkeypatch, 3, True, kv_cache_dtype)), latents(plain(3))
    assert (got - wanted).norm() < 0.05 * wanted.norm()
