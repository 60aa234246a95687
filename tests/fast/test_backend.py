"""Jobs on the fast path: equal to the plain engine, over re-anchoring, resuming, several jobs and long streams."""

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from liveavatar.checkpoints.load import LoadedModel
from liveavatar.engine.engine import Engine
from liveavatar.engine.job import TensorFeatures
from liveavatar.errors import InputError
from liveavatar.fast import accelerate
from liveavatar.fast.decode import DecodeRunner
from liveavatar.fast.runner import StepRunner
from tests.fast.engines import CONFIG, fast_engine, job, model, plain_engine, same
from tests.job_changes import changed


@pytest.fixture(scope="module")
def plain() -> Engine:
    return plain_engine()


@pytest.fixture(scope="module")
def fast() -> Engine:
    loaded = model()
    return fast_engine(replace(loaded, dit=accelerate(copy.deepcopy(loaded.dit))))


def test_equals_the_plain_engine_job_after_job(plain: Engine, fast: Engine) -> None:
    for wanted in (job(), job(seed=7, prompt="another prompt", num_frames=30)):
        same(list(fast.open(wanted).blocks()), list(plain.open(wanted).blocks()))


@pytest.mark.parametrize("kv_cache_dtype", ["int8", pytest.param("e4m3", marks=pytest.mark.nightly)])
def test_8_bit_attention_is_close(kv_cache_dtype: str, fast: Engine) -> None:
    for wanted in (job(), job(seed=7, prompt="another prompt", num_frames=30)):
        got, exact = (
            torch.stack([b.latents for b in fast.open(changed(wanted, kv_cache_dtype=cache)).blocks(decode=False)])
            for cache in (kv_cache_dtype, "auto")
        )
        assert 0 < (got - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("cache", ["bf16", "e4m3", pytest.param("int8", marks=pytest.mark.nightly)])
def test_resumed_equals_uninterrupted(cache: str, fast: Engine) -> None:
    whole, state = [], {}
    for block in fast.open(job(kv_cache_dtype=cache)).blocks(snapshot_every=3):
        whole.append(block)
        if block.state is not None and not state:
            state = {k: v.clone() for k, v in block.state.items()}
    list(fast.open(job(seed=1, num_frames=24)).blocks())  # somebody else's rubbish in the buffers
    stream = fast.open(job(kv_cache_dtype=cache))
    stream.restore(state)
    rest = list(stream.blocks())
    for a, b in zip(rest, whole[-len(rest) :], strict=True):
        assert torch.equal(a.latents, b.latents)
        assert np.array_equal(a.frames, b.frames)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "kv_cache_dtype", ["e4m3", *(pytest.param(dtype, marks=pytest.mark.nightly) for dtype in ("fp8", "int8"))]
)
def test_a_job_says_what_keys_and_values_are_kept_in(kv_cache_dtype: str, fast: Engine) -> None:
    wanted = job(num_frames=36)
    other = fast_engine(LoadedModel(config=CONFIG, dit=fast.backend.dit, vae=fast.backend.vae))
    plain, narrow, again, own = (
        torch.stack([b.latents for b in engine.open(changed(wanted, kv_cache_dtype=asked)).blocks(decode=False)])
        for engine, asked in ((fast, "auto"), (fast, kv_cache_dtype), (fast, "bf16"), (other, kv_cache_dtype))
    )
    assert torch.equal(narrow, own)
    assert torch.equal(again, plain)
    assert not torch.equal(narrow, plain)


@pytest.mark.parametrize(("begun", "resumed"), [("bf16", "fp8"), ("fp8", "int8"), ("int8", "e4m3"), ("e4m3", "bf16")])
def test_another_precision_does_not_resume(begun: str, resumed: str, fast: Engine) -> None:
    stream = fast.open(job(num_frames=24, kv_cache_dtype=begun))
    stream.next_block()
    state = {name: t.clone() for name, t in stream.snapshot().items()}
    with pytest.raises(InputError, match="drop --resume, or use the --kv_cache_dtype that the job began with"):
        fast.open(job(num_frames=24, kv_cache_dtype=resumed)).restore(state)


def test_the_plain_engine_has_no_choice(plain: Engine) -> None:
    with pytest.raises(InputError, match="--kv_cache_dtype fp8: only the large model on a GPU"):
        plain.open(job(kv_cache_dtype="fp8"))


@pytest.mark.parametrize("engine_name", ["plain", "fast"])
def test_a_job_in_8_bits_needs_an_engine_in_8_bits(engine_name: str, plain: Engine, fast: Engine) -> None:
    with pytest.raises(InputError, match="load it with fp8=True"):
        {"plain": plain, "fast": fast}[engine_name].open(job(fp8=True))


@pytest.mark.parametrize("engine_name", ["plain", "fast"])
def test_a_stream_has_no_end(engine_name: str, plain: Engine, fast: Engine) -> None:
    """The released table of positions ends at 45,000 latents; here nothing happens there."""
    engine = {"plain": plain, "fast": fast}[engine_name]
    first = 45_000 // 3 - 6
    wanted = job(num_frames=12 * (first + 12), features=TensorFeatures(torch.zeros(3, 8, 12)))
    stream = engine.open(wanted)
    made = [stream.next_block(decode=False) for _ in range(4)]
    stream.position = first  # as if the blocks between had been made: the cache goes on from what it holds
    made += [stream.next_block(decode=False) for _ in range(12)]
    assert [b.index for b in made[4:]] == list(range(first, first + 12))
    energy = [float(b.latents.square().mean()) for b in made]
    assert np.isfinite(energy).all()
    assert max(energy[4:]) < 3 * max(energy[:4])
    steps = [float((b.latents - a.latents).abs().mean()) for a, b in pairwise(made[4:])]
    # The block across the old end differs from its neighbour no more than others do.
    assert steps[5] < 2 * np.median(steps)


@pytest.mark.parametrize("held", [True, False], ids=["graphs of steps hold the room", "nothing does"])
def test_steps_give_their_graphs_up_where_the_decoder_has_no_room(
    held: bool, fast: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = list(fast.open(job()).blocks())
    graphs, begin = [object()] * held, DecodeRunner.begin

    def crowded(runner: DecodeRunner, still_latents: torch.Tensor) -> None:
        if graphs or not held:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        begin(runner, still_latents)

    monkeypatch.setattr(DecodeRunner, "begin", crowded)
    monkeypatch.setattr(StepRunner, "num_recorded", property(lambda _: len(graphs)))
    monkeypatch.setattr(StepRunner, "forget_graphs", lambda _: graphs.clear())
    if not held:
        with pytest.raises(torch.OutOfMemoryError):
            fast.open(job())
        return
    same(list(fast.open(job()).blocks()), expected)
    assert "kernels are launched one by one" in caplog.text
