"""Cost model: bytes and operations against the true networks."""

import json
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from liveavatar.bench.gpu.build import DRY
from liveavatar.config import LIVE_AVATAR_14B, MINI, TINY, ModelConfig
from liveavatar.fast import accelerate
from liveavatar.fast.attention import FastAttention
from liveavatar.fast.host_rings import HostRing, Stage
from liveavatar.fast.rings import Bf16Ring, DeviceRing, E4m3Ring, Fp8Ring, Ring8, Workspace
from liveavatar.fast.weights import Resident
from liveavatar.model.dit import CausalDiT
from liveavatar.model.kv_ring import Sink
from liveavatar.model.vae import VideoVAE, build_vae
from liveavatar.paths import REPO_ROOT
from liveavatar.planning.costs import dit_costs, text_bytes, vae_costs


def test_weights_are_counted_from_the_network() -> None:
    for config in (LIVE_AVATAR_14B, MINI, TINY):
        with torch.device("meta"):
            total = sum(p.numel() for p in CausalDiT(config.dit).parameters())
        costs = dit_costs(config.dit, 768, 512, config.vae.spatial_stride)
        assert costs.linear_weights + costs.other_weights == total
    assert total > 0


def test_14b_numbers_of_the_specification() -> None:
    costs = dit_costs(LIVE_AVATAR_14B.dit, 704, 384, 8)
    assert costs.linear_weights + costs.other_weights == 16_295_755_609
    assert costs.weight_bytes(fp8=False) == pytest.approx(32.6e9, rel=0.01)
    assert costs.weight_bytes(fp8=True) == pytest.approx(16.6e9, rel=0.01)
    assert costs.ring_bytes == pytest.approx(10.4e9, rel=0.01)
    assert costs.ring_bytes / 40 == pytest.approx(259.5e6, rel=0.01)  # a layer
    assert costs.sink_bytes == pytest.approx(2.2e9, rel=0.02)
    assert costs.tokens == 3168
    assert costs.linear_flop == pytest.approx(80e12, rel=0.02)  # 76 in blocks, 4 in audio injectors
    assert costs.attention_flop == pytest.approx(40e12, rel=0.02)
    assert text_bytes(LIVE_AVATAR_14B) == pytest.approx(11.4e9, rel=0.01)


def test_decoder_state_is_what_a_stream_holds() -> None:
    config = TINY
    vae = build_vae(config.vae)
    state = vae.decoder_state(1, 4, 6)
    vae.decode_stream(torch.zeros(1, config.vae.z_dim, 3, 4, 6), state)
    num_bytes = sum(t.numel() * 2 for t in state.tensors().values())
    assert vae_costs(config.vae, 19, 96, 64).state_bytes == num_bytes


@pytest.mark.parametrize(
    ("dtype", "slot", "workspace"),
    [
        pytest.param("bf16", 2 * 5120 * 2, 0, id="two bytes a channel"),
        pytest.param("fp8", 2 * (5120 + 4 * 40), 1, id="a byte a channel, and a scale per head"),
        pytest.param("int8", 2 * 5120 + 4 * 40, 0, id="scales of the keys only"),
        pytest.param("e4m3", 2 * 5120, 0, id="no scale of a token"),
    ],
)
def test_a_ring_is_as_large_as_its_dtype_says(dtype: str, slot: int, workspace: int) -> None:
    config = LIVE_AVATAR_14B.dit
    costs = dit_costs(config, 704, 384, 8, dtype)
    tokens = config.window_latents * costs.tokens // 3
    assert costs.ring_bytes == config.num_layers * tokens * slot
    assert bool(costs.workspace_bytes) == bool(workspace), "only fp8 rings are converted for attention"
    assert bool(costs.ring_sink_bytes) != bool(workspace)


