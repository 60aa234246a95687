"""Flow matching on windows of blocks: networks, noise levels, losses and rollouts of teacher and student.

A *rollout* equals a stream of the engine: with one ring per denoise step, a block attends only to history of its own
noise level, so step i of all blocks is one call of `forward_window`, and a whole stream takes one call per step.
That makes self-generated training data as cheap as a forward pass.

x_sigma = (1 - sigma) x0 + sigma noise, the network predicts the flow v = noise - x0.

Shapes: B batch, b blocks, C latent channels, T = 3 b latents, h/w latent cells.
"""

import copy
import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from liveavatar.config import ModelConfig, shifted_sigmas
from liveavatar.model.dit import CausalDiT
from liveavatar.model.text import PAD, PromptEncoder
from liveavatar.pose.track import POSE_SCALE, free_head
from liveavatar.timing import BLOCK_LATENTS
from liveavatar.training import runtime
from liveavatar.training.batch import Window
from liveavatar.training.corpus.head.motion import POSE_LIMITS
from liveavatar.training.face_reader import FaceReader, load_face_reader
from liveavatar.training.graphs import RecordedFunction, Recorder

AUDIO_DROP, TEXT_DROP, POSE_DROP = 0.10, 0.15, 0.5  # share of windows without that condition
FEATURE_GAIN = 0.2  # spread of a random gain of every speech channel, against memorising exact values
REFERENCE_NOISE = 0.1  # largest deviation added to the reference latent in training
NOISE_SHIFT = 3.0  # noise levels are logit-normal, warped towards high noise
CLEAN_HISTORY = 0.15  # highest noise level of "nearly clean" blocks
SILENT_AT_FIRST = re.compile(
    r"head\.head|blocks\.\d+\.cross_attn\.o|.*injector_adain_layers|audio_injector\.injector\.\d+\.o\."
)
MOUTH_CELL = 3.0  # lowest region weight of the mouth's latent cells


class AvatarNet(nn.Module):
    """Trainable network: the transformer and its prompt encoder."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.dit = CausalDiT(cfg.dit)
        self.text = PromptEncoder(cfg.text)
        # Windows always start at latent 0, so the angles, a thousand small operations, are always the same.
        self.dit.block_rotation = functools.cache(self.dit.block_rotation)  # type: ignore[method-assign]
        self.dit.sink_rotation = functools.cache(self.dit.sink_rotation)  # type: ignore[method-assign]
        # Recorded graphs read these, so they must never be freed.
        self.dit.window_rotations = functools.cache(self.dit.window_rotations)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Initialise as a plain denoiser: zero output, and near-zero effect of audio, text and reference kinds."""
        dit = self.dit
        for name, p in dit.named_parameters():
            if SILENT_AT_FIRST.match(name):
                p.zero_()
        dit.trainable_cond_mask.weight.mul_(0.02)
        dit.casual_audio_encoder.weights.fill_(1.0)  # an equal mix of hidden states, stable under small steps
        dit.cond_encoder.weight.zero_()  # at the start the pose has no effect

    def flow(self, x: Tensor, sigma_Bb: Tensor, window: Window) -> Tensor:
        """Predict the flow [B, C, T, h, w] of noisy latents under a window's conditions.

        The motion latents repeat the reference.
        """
        still = window.reference.expand(-1, -1, self.cfg.dit.motion_latents, -1, -1)
        text = self.text(window.tokens)
        sinks = (window.reference, still)
        return self.dit.forward_window(x, sigma_Bb, sinks, text, window.features, pose=window.pose).float()

    COMPILED = ("window_block", "inject_audio")  # the transformer's methods that are compiled

    def compile_blocks(self) -> None:
        """Compile the transformer's layer and its injector: one graph each for all layers, per batch shape."""
        for name in self.COMPILED:
            setattr(self.dit, name, torch.compile(getattr(self.dit, name), dynamic=False))

    def frozen_copy(self) -> "AvatarNet":
        """Copy the network, uncompiled and without gradients."""
        compiled = {name: self.dit.__dict__.pop(name) for name in self.COMPILED if name in self.dit.__dict__}
        twin = copy.deepcopy(self).eval().requires_grad_(False)
        self.dit.__dict__.update(compiled)
        return twin


def with_conditions(weight: Tensor, channels: int) -> Tensor:
    """Extend the condition encoder's weight [D, cond_dim, 1, 2, 2] to more channels, initialised to zero."""
    return torch.cat((weight, weight.new_zeros(len(weight), channels - weight.shape[1], *weight.shape[2:])), dim=1)


def is_outer(name: str) -> bool:
    """Test if a parameter is an embedding, head or modulation, which Muon should not update."""
    inner = ("dit.blocks.", "dit.audio_injector.", "text.layers.")
    return not name.startswith(inner) or "modulation" in name or "norm" in name


def per_latent(sigma_Bb: Tensor) -> Tensor:
    """Expand noise levels of blocks to [B, 1, T, 1, 1], broadcastable to latents."""
    return sigma_Bb.repeat_interleave(BLOCK_LATENTS, dim=1)[:, None, :, None, None]


