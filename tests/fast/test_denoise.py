"""The fast denoiser: the latents of the plain one, also from a part of the steps, on buffers that jobs share."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from liveavatar.engine.denoiser import Denoiser, DenoiseSpec
from liveavatar.engine.placement import RankWork, Span, split
from liveavatar.engine.plain import PlainBackend
from liveavatar.fast import accelerate
from liveavatar.fast.backend import FastBackend
from liveavatar.fast.denoise import FastDenoiser, RunnerKey, Runners
from tests.fast.engines import CPU, model
from tests.fast.streams import BLOCKS, conditioning, features, spec

WHOLE = split(3, 1)[0]


@pytest.fixture(scope="module")
def plain() -> PlainBackend:
    return PlainBackend(model(), CPU)


@pytest.fixture
def fast() -> FastBackend:
    return fast_backend()


def fast_backend() -> FastBackend:
    loaded = model()
    return FastBackend(replace(loaded, dit=accelerate(copy.deepcopy(loaded.dit))), CPU)


@torch.inference_mode()
def run(backend: PlainBackend | FastBackend, denoiser: Denoiser, reanchored: int | None = None) -> list[Tensor]:
    made = []
    for index in range(BLOCKS):
        if index == reanchored:
            another = conditioning(30)
            denoiser.reanchor(another.reference, another.motion)
        x, marks = denoiser.queue(index, denoiser.noise(index), backend.dit.encode_audio(features(index)))
        assert len(marks) == 4, "around and between three steps"
        made.append(x.clone())
    return made


def near(got: list[Tensor], wanted: list[Tensor]) -> None:
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("reanchored", [None, 3], ids=["one reference", "another one in mid-stream"])
def test_latents_are_those_of_the_plain_denoiser(
    plain: PlainBackend, fast: FastBackend, reanchored: int | None
) -> None:
    got, wanted = (
        run(backend, backend.denoiser(spec(), conditioning(), WHOLE), reanchored) for backend in (fast, plain)
    )
    near(got, wanted)


def test_a_job_takes_over_the_buffers_of_the_last_one_and_nothing_in_them(fast: FastBackend) -> None:
    first = run(fast, fast.denoiser(spec(), conditioning(), WHOLE))
    runner = fast.runners.current
    other = run(fast, fast.denoiser(spec(seed=2), conditioning(20), WHOLE), reanchored=2)
    assert not torch.equal(other[0], first[0])
    again = run(fast, fast.denoiser(spec(), conditioning(), WHOLE))
    assert fast.runners.current is runner
    assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))


@pytest.mark.parametrize(
    "works",
    [
        pytest.param(split(3, 2), id="whole steps"),
        pytest.param(
            (
                RankWork(rank=0, steps=(0, 1), decodes=False, stop_layer=1),
                RankWork(rank=1, steps=(1, 2), decodes=True, first_layer=1),
            ),
            id="cut between two layers",
        ),
    ],
)
def test_shares_one_after_the_other_are_the_whole(works: tuple[RankWork, ...], fast: FastBackend) -> None:
    backends = [fast_backend() for _ in works]
    parts = [backend.denoiser(spec(), conditioning(), work) for backend, work in zip(backends, works, strict=True)]
    assert [sorted(part.rings) for part in parts] == [list(work.steps) for work in works]
    whole = fast.denoiser(spec(), conditioning(), WHOLE)
    with torch.inference_mode():
        for index in range(BLOCKS):
            audio = fast.dit.encode_audio(features(index))
            x, hidden = whole.noise(index), ()
            for part in parts:
                x, _ = part.queue(index, x, audio, hidden)
                hidden = part.hidden
            assert torch.equal(x, whole.queue(index, whole.noise(index), audio)[0])


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        pytest.param(spec(seed=7), True, id="seed"),
        pytest.param(spec(kv_cache_dtype="bf16"), True, id="the precision it has anyway"),
        pytest.param(spec(kv_cache_dtype="int8"), False, id="another precision"),
        pytest.param(spec(steps=2), False, id="steps"),
        pytest.param(spec(h=16), False, id="size"),
    ],
)
def test_one_set_of_buffers_is_kept_for_what_fits_it(changed: DenoiseSpec, same: bool, fast: FastBackend) -> None:
    fast.denoiser(spec(), conditioning(), WHOLE)
    kept = fast.runners.current
    fast.denoiser(changed, conditioning(h=changed.h), split(changed.num_steps, 1)[0])
    assert (fast.runners.current is kept) == same


def test_buffers_of_another_size_are_freed_before_new_ones_are_made(fast: FastBackend) -> None:
    denoiser: FastDenoiser = fast.denoiser(spec(), conditioning(), WHOLE)
    key = RunnerKey.of(spec(), WHOLE.spans(2), False)
    assert fast.runners.kept(key) is denoiser.runner
    for other in (replace(key, h=16), replace(key, spans=(Span(0, range(2)),)), replace(key, has_pose=True)):
        runners = Runners(fast.dit)
        made = runners.make(key, denoiser.sink)
        assert runners.kept(key) is made
        assert runners.kept(other) is None
        assert runners.current is None
    runners = Runners(fast.dit)
    runners.make(key, denoiser.sink)
    runners.forget()
    assert runners.current is None
