"""Buffers of one size: where a block lies in the ring, and every step at its own noise level."""

import copy

import pytest
import torch

from liveavatar.engine.placement import Span
from liveavatar.engine.sampling import euler_step
from liveavatar.fast import accelerate
from liveavatar.fast.dit import FastDiT
from liveavatar.fast.rings import Bf16Ring, E4m3Ring, Fp8Ring, Ring8
from liveavatar.fast.runner import StepRunner
from liveavatar.model.dit import Conditions
from liveavatar.model.kv_ring import Sink
from tests.fast.engines import CPU, model
from tests.fast.streams import conditioning, draw, features, spec

SIZE = (8, 8)
AREA = 16  # tokens of a latent
SIGMAS = spec().sigmas
NUM_LAYERS = 2
WHOLE = tuple(Span(step, range(NUM_LAYERS)) for step in range(3))


@pytest.fixture(scope="module")
def dit() -> FastDiT:
    return accelerate(copy.deepcopy(model().dit))


def prefilled(dit: FastDiT) -> tuple[Sink, list[tuple[torch.Tensor, torch.Tensor]]]:
    made = conditioning()
    text_kv = dit.text_kv(dit.embed_text(made.text))
    return dit.prefill(made.reference, made.motion, text_kv), text_kv


def make(dit: FastDiT, spans: tuple[Span, ...] = WHOLE, kv_cache_dtype: str = "bf16") -> StepRunner:
    sink, text_kv = prefilled(dit)
    runner = StepRunner(dit, SIGMAS, SIZE, sink, spans, kv_cache_dtype)
    runner.begin(text_kv)
    return runner


def prepare(runner: StepRunner, index: int) -> None:
    dit, frame = runner.dit, 3 * index
    rotations = dit.block_rotation(frame, *SIZE, CPU), dit.sink_rotation(frame, 5, *SIZE, CPU)
    audio = dit.audio_kv(dit.encode_audio(features(index)))
    runner.prepare(draw(index, *runner.x.shape), audio, frame, rotations)
    runner.place_all()


@pytest.mark.parametrize("index", [0, 1, 2, 3, 4, 5, 8, 9, 20_000])
@torch.inference_mode()
def test_a_block_lies_behind_the_last_one_and_round_the_ring(dit: FastDiT, index: int) -> None:
    runner = make(dit)
    window = dit.cfg.window_latents * AREA
    assert (runner.window, runner.span) == (window, 3 * AREA)
    prepare(runner, index)
    assert int(runner.slot) == index * 3 * AREA % window
    assert runner.visible == min((index + 1) * 3 * AREA, window)


@torch.inference_mode()
def test_a_span_moves_the_block_along_the_flow_of_its_own_noise_level(dit: FastDiT) -> None:
    runner, (sink, text_kv) = make(dit), prefilled(dit)
    rings = [Bf16Ring(sink, runner.window, dit.attention) for _ in WHOLE]
    for index in range(3):
        prepare(runner, index)
        x, frame = runner.x.clone(), 3 * index
        cond = Conditions(text_kv, dit.audio_kv(dit.encode_audio(features(index))))
        for step, ring in enumerate(rings):
            dit.place_sink(ring, sink, dit.sink_rotation(frame, 5, *SIZE, CPU))
            level = dit.noise_level(torch.full((1, 1), SIGMAS[step]))
            flow = dit.step(x, level, cond, ring, frame, dit.block_rotation(frame, *SIZE, CPU))
            x = euler_step(x, flow, SIGMAS[step], SIGMAS[step + 1])
            runner.run(step)
            torch.testing.assert_close(runner.x, x, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_part_of_the_layers_has_its_own_part_of_the_sinks_and_hands_on_what_it_made(dit: FastDiT) -> None:
    first, second = (make(dit, (Span(1, layers),)) for layers in (range(1), range(1, 2)))
    assert first.entering == ()
    assert second.leaving == ()
    assert [t.shape for t in first.leaving] == [t.shape for t in second.entering] == [(3 * AREA, dit.cfg.dim)] * 2
    assert torch.equal(first.sinks[0].v[0], first.sink.v[0])
    assert torch.equal(second.sinks[0].v[0], second.sink.v[1])
    whole = make(dit, (Span(1, range(2)),))
    for runner in (whole, first):
        prepare(runner, 0)
        runner.run(0)
    assert torch.equal(first.x, draw(0, *first.x.shape)), "the step has not ended here"
    dit_inputs = dit.audio_kv(dit.encode_audio(features(0)))
    rotations = dit.block_rotation(0, *SIZE, CPU), dit.sink_rotation(0, 5, *SIZE, CPU)
    second.prepare(first.x, dit_inputs, 0, rotations, first.leaving)
    second.place_all()
    second.run(0)
    assert torch.equal(second.x, whole.x)


@pytest.mark.parametrize(
    ("kv_cache_dtype", "ring"), [("bf16", Bf16Ring), ("fp8", Fp8Ring), ("int8", Ring8), ("e4m3", E4m3Ring)]
)
@torch.inference_mode()
def test_rings_have_the_form_of_the_job(dit: FastDiT, kv_cache_dtype: str, ring: type) -> None:
    runner = make(dit, kv_cache_dtype=kv_cache_dtype)
    assert [type(made) for made in runner.rings] == [ring] * 3


@torch.inference_mode()
def test_the_next_stream_s_text_lies_where_the_first_one_s_lay(dit: FastDiT) -> None:
    runner = make(dit)
    assert runner.cond is not None
    before = [t.data_ptr() for own in runner.cond.text_kv for t in own]
    other = dit.text_kv(dit.embed_text(draw(77, 1, 5, dit.cfg.text_dim)), 5)
    kept = runner.begin(other)
    assert [t.data_ptr() for own in kept for t in own] == before
    for own, new in zip(kept, other, strict=True):
        assert len(own) == 3
        assert all(map(torch.equal, own, new))


@torch.inference_mode()
def test_a_cpu_records_nothing(dit: FastDiT) -> None:
    runner = make(dit)
    runner.warm()
    assert runner.warmed
    prepare(runner, 0)
    for _ in range(3):
        runner.run(0)
    assert runner.num_recorded == 0
    runner.forget_graphs()