def add_noise(x0: Tensor, noise: Tensor, sigma_Bb: Tensor) -> Tensor:
    """Mix latents and noise at noise levels `sigma_Bb`."""
    sigma = per_latent(sigma_Bb)
    return (1 - sigma) * x0 + sigma * noise


def logit_normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw noise levels: sigmoid of a normal, warped by `NOISE_SHIFT`."""
    u = torch.sigmoid(torch.randn(shape, device=generator.device, generator=generator))
    return NOISE_SHIFT * u / (1 + (NOISE_SHIFT - 1) * u)


def mixed_levels(batch: int, num_blocks: int, generator: torch.Generator) -> Tensor:
    """Draw noise levels [B, b] for teacher training.

    A third of the windows have one level (as streams do), a third independent ones, and a third alternate with nearly
    clean blocks (correct history), so that the network neither ignores the history nor trusts its errors.
    """
    device = generator.device
    levels = logit_normal((batch, num_blocks), generator)
    kind = torch.rand(batch, 1, device=device, generator=generator)
    clean = CLEAN_HISTORY * torch.rand(batch, num_blocks, device=device, generator=generator)
    index = torch.arange(num_blocks, device=device)
    history = (index % 2 == 0) & (index < num_blocks - 1)
    levels = torch.where(kind < 1 / 3, levels[:, :1], levels)
    return torch.where((kind > 2 / 3) & history, clean, levels)


def drop_conditions(window: Window, generator: torch.Generator) -> Window:
    """Drop audio, prompt and pose of some windows at random; add gain to the audio and noise to the reference.

    A prompt with the only description of light or place (`Window.bound`) is never dropped, and neither is the pose of
    a head that turns beyond `POSE_LIMITS`: left to itself, it should not. Rows of a dropped prompt are zero, like
    tokens.
    """
    batch, device = len(window.tokens), window.tokens.device
    u = torch.rand(4, batch, device=device, generator=generator)
    audio = (u[0] >= AUDIO_DROP).float()[:, None, None, None]
    rough = REFERENCE_NOISE * u[2][:, None, None, None, None]
    noise = torch.randn(window.reference.shape, device=device, generator=generator)
    gain = 1 + FEATURE_GAIN * torch.randn(window.features.shape[:3], device=device, generator=generator)
    with_pose = u[3] >= POSE_DROP
    if window.pose is not None:
        with_pose = with_pose | turned_far(window.pose)
    with_pose = with_pose[:, None, None, None, None]
    with_text = u[1] >= TEXT_DROP
    if window.bound is not None:
        with_text = with_text | window.bound
    return Window(
        window.latents,
        window.reference + rough * noise,
        window.weights,
        window.features * (audio * gain[..., None]),
        torch.where(with_text.view(-1, *(1,) * (window.tokens.ndim - 1)), window.tokens, PAD),
        None if window.pose is None else torch.where(with_pose, window.pose, free_head(window.pose)),
        window.bound,
    )


def turned_far(pose: Tensor) -> Tensor:
    """Test which pose latents [B, C, T, h, w] turn the head beyond `POSE_LIMITS`: bool [B]."""
    limits = torch.deg2rad(pose.new_tensor(POSE_LIMITS)) / POSE_SCALE
    return (pose[:, : len(limits), :, 0, 0].abs() > limits[:, None]).flatten(1).any(1)


def weighted_error(flow: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Compute the mean squared error under region weights of mean 1."""
    return ((flow - target).square() * weights).mean()


