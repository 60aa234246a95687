"""The fast transformer equals the plain one: fused exactly, in 8 bits within a stated distance, offloaded too."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from liveavatar.config import DiTConfig
from liveavatar.fast import accelerate, ops
from liveavatar.fast.attention import FastAttention
from liveavatar.fast.dit import FastDiT
from liveavatar.fast.rings import Bf16Ring, E4m3Ring, Fp8Ring, Ring8, Workspace
from liveavatar.model.dit import CausalDiT, Conditions
from liveavatar.model.kv_ring import KVRing, Sink
from tests.fast.small import SMALL_DIT

CPU = torch.device("cpu")
h, w, BLOCKS = 8, 8, 6
WINDOW = SMALL_DIT.window_latents * (h // 2) * (w // 2)


def plain_ring(sink: Sink) -> KVRing:
    return KVRing(sink, WINDOW)


def ring(sink: Sink) -> Bf16Ring:
    return Bf16Ring(sink, WINDOW, FastAttention())


def ring8(sink: Sink) -> Fp8Ring:
    return Fp8Ring(sink, WINDOW, Workspace(sink, WINDOW), FastAttention())


def attention8(sink: Sink) -> Ring8:
    return Ring8(sink, WINDOW)


def e4m3(sink: Sink) -> E4m3Ring:
    return E4m3Ring(sink, WINDOW, None)


@torch.inference_mode()
def flows(dit: CausalDiT, make_cache: Callable[[Sink], object], cfg: DiTConfig = SMALL_DIT) -> Tensor:
    """Flow of a few blocks of one stream, past the point where the ring is full."""
    torch.manual_seed(1)
    reference, motion = torch.randn(1, 4, 1, h, w), torch.randn(1, 4, cfg.motion_latents, h, w)
    noisy, features = torch.randn(1, 4, 3 * BLOCKS, h, w), torch.randn(1, 3, 32, 12 * BLOCKS)
    text = dit.embed_text(torch.randn(1, 5, 16))
    kv = dit.text_kv(text, 5) if isinstance(dit, FastDiT) else dit.text_kv(text)
    sink = dit.prefill(reference, motion, kv)
    cache, level, made = make_cache(sink), dit.noise_level(torch.full((1, 1), 0.7)), []
    for b in range(BLOCKS):
        cond = Conditions(kv, dit.audio_kv(dit.encode_audio(features[..., 12 * b : 12 * b + 12])))
        dit.place_sink(cache, sink, dit.sink_rotation(3 * b, 7 + b, h, w, CPU))  # type: ignore[arg-type]
        turn = dit.block_rotation(3 * b, h, w, CPU)
        made.append(dit.step(noisy[:, :, 3 * b : 3 * b + 3], level, cond, cache, 3 * b, turn))  # type: ignore[arg-type]
    return torch.cat(made, dim=2)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(
    ("options", "make_cache", "least", "most"),
    [
        pytest.param({}, ring, 0.0, 1e-6, id="fused"),
        pytest.param({"offload": True}, ring, 0.0, 1e-6, id="offloaded"),
        pytest.param({}, ring8, 1e-7, 3e-3, id="8-bit ring"),
        pytest.param({}, attention8, 1e-6, 5e-3, id="8-bit attention"),
        pytest.param({}, e4m3, 1e-6, 1e-2, id="attention in e4m3"),
        pytest.param({"fp8": True}, ring, 1e-4, 0.05, id="8-bit linears"),
        pytest.param({"fp8": True}, attention8, 1e-4, 0.05, id="8-bit linears and attention"),
        pytest.param({"fp8": True, "offload": True}, ring8, 1e-4, 0.05, id="8-bit linears and ring, offloaded"),
    ],
)
def test_equals_the_plain_transformer(
    options: dict, make_cache: Callable, least: float, most: float, dit: CausalDiT
) -> None:
    wanted = flows(dit, plain_ring)
    got = flows(accelerate(copy.deepcopy(dit), **options), make_cache)  # type: ignore[arg-type]
    assert least <= distance(got, wanted) < most


@torch.inference_mode()
@pytest.mark.parametrize("num_rows", [1, 5, 7, 8])
def test_a_row_of_the_padding_stands_for_all(num_rows: int, dit: CausalDiT) -> None:
    fast = accelerate(copy.deepcopy(dit))
    text = dit.embed_text(torch.randn(1, num_rows, 16, generator=torch.Generator().manual_seed(num_rows)))
    for (k, v, counts), (k0, v0) in zip(fast.text_kv(text, num_rows), dit.text_kv(text), strict=True):
        q = torch.randn(24, *k.shape[1::2], generator=torch.Generator().manual_seed(1))
        used = min(num_rows + 1, text.shape[1])
        assert counts.tolist() == [used, text.shape[1] - used + 1]
        whole = torch.nn.functional.scaled_dot_product_attention(q.transpose(0, 1)[None], k0, v0)
        torch.testing.assert_close(ops.attend_text(q, k[0], v[0], counts), whole[0].transpose(0, 1).flatten(1))


def test_small_and_sensitive_layers_stay_out_of_8_bits(dit: CausalDiT) -> None:
    fast = accelerate(copy.deepcopy(dit), fp8=True)
    kept = [fast.plain.text_embedding[0], fast.plain.time_embedding[0], fast.plain.time_projection[1]]
    kept += [fast.plain.head.head, fast.plain.casual_audio_encoder.encoder.final_linear]
    assert all(layer.weight.numel() and layer.weight.dtype == torch.float32 for layer in kept)
    assert all(linear.quantised for i in range(3) for linear in fast.layers.use(i).linears().values())
