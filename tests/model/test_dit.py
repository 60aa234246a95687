"""The transformer: streaming equals the training window, configs scale, names are the checkpoint's."""

from dataclasses import replace

import pytest
import torch

from liveavatar.config import LIVE_AVATAR_14B, MINI, TINY, DiTConfig
from liveavatar.model.dit import CausalDiT, Conditions
from liveavatar.model.kv_ring import KVRing
from liveavatar.timing import BLOCK_FRAMES

CPU = torch.device("cpu")
h, w = 8, 16
S = h * w // 4


def random_dit(cfg: DiTConfig) -> CausalDiT:
    torch.manual_seed(0)
    dit = CausalDiT(cfg)
    for p in dit.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return dit


@pytest.mark.parametrize(
    ("changes", "first_frame"),
    [
        pytest.param({}, 0, id="mini's scheme from the start"),
        pytest.param({}, 300_000, id="mini's scheme after three hours"),
        pytest.param({"ref_base": 30, "ref_distance": (12, 12), "anchor_motion": False}, 0, id="released positions"),
        pytest.param({"dim": 48, "num_heads": 3, "window_latents": 6}, 9, id="other heads, shorter window"),
    ],
)
def test_streaming_equals_training_window(changes: dict, first_frame: int) -> None:
    cfg = replace(TINY.dit, **changes)
    dit, blocks, history = random_dit(cfg), 6, cfg.audio_history_frames
    noisy = torch.randn(2, cfg.in_dim, 3 * blocks, h, w)
    reference = torch.randn(2, cfg.in_dim, 1, h, w)
    motion = torch.randn(2, cfg.in_dim, 19, h, w)
    text = torch.randn(2, 5, cfg.text_dim)
    features = torch.randn(2, cfg.audio_layers, cfg.audio_dim, history + BLOCK_FRAMES * blocks)
    sigma = torch.rand(2, blocks)
    with torch.no_grad():
        whole = dit.forward_window(noisy, sigma, (reference, motion), text, features, first_frame)
        text_kv = dit.text_kv(dit.embed_text(text))
        sink = dit.prefill(reference, motion, text_kv)
        ring = KVRing(sink, cfg.window_latents * S)
        for b in range(blocks):
            frame = first_frame + 3 * b
            audio = features[..., BLOCK_FRAMES * b : BLOCK_FRAMES * (b + 1) + history]
            cond = Conditions(text_kv, dit.audio_kv(dit.encode_audio(audio)))
            dit.place_sink(ring, sink, dit.sink_rotation(frame, cfg.ref_distance[0], h, w, CPU))
            x = noisy[:, :, 3 * b : 3 * b + 3]
            # A stream that starts late has an emptier ring than its position suggests; index it from the window.
            ring_frame = frame if first_frame == 0 else 3 * b
            rotation = dit.block_rotation(frame, h, w, CPU)
            flow = dit.step(x, dit.noise_level(sigma[:, b : b + 1]), cond, ring, ring_frame, rotation)
            torch.testing.assert_close(flow, whole[:, :, 3 * b : 3 * b + 3], atol=2e-5, rtol=0)


def whole_window(blocks: int) -> dict:
    """Noisy latents, levels and conditions of a window."""
    cfg = TINY.dit
    return {
        "x_BCThw": torch.randn(1, 8, 3 * blocks, h, w),
        "sigma_Bb": torch.full((1, blocks), 0.5),
        "sinks": (torch.randn(1, 8, 1, h, w), torch.randn(1, 8, 19, h, w)),
        "text_BLC": torch.randn(1, 3, cfg.text_dim),
        "features_BLCT": torch.randn(1, 5, 768, 9 + 12 * blocks),
    }


