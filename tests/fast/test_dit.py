"""The fast transformer equals the plain one: fused exactly, in 8 bits within a stated distance, offloaded too."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from liveavatar.config import LIVE_AVATAR_14B, DiTConfig
from liveavatar.fast import accelerate
from liveavatar.fast.attention import FastAttention
from liveavatar.fast.rings import Bf16Ring, E4m3Ring, Fp8Ring, Ring8, Workspace
from liveavatar.fast.weights import piece_sizes
from liveavatar.model.dit import CausalDiT, Conditions
from liveavatar.model.kv_ring import KVRing, Sink

CPU = torch.device("cpu")
h, w, BLOCKS = 8, 8, 6
SMALL = replace(
    LIVE_AVATAR_14B.dit, dim=96, num_heads=3, num_layers=3, ffn_dim=192, in_dim=4, out_dim=4, cond_dim=4, text_dim=16,
    text_len=8, audio_dim=32, audio_layers=3, audio_inject_layers=(0, 2), freq_dim=32,
)  # fmt: skip
WINDOW = SMALL.window_latents * (h // 2) * (w // 2)


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


@pytest.fixture(scope="module")
def dit() -> CausalDiT:
    torch.manual_seed(0)
    network = CausalDiT(SMALL)
    for p in network.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def flows(dit: CausalDiT, make_cache: Callable[[Sink], object], cfg: DiTConfig = SMALL) -> Tensor:
    """Flow of a few blocks of one stream, past the point where the ring is full."""
    torch.manual_seed(1)
    reference, motion = torch.randn(1, 4, 1, h, w), torch.randn(1, 4, cfg.motion_latents, h, w)
    noisy, features = torch.randn(1, 4, 3 * BLOCKS, h, w), torch.randn(1, 3, 32, 12 * BLOCKS)
    kv = dit.text_kv(dit.embed_text(torch.randn(1, 5, 16)))
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


def test_weights_move_instead_of_being_copied(dit: CausalDiT) -> None:
    source = copy.deepcopy(dit)
    accelerate(source)
    left = sum(
        p.numel() for name, p in source.named_parameters() if name.endswith((".q.weight", ".k.weight", ".o.weight"))
    )
    assert left == 0


def test_offloaded_layers_are_rounded_up_by_little() -> None:
    """Pinned memory comes in powers of two: a layer of the 14B in one piece would take nearly twice its bytes."""
    D, ffn = LIVE_AVATAR_14B.dit.dim, LIVE_AVATAR_14B.dit.ffn_dim
    for size in (6 * D * D + 2 * D * ffn, 8 * D * D + 2 * D * ffn, 256, 1 << 20):
        pieces = piece_sizes(size)
        assert sum(pieces) == size
        assert min(pieces) > 0
        assert sum(1 << (n - 1).bit_length() for n in pieces) < 1.02 * size


def test_small_and_sensitive_layers_stay_out_of_8_bits(dit: CausalDiT) -> None:
    fast = accelerate(copy.deepcopy(dit), fp8=True)
    kept = [fast.plain.text_embedding[0], fast.plain.time_embedding[0], fast.plain.time_projection[1]]
    kept += [fast.plain.head.head, fast.plain.casual_audio_encoder.encoder.final_linear]
    assert all(layer.weight.numel() and layer.weight.dtype == torch.float32 for layer in kept)
    assert all(linear.quantised for i in range(3) for linear in fast.layers.use(i).linears().values())