@pytest.mark.parametrize("config", [LIVE_AVATAR_14B, MINI, TINY], ids=lambda config: config.name)
@pytest.mark.parametrize("size", [(384, 256), (384, 640)], ids=str)
def test_decoding_at_any_size_follows_from_two(config: ModelConfig, size: tuple[int, int]) -> None:
    width, height = size
    stride, cfg = config.vae.spatial_stride, config.vae
    with torch.device("meta"):
        vae = cast(VideoVAE, build_vae(cfg))
        state = vae.decoder_state(1, height // stride, width // stride)
        latents = torch.empty(1, cfg.z_dim, 3, height // stride, width // stride)
        vae.decode_stream(latents[:, :, :1], state)
        with FlopCounterMode(display=False) as counter:
            vae.decode_stream(latents, state)
    costs = vae_costs(cfg, config.dit.motion_latents, width, height)
    assert costs.decode_flop == counter.get_total_flops()
    assert costs.state_bytes == 2 * sum(tensor.numel() for tensor in state.tensors().values())


def test_weights_that_wait_are_those_of_a_packed_transformer() -> None:
    network = CausalDiT(DRY.dit).requires_grad_(False)
    dit = accelerate(network)
    costs = dit_costs(DRY.dit, 128, 64, 8)
    assert isinstance(dit.layers, Resident)
    layers = [
        sum(linear.weight.numel() for linear in dit.layers.use(i).linears().values()) for i in range(len(dit.layers))
    ]
    assert (sum(layers), max(layers)) == (costs.step_weights, costs.layer_weights)
    assert costs.text_weights == DRY.dit.num_layers * 2 * DRY.dit.dim**2


@pytest.mark.parametrize("kv_cache_dtype", ["bf16", "fp8", "int8", "e4m3"])
def test_rings_in_host_memory_take_what_is_reckoned(kv_cache_dtype: str) -> None:
    """At the width of the large model, two layers of it."""
    cfg = replace(LIVE_AVATAR_14B.dit, num_layers=2, audio_inject_layers=(0,))
    costs, cpu = dit_costs(cfg, 64, 64, 8, kv_cache_dtype), torch.device("cpu")
    sinks, window = costs.sink_bytes // (2 * 2 * 2 * cfg.dim), cfg.window_latents * 16
    shape = (1, cfg.num_heads, sinks, cfg.dim // cfg.num_heads)
    k, v = ([torch.zeros(shape, dtype=torch.bfloat16) for _ in range(2)] for _ in "kv")
    sink = Sink(k, v, 16)

    def make(part: Sink) -> DeviceRing:
        if kv_cache_dtype == "fp8":
            return Fp8Ring(part, window, Workspace(part, window), FastAttention())
        if kv_cache_dtype == "int8":
            return Ring8(part, window)
        return E4m3Ring(part, window, None) if kv_cache_dtype == "e4m3" else Bf16Ring(part, window, FastAttention())

    stage = Stage(make(Sink(sink.k[:1], sink.v[:1], 16)), costs.tokens, cpu)
    assert HostRing(sink, stage).memory.numel() == pytest.approx(costs.ring_bytes, rel=0.01)
    width, blocks = stage.layout.num_bytes, 2 * costs.tokens
    staged = sum(t.numel() * t.itemsize for t in stage.ring.tensors().values()) + (2 * window + blocks) * width
    reckoned = (costs.stage_share * costs.ring_bytes + costs.ring_sink_bytes) / cfg.num_layers
    assert staged == pytest.approx(reckoned, rel=0.02)


CIRCULAR = json.loads((REPO_ROOT / "data" / "benchmarks" / "gpu_h200_4ranks_circular_2026-11-30.json").read_text())
DECODING = [(row["size"], row["parts_gib"][-1]) for row in CIRCULAR["tpp_capped"] if row["fits"]]


@pytest.mark.parametrize(("size", "held"), DECODING, ids=[size for size, _ in DECODING])
def test_decoding_works_in_what_an_h200_worked_in(size: str, held: dict[str, float]) -> None:
    """What the last rank held at most is what it held, and that of the decoder's temporaries."""
    costs = vae_costs(LIVE_AVATAR_14B.vae, LIVE_AVATAR_14B.dit.motion_latents, *(int(side) for side in size.split("*")))
    assert costs.peak_bytes / 2**30 == pytest.approx(held["most held"] - held["held"], rel=0.002)
    assert costs.state_bytes / 2**30 == pytest.approx(held["decoder state"], rel=0.002)