@torch.no_grad()
def test_without_causality_the_first_block_knows_the_last_and_the_sinks_know_both() -> None:
    dit, args = random_dit(TINY.dit), whole_window(3)
    changed = args["x_BCThw"].clone()
    changed[:, :, 6:] += 1
    before, after = (dit.forward_window(**{**args, "x_BCThw": x}, causal=False) for x in (args["x_BCThw"], changed))
    assert (after[:, :, :3] - before[:, :, :3]).abs().max() > 1e-3
    given = []
    for x in (args["x_BCThw"], changed):
        dit.window_layer = lambda *inputs: given.append(CausalDiT.window_layer(dit, *inputs)) or given[-1]
        dit.forward_window(**{**args, "x_BCThw": x}, causal=False)
    assert (given[0][1] - given[len(given) // 2][1]).abs().max() > 1e-4


@torch.no_grad()
def test_one_layer_of_one_block_is_the_same_with_and_without_causality() -> None:
    cfg = replace(TINY.dit, num_layers=1, ref_base=30, ref_distance=(12, 12), anchor_motion=False)
    dit, args = random_dit(cfg), whole_window(1)
    torch.testing.assert_close(dit.forward_window(**args, causal=False), dit.forward_window(**args), atol=1e-5, rtol=0)


def test_a_block_depends_on_its_past_only() -> None:
    cfg = TINY.dit
    dit, blocks = random_dit(cfg), 3
    args = {
        "sigma_Bb": torch.full((1, blocks), 0.5),
        "sinks": (torch.randn(1, 8, 1, h, w), torch.randn(1, 8, 19, h, w)),
        "text_BLC": torch.randn(1, 3, cfg.text_dim),
        "features_BLCT": torch.randn(1, 5, 768, 9 + 36),
    }
    noisy = torch.randn(1, 8, 9, h, w)
    changed, changed_audio = noisy.clone(), args["features_BLCT"].clone()
    changed[:, :, 6:] += 1
    changed_audio[..., 9 + 24 :] += 1
    with torch.no_grad():
        before = dit.forward_window(noisy, **args)
        after = dit.forward_window(changed, **{**args, "features_BLCT": changed_audio})
    torch.testing.assert_close(after[:, :, :6], before[:, :, :6], atol=1e-6, rtol=0)
    assert (after[:, :, 6:] - before[:, :, 6:]).abs().max() > 1e-2


def test_a_part_keeps_its_own_layers_and_all_modulations() -> None:
    cfg = replace(TINY.dit, num_layers=4, audio_inject_layers=(0, 2))
    whole, part = random_dit(cfg), random_dit(cfg)
    part.keep_layers(range(1, 3))
    names = part.state_dict().keys()
    assert names < whole.state_dict().keys()
    assert {name.split(".")[1] for name in names if ".self_attn." in name} == {"1", "2"}
    assert sum(name.endswith(".modulation") and name.startswith("blocks.") for name in names) == 4
    assert {name.split(".")[2] for name in names if name.startswith("audio_injector.")} == {"1"}, "of layer 2"
    assert all(torch.equal(t, whole.state_dict()[name]) for name, t in part.state_dict().items())


def test_positions_are_relative() -> None:
    """Everything that moves with the stream sees the same flow an hour later."""
    cfg = TINY.dit
    dit = random_dit(cfg)
    args = (
        torch.randn(1, 8, 6, h, w),
        torch.full((1, 2), 0.7),
        (torch.randn(1, 8, 1, h, w), torch.randn(1, 8, 19, h, w)),
        torch.randn(1, 3, cfg.text_dim),
        torch.randn(1, 5, 768, 9 + 24),
    )
    with torch.no_grad():
        torch.testing.assert_close(
            dit.forward_window(*args, frame=0), dit.forward_window(*args, frame=22_500), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize(
    ("cfg", "parameters"),
    [
        pytest.param(LIVE_AVATAR_14B.dit, 16_295_755_609, id="the released 14B"),
        pytest.param(MINI.dit, 14_040_389, id="mini"),
    ],
)
def test_parameter_count(cfg: DiTConfig, parameters: int) -> None:
    with torch.device("meta"):
        dit = CausalDiT(cfg)
    assert sum(p.numel() for p in dit.parameters()) == parameters
