"""Jobs on the fast path: equal to the plain engine, over re-anchoring, resuming, several jobs and long streams."""

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from liveavatar.checkpoints.load import LoadedModel
from liveavatar.config import LIVE_AVATAR_14B
from liveavatar.engine.engine import Engine
from liveavatar.engine.job import Block, StreamJob, TensorFeatures
from liveavatar.engine.plain import PlainBackend
from liveavatar.engine.settings import RenderSettings
from liveavatar.errors import InputError
from liveavatar.fast import accelerate
from liveavatar.fast.backend import FastBackend
from liveavatar.model.dit import CausalDiT
from liveavatar.model.vae import build_vae
from tests.job_changes import changed

CPU = torch.device("cpu")
CONFIG = replace(
    LIVE_AVATAR_14B,
    dit=replace(
        LIVE_AVATAR_14B.dit, dim=64, num_heads=2, num_layers=2, ffn_dim=96, text_dim=16, text_len=8, audio_dim=8,
        audio_layers=3, audio_inject_layers=(0,), freq_dim=32,
    ),
    vae=replace(
        LIVE_AVATAR_14B.vae, encoder_widths=(4, 8, 8, 8), decoder_widths=(8, 8, 8, 4), num_res_blocks=1,
        prime_latents=2,
    ),
)  # fmt: skip


def prompt_rows(prompt: str) -> torch.Tensor:
    """Rows drawn from the prompt's length, in place of umT5."""
    return torch.randn(1, 5, CONFIG.dit.text_dim, generator=torch.Generator().manual_seed(len(prompt)))


def model() -> LoadedModel:
    torch.manual_seed(0)
    parts = {"dit": CausalDiT(CONFIG.dit), "vae": build_vae(CONFIG.vae)}
    for network in parts.values():
        for p in network.parameters():
            p.data += 0.05 * torch.randn_like(p)
        network.eval().requires_grad_(False)
    return LoadedModel(config=CONFIG, **parts)


def fast_engine(loaded: LoadedModel, fp8: bool = False) -> Engine:
    return Engine(FastBackend(loaded, CPU, fp8), prompt_rows)


def plain_engine() -> Engine:
    return Engine(PlainBackend(model(), CPU), prompt_rows)


@pytest.fixture(scope="module")
def plain() -> Engine:
    return plain_engine()


@pytest.fixture(scope="module")
def fast() -> Engine:
    loaded = model()
    return fast_engine(replace(loaded, dit=accelerate(copy.deepcopy(loaded.dit))))


def job(num_frames: int = 75, **changes: object) -> StreamJob:
    rng = np.random.default_rng(0)
    made = StreamJob(
        image=rng.integers(0, 255, (64, 64, 3), dtype=np.uint8),
        settings=RenderSettings(prompt="a calm woman", sample_steps=2, infer_frames=24),
        features=TensorFeatures(torch.from_numpy(rng.normal(size=(3, 8, 96))).float()),
        num_frames=num_frames,
    )
    return changed(made, **changes)


def same(got: list[Block], wanted: list[Block]) -> None:
    assert [b.index for b in got] == [b.index for b in wanted]
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a.latents, b.latents, atol=2e-4, rtol=1e-3)
        assert a.frames is not None
        assert b.frames is not None
        assert a.frames.shape == b.frames.shape
        assert np.abs(a.frames.astype(int) - b.frames).max() <= 1


def test_equals_the_plain_engine_job_after_job(plain: Engine, fast: Engine) -> None:
    for wanted in (job(), job(seed=7, prompt="another prompt", num_frames=30)):
        same(list(fast.open(wanted).blocks()), list(plain.open(wanted).blocks()))


@pytest.mark.parametrize("kv_cache_dtype", ["int8", "e4m3"])
def test_8_bit_attention_is_close(kv_cache_dtype: str, fast: Engine) -> None:
    for wanted in (job(), job(seed=7, prompt="another prompt", num_frames=30)):
        got, exact = (
            torch.stack([b.latents for b in fast.open(changed(wanted, kv_cache_dtype=cache)).blocks()])
            for cache in (kv_cache_dtype, "auto")
        )
        assert 0 < (got - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("cache", ["bf16", "int8", "e4m3"])
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


@pytest.mark.parametrize("kv_cache_dtype", ["fp8", "int8", "e4m3"])
def test_a_job_says_what_keys_and_values_are_kept_in(kv_cache_dtype: str, fast: Engine) -> None:
    wanted = job(num_frames=36)
    other = fast_engine(LoadedModel(config=CONFIG, dit=fast.backend.dit, vae=fast.backend.vae))
    plain, narrow, again, own = (
        torch.stack([b.latents for b in engine.open(changed(wanted, kv_cache_dtype=asked)).blocks()])
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
    made = [stream.next_block() for _ in range(4)]
    stream.position = first  # as if the blocks between had been made: the cache goes on from what it holds
    made += [stream.next_block() for _ in range(12)]
    assert [b.index for b in made[4:]] == list(range(first, first + 12))
    energy = [float(b.latents.square().mean()) for b in made]
    assert np.isfinite(energy).all()
    assert max(energy[4:]) < 3 * max(energy[:4])
    steps = [float((b.latents - a.latents).abs().mean()) for a, b in pairwise(made[4:])]
    # The block across the old end differs from its neighbour no more than others do.
    assert steps[5] < 2 * np.median(steps)
