"""Cost model: bytes and operations against the true networks."""

from typing import cast

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from liveavatar.config import LIVE_AVATAR_14B, MINI, TINY, ModelConfig
from liveavatar.model.dit import CausalDiT
from liveavatar.model.vae import VideoVAE, build_vae
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
