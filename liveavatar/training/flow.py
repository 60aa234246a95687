"""Flow matching on windows of blocks: the networks, noise levels, losses and rollouts that teacher and student share.

A *rollout* here is exactly what the engine streams: with one ring per denoise step a block only ever meets history
of its own noise level, so step i of all blocks is one call of `forward_window` and a whole stream takes as many
calls as it has steps. That makes self-generated training data as cheap as a forward pass.

x_sigma = (1 - sigma) x0 + sigma noise, the network predicts the flow v = noise - x0.

Shapes: B batch, b blocks, C latent channels, T = 3 b latents, h/w latent cells.
"""

import copy
import functools
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from liveavatar.config import ModelConfig
from liveavatar.model.dit import CausalDiT
from liveavatar.model.text import PAD, PromptEncoder
from liveavatar.pose.track import free_head
from liveavatar.timing import BLOCK_LATENTS
from liveavatar.training import runtime
from liveavatar.training.batch import Window
from liveavatar.training.face_reader import FaceReader, load_face_reader
from liveavatar.training.graphs import RecordedFunction, Recorder

AUDIO_DROP, TEXT_DROP, POSE_DROP = 0.10, 0.15, 0.5  # share of windows without
FEATURE_GAIN = 0.2  # spread of a random gain of every speech channel: exact values are not worth remembering
REFERENCE_NOISE = 0.1  # largest deviation added to the reference latent in training
NOISE_SHIFT = 3.0  # noise levels are logit-normal, warped towards high noise
CLEAN_HISTORY = 0.15  # highest noise level of "nearly clean" blocks
SILENT_AT_FIRST = re.compile(
    r"head\.head|blocks\.\d+\.cross_attn\.o|.*injector_adain_layers|audio_injector\.injector\.\d+\.o\."
)
MOUTH_CELL = 3.0  # a latent cell counts as mouth from this region weight on


class AvatarNet(nn.Module):
    """What is trained: the transformer and its prompt encoder."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.dit = CausalDiT(cfg.dit)
        self.text = PromptEncoder(cfg.text)
        # Windows always start at latent 0: the angles are a thousand small operations, and always the same ones.
        self.dit.block_rotation = functools.cache(self.dit.block_rotation)  # type: ignore[method-assign]
        self.dit.sink_rotation = functools.cache(self.dit.sink_rotation)  # type: ignore[method-assign]
        # Recorded graphs read these, so they must never be let go.
        self.dit.window_rotations = functools.cache(self.dit.window_rotations)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Start as a plain denoiser: no output, and audio, text and reference kinds that whisper."""
        dit = self.dit
        for name, p in dit.named_parameters():
            if SILENT_AT_FIRST.match(name):
                p.zero_()
        dit.trainable_cond_mask.weight.mul_(0.02)
        dit.casual_audio_encoder.weights.fill_(1.0)  # a mix of hidden states that small steps cannot turn over
        dit.cond_encoder.weight.zero_()  # whatever the pose, the head begins by moving by itself

    def flow(self, x: Tensor, sigma_Bb: Tensor, window: Window) -> Tensor:
        """Predicted flow [B, C, T, h, w] of noisy latents under a window's conditions; motion is a still past."""
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
        """An uncompiled copy without gradients."""
        compiled = {name: self.dit.__dict__.pop(name) for name in self.COMPILED if name in self.dit.__dict__}
        twin = copy.deepcopy(self).eval().requires_grad_(False)
        self.dit.__dict__.update(compiled)
        return twin


def with_conditions(weight: Tensor, channels: int) -> Tensor:
    """The condition encoder's weight [D, cond_dim, 1, 2, 2] for more channels, which begin silent."""
    return torch.cat((weight, weight.new_zeros(len(weight), channels - weight.shape[1], *weight.shape[2:])), dim=1)


def is_outer(name: str) -> bool:
    """Whether a parameter is an embedding, head or modulation, which Muon should not touch."""
    inner = ("dit.blocks.", "dit.audio_injector.", "text.layers.")
    return not name.startswith(inner) or "modulation" in name or "norm" in name


def per_latent(sigma_Bb: Tensor) -> Tensor:
    """Noise levels of blocks -> [B, 1, T, 1, 1], broadcastable to latents."""
    return sigma_Bb.repeat_interleave(BLOCK_LATENTS, dim=1)[:, None, :, None, None]


def add_noise(x0: Tensor, noise: Tensor, sigma_Bb: Tensor) -> Tensor:
    """Latents at the given noise levels."""
    sigma = per_latent(sigma_Bb)
    return (1 - sigma) * x0 + sigma * noise