class FaceLoss:
    """Perceptual loss of the face: weighted error of a face reader's values on predicted clean latents."""

    def __init__(self, reader: FaceReader, weight: float) -> None:
        self.reader, self.weight = reader, weight

    def __call__(self, predicted: Tensor, true: Tensor) -> Tensor:
        """Compute the loss of clean latents [B, C, T, h, w]."""
        return self.weight * self.reader.error(predicted, true)

    def of_flow(self, x: Tensor, sigma_Bb: Tensor, flow: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of a flow [B, C, T, h, w] from noisy latents `x` against the true flow `target`."""
        sigma = per_latent(sigma_Bb)
        return self(x - sigma * flow, x - sigma * target)


def load_face_loss(data: Path, weight: float, device: torch.device) -> FaceLoss | None:
    """Build the loss with the face reader in `data`, written by the encode stage; None when the weight is 0."""
    return FaceLoss(load_face_reader(data, device), weight) if weight else None


class RecordedNet:
    """Network with CUDA graphs of its flow (without gradients) and of the gradients of its flow loss."""

    def __init__(self, net: AvatarNet, rank: runtime.TrainRank, enabled: bool, face: FaceLoss | None = None) -> None:
        """Prepare recording; with `enabled` false, run eagerly with the same results. `face` is added to the loss."""
        self.net, self.rank, self.face = net, rank, face
        recorder = Recorder(rank.device, enabled)
        self._params: list[nn.Parameter] = list(net.parameters())
        self._grads: list[Tensor] = []
        self.recorded_flow, self.recorded_loss = (
            RecordedFunction(self._flow_work, recorder),
            RecordedFunction(self._loss_work, recorder),
        )

    def flow(self, x: Tensor, sigma_Bb: Tensor, window: Window) -> Tensor:
        """Predict the flow under autocast, without gradients."""
        return self.recorded_flow(x, sigma_Bb, *_conditions(window))

    def gradients(self, x: Tensor, sigma_Bb: Tensor, target: Tensor, window: Window) -> Tensor:
        """Overwrite `.grad` with the gradients of the region-weighted flow error; return the loss."""
        if not self._grads:
            self._grads = [torch.zeros_like(p) for p in self._params]
        loss = self.recorded_loss(x, sigma_Bb, target, window.weights, *_conditions(window))
        for p, grad in zip(self._params, self._grads, strict=True):
            p.grad = grad
        return loss

    @torch.no_grad()
    def _flow_work(self, x: Tensor, sigma_Bb: Tensor, *conditions: Tensor) -> Tensor:
        with self.rank.autocast():
            return self.net.flow(x, sigma_Bb, _window(x, *conditions))

    def _loss_work(self, x: Tensor, sigma_Bb: Tensor, target: Tensor, weights: Tensor, *conditions: Tensor) -> Tensor:
        with torch.enable_grad():
            with self.rank.autocast():
                flow = self.net.flow(x, sigma_Bb, _window(x, *conditions))
                loss = weighted_error(flow, target, weights)
                if self.face is not None:
                    loss = loss + self.face.of_flow(x, sigma_Bb, flow, target)
            grads = torch.autograd.grad(loss, self._params, materialize_grads=True)
        torch._foreach_copy_(self._grads, grads)
        return loss.detach()


def _conditions(window: Window) -> tuple[Tensor, ...]:
    """List a window's conditions as plain tensors; the pose comes last and may be missing."""
    always = (window.reference, window.features, window.tokens)
    return always if window.pose is None else (*always, window.pose)


def _window(x: Tensor, reference: Tensor, features: Tensor, tokens: Tensor, pose: Tensor | None = None) -> Window:
    return Window(x, reference, x, features, tokens, pose)


def with_shift(cfg: ModelConfig, shift: float | None) -> ModelConfig:
    """Copy a config with the noise levels of all numbers of steps warped by `shift`; None: those that it has."""
    return cfg if shift is None else replace(cfg, sigmas={n: shifted_sigmas(n, shift) for n in cfg.sigmas})


class Flow(Protocol):
    """Network that predicts flows [B, C, T, h, w] fp32 under a window's conditions."""

    def flow(self, x: Tensor, sigma_Bb: Tensor, window: Window) -> Tensor:
        """Predict the flow."""


def rollout(net: Flow, window: Window, sigmas: Sequence[float], noise: Tensor, end: float = 0.0) -> Tensor:
    """Denoise a whole stream from `noise` by Euler steps over `sigmas` to the level `end`, like the engine."""
    x = noise
    for sigma, following in itertools.pairwise([*sigmas, end]):
        x = x + (following - sigma) * net.flow(x, level(x, sigma), window)
    return x


def level(x: Tensor, sigma: float | Tensor) -> Tensor:
    """Expand a noise level, one number or one per window [B], to [B, b] for latents x."""
    num_blocks = x.shape[2] // BLOCK_LATENTS
    if isinstance(sigma, Tensor):
        return sigma[:, None].expand(-1, num_blocks)
    return torch.full((len(x), num_blocks), sigma, device=x.device)


@torch.no_grad()
def held_out_errors(net: AvatarNet, windows: list[Window], seed: int = 1) -> dict[str, float]:
    """Measure the flow error at noise .3, .6 and .9 on held-out windows, of all cells and of the mouth's."""
    sums: dict[str, list[float]] = {}
    for window in windows:
        generator = torch.Generator(window.latents.device).manual_seed(seed)
        mouth = (window.weights * _rest_weight(window.weights) >= MOUTH_CELL).float()
        for sigma in (0.3, 0.6, 0.9):
            noise = torch.randn(window.latents.shape, device=window.latents.device, generator=generator)
            sigmas = level(window.latents, sigma)
            flow = net.flow(add_noise(window.latents, noise, sigmas), sigmas, window)
            error = (flow - (noise - window.latents)).square().mean(1, keepdim=True)
            name = f"held_{round(sigma * 10)}"
            sums.setdefault(name, []).append(float(error.mean()))
            sums.setdefault(name + "_mouth", []).append(float((error * mouth).sum() / mouth.sum().clamp(min=1)))
    return {name: sum(values) / len(values) for name, values in sums.items()}


def _rest_weight(weights: Tensor) -> Tensor:
    """Compute the factor that scales normalised weights back to 1 outside all regions."""
    return 1 / weights.amin()
