"""Rollouts in training are the engine's streams; losses and noise levels are what their docstrings say."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from liveavatar.config import TINY
from liveavatar.model.dit import Conditions
from liveavatar.model.kv_ring import KVRing
from liveavatar.pose.track import EYES, HEAD, POSE_SCALE, pose_latents
from liveavatar.training import flow
from liveavatar.training.batch import Window
from liveavatar.training.flow import AvatarNet


def make_net() -> AvatarNet:
    torch.manual_seed(0)
    net = AvatarNet(TINY).eval()
    with torch.no_grad():
        for p in net.parameters():  # fresh heads are zero; every path must matter here
            p.add_(torch.randn_like(p) * 0.05)
    return net


def make_window(batch: int, num_blocks: int, h: int, w: int) -> Window:
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    return Window(
        draw(batch, 8, 3 * num_blocks, h, w),
        draw(batch, 8, 1, h, w),
        torch.ones(batch, 1, 3 * num_blocks, h, w),
        draw(batch, 5, 768, 9 + 12 * num_blocks),
        torch.randint(1, 64, (batch, 8), generator=generator),
        pose_latents(
            0.2 * draw(batch, 3 * num_blocks, 3), h, w, draw(batch, 3 * num_blocks, EYES).sigmoid(), HEAD + EYES
        ),
        torch.arange(batch) % 4 == 3,
    )


def stream(net: AvatarNet, window: Window, sigmas: tuple[float, ...], noise: Tensor) -> Tensor:
    """The engine's loop, block by block with one ring per step."""
    dit, cfg = net.dit, net.cfg.dit
    h, w = noise.shape[-2:]
    text_kv = dit.text_kv(dit.embed_text(net.text(window.tokens)))
    sink = dit.prefill(window.reference, window.reference.expand(-1, -1, cfg.motion_latents, -1, -1), text_kv)
    rings = [KVRing(sink, cfg.window_latents * (h // 2) * (w // 2)) for _ in sigmas]
    blocks = []
    for b in range(noise.shape[2] // 3):
        block = slice(3 * b, 3 * b + 3)
        audio_kv = dit.audio_kv(dit.encode_audio(window.features[..., 12 * b : 12 * b + 21]))
        assert window.pose is not None
        cond = Conditions(text_kv, audio_kv, window.pose[:, :, block])
        x = noise[:, :, block]
        for ring, sigma, following in zip(rings, sigmas, [*sigmas[1:], 0.0], strict=True):
            dit.place_sink(ring, sink, dit.sink_rotation(3 * b, cfg.ref_distance[0], h, w, x.device))
            level = dit.noise_level(torch.full((1, 1), sigma))
            rotation = dit.block_rotation(3 * b, h, w, x.device)
            x = x + (following - sigma) * dit.step(x, level, cond, ring, 3 * b, rotation)
        blocks.append(x)
    return torch.cat(blocks, 2)


@pytest.mark.parametrize(
    ("num_blocks", "steps", "size"),
    [
        pytest.param(3, 2, (16, 8), id="portrait, ring not full"),
        pytest.param(6, 3, (8, 16), id="landscape, ring wraps"),
    ],
)
@torch.inference_mode()
def test_rollout_equals_streaming(num_blocks: int, steps: int, size: tuple[int, int]) -> None:
    net, window = make_net(), make_window(2, num_blocks, *size)
    noise = torch.randn(window.latents.shape, generator=torch.Generator().manual_seed(2))
    sigmas = TINY.sigmas[steps]
    torch.testing.assert_close(
        flow.rollout(net, window, sigmas, noise), stream(net, window, sigmas, noise), atol=2e-4, rtol=1e-4
    )


def test_the_true_flow_leads_from_noise_to_data() -> None:
    window = make_window(1, 2, 8, 8)
    noise = torch.randn(window.latents.shape)
    sigma = torch.tensor([[0.3, 0.8]])
    x = flow.add_noise(window.latents, noise, sigma)
    back = x - flow.per_latent(sigma) * (noise - window.latents)
    torch.testing.assert_close(back, window.latents, atol=1e-5, rtol=1e-5)


def test_noise_levels_mix_three_kinds_of_windows() -> None:
    levels = flow.mixed_levels(600, 6, torch.Generator().manual_seed(0))
    equal = (levels == levels[:, :1]).all(1)
    clean = (levels[:, [0, 2, 4]] <= flow.CLEAN_HISTORY).all(1) & ~equal
    assert 0.25 < equal.float().mean() < 0.42
    assert 0.25 < clean.float().mean() < 0.42
    assert levels.min() >= 0
    assert levels.max() <= 1


def test_dropped_conditions_are_zero_and_the_rest_stays() -> None:
    window = make_window(400, 1, 8, 8)
    assert window.pose is not None
    pose = window.pose.clone()
    pose[:200, :HEAD] *= 0.01  # heads that only sway; the others turn far
    window = replace(window, pose=pose)
    assert window.pose is not None
    dropped = flow.drop_conditions(window, torch.Generator().manual_seed(0))
    silent = ~dropped.features.flatten(1).any(1)
    wordless = ~dropped.tokens.any(1)
    assert 0.05 < silent.float().mean() < 0.16
    assert window.bound is not None
    assert not wordless[window.bound].any(), "what only the prompt tells must be told"
    assert 0.09 < wordless[~window.bound].float().mean() < 0.22
    assert dropped.bound is window.bound
    heard, told = dropped.features[~silent], window.features[~silent]
    gain = heard[..., :1] / told[..., :1]
    torch.testing.assert_close(heard, told * gain)  # of a channel, the same at all times
    assert 0.8 * flow.FEATURE_GAIN < gain[..., 0].std() < 1.2 * flow.FEATURE_GAIN
    assert abs(float(gain.mean()) - 1) < 0.02
    assert dropped.pose is not None
    free = ~dropped.pose[:, :HEAD].flatten(1).any(1)
    assert 0.4 < free[:200].float().mean() < 0.6
    assert not free[flow.turned_far(window.pose)].any(), "a head that turns far is told to"
    assert torch.equal(dropped.pose[:, HEAD:], window.pose[:, HEAD:]), "lids and gaze are always told"
    assert torch.equal(dropped.pose[~free], window.pose[~free]), "a pose is told for a whole window or not at all"


def test_a_head_turns_far_when_one_angle_does_at_any_time() -> None:
    pose = torch.zeros(5, HEAD, 3, 2, 2)
    for row, (axis, degrees) in enumerate([(0, 16.0), (0, -18.0), (1, 9.0), (2, 7.0)]):
        pose[row, axis, 1] = math.radians(degrees) / POSE_SCALE
    pose[4, 3] = 1.0  # the flag is no angle
    assert flow.turned_far(pose).tolist() == [False, True, True, False, False]


@torch.inference_mode()
def test_no_pose_and_a_zero_pose_are_the_same() -> None:
    net, window = make_net(), make_window(1, 2, 8, 8)
    noise, sigma = torch.randn(window.latents.shape), torch.full((1, 2), 0.5)
    assert window.pose is not None
    posed, zero, absent = (
        net.flow(noise, sigma, replace(window, pose=pose)) for pose in (window.pose, 0 * window.pose, None)
    )
    torch.testing.assert_close(zero, absent, atol=1e-6, rtol=1e-5)
    assert (posed - absent).abs().max() > 1e-3