def logit_normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise levels: sigmoid of a normal, warped by `NOISE_SHIFT`."""
    u = torch.sigmoid(torch.randn(shape, device=generator.device, generator=generator))
    return NOISE_SHIFT * u / (1 + (NOISE_SHIFT - 1) * u)


def mixed_levels(batch: int, num_blocks: int, generator: torch.Generator) -> Tensor:
    """Noise levels [B, b] of teacher training.

    A third of the windows have one level (as streams do), a third independent ones, a third alternate with nearly
    clean blocks (history that is right), so that errors of the past neither are ignored nor trusted blindly.
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
    """Silence some windows' audio and colour the rest, empty some prompts, free some heads, roughen the reference.

    A prompt that alone tells what the reference does not show (`Window.bound`) is never emptied.
    """
    batch, device = len(window.tokens), window.tokens.device
    u = torch.rand(4, batch, device=device, generator=generator)
    audio = (u[0] >= AUDIO_DROP).float()[:, None, None, None]
    rough = REFERENCE_NOISE * u[2][:, None, None, None, None]
    noise = torch.randn(window.reference.shape, device=device, generator=generator)
    gain = 1 + FEATURE_GAIN * torch.randn(window.features.shape[:3], device=device, generator=generator)
    told = (u[3] >= POSE_DROP)[:, None, None, None, None]
    kept = u[1] >= TEXT_DROP
    if window.bound is not None:
        kept = kept | window.bound
    return Window(
        window.latents,
        window.reference + rough * noise,
        window.weights,
        window.features * (audio * gain[..., None]),
        torch.where(kept[:, None], window.tokens, PAD),
        None if window.pose is None else torch.where(told, window.pose, free_head(window.pose)),
        window.bound,
    )


def weighted_error(flow: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean squared error under region weights of mean 1."""
    return ((flow - target).square() * weights).mean()


class FaceLoss:
    """Weighted error of what a face reader reads off the clean latents that a flow points at."""

    def __init__(self, reader: FaceReader, weight: float) -> None:
        self.reader, self.weight = reader, weight

    def __call__(self, made: Tensor, true: Tensor) -> Tensor:
        """Of clean latents [B, C, T, h, w]."""
        return self.weight * self.reader.error(made, true)

    def of_flow(self, x: Tensor, sigma_Bb: Tensor, flow: Tensor, target: Tensor) -> Tensor:
        """Of a flow [B, C, T, h, w] from noisy latents `x` against the true one."""
        sigma = per_latent(sigma_Bb)
        return self(x - sigma * flow, x - sigma * target)


def load_face_loss(data: Path, weight: float, device: torch.device) -> FaceLoss | None:
    """The loss with the reader that the encode stage left in `data`; None for no weight."""
    return FaceLoss(load_face_reader(data, device), weight) if weight else None


class RecordedNet:
    """A network's flow without gradients, and the gradients of its flow loss, both recorded."""

    def __init__(self, net: AvatarNet, rank: runtime.TrainRank, enabled: bool, face: FaceLoss | None = None) -> None:
        """`enabled`: whether to record; the results are the same. `face` is added to the loss."""
        self.net, self.rank, self.face = net, rank, face
        recorder = Recorder(rank.device, enabled)
        self._params: list[nn.Parameter] = list(net.parameters())
        self._grads: list[Tensor] = []
        self._flow, self._loss = (
            RecordedFunction(self._flow_work, recorder),
            RecordedFunction(self._loss_work, recorder),
        )

    def flow(self, x: Tensor, sigma_Bb: Tensor, window: Window) -> Tensor:
        """`AvatarNet.flow` under autocast, without gradients."""
        return self._flow(x, sigma_Bb, *_conditions(window))

    def gradients(self, x: Tensor, sigma_Bb: Tensor, target: Tensor, window: Window) -> Tensor:
        """Put the gradients of the region-weighted flow error into `.grad`, whatever was there; returns the loss."""
        if not self._grads:
            self._grads = [torch.zeros_like(p) for p in self._params]
        loss = self._loss(x, sigma_Bb, target, window.weights, *_conditions(window))
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
    """What drives a flow, as plain tensors; the pose comes last and may be missing."""
    always = (window.reference, window.features, window.tokens)
    return always if window.pose is None else (*always, window.pose)


def _window(x: Tensor, reference: Tensor, features: Tensor, tokens: Tensor, pose: Tensor | None = None) -> Window:
    return Window(x, reference, x, features, tokens, pose)


def rollout(net: AvatarNet, window: Window, sigmas: Sequence[float], noise: Tensor) -> Tensor:
    """Latents of a whole stream by Euler steps over `sigmas` (terminal 0 not included), as the engine makes them."""
    x = noise
    for sigma, following in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        x = x + (following - sigma) * net.flow(x, level(x, sigma), window)
    return x


def level(x: Tensor, sigma: float | Tensor) -> Tensor:
    """Noise levels [B, b] for latents x: one number, or one per window [B]."""
    num_blocks = x.shape[2] // BLOCK_LATENTS
    if isinstance(sigma, Tensor):
        return sigma[:, None].expand(-1, num_blocks)
    return torch.full((len(x), num_blocks), sigma, device=x.device)


@torch.no_grad()
def held_out_errors(net: AvatarNet, windows: list[Window], seed: int = 1) -> dict[str, float]:
    """Flow error at noise .3, .6 and .9 over held-out windows, of all cells and of the mouth's."""
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
    """Factor that brings normalised weights back to 1 outside all regions."""
    return 1 / weights.amin()
