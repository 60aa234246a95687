"""Losses and updates of distillation, whatever its networks are and wherever they lie.

First *trajectory regression*: one student step from sigma_i to sigma_{i+1} must reach the result of several teacher
sub-steps, from noised data and from the student's own rollouts. Then *distribution matching* (DMD2, arXiv 2405.14867,
with the self-rollout of Self-Forcing, arXiv 2506.08009): the student streams from pure noise with one ring per step,
its prediction is noised again, and the difference between a trained copy's (fake) and the teacher's (real) prediction
of the clean latents is its gradient.

Does not know how networks are built, loaded, sharded or saved: `distill.py` and the room `sharded` do.
"""

import argparse
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from liveavatar.config import ModelConfig
from liveavatar.training.batch import Window
from liveavatar.training.flow import (
    FaceLoss,
    Flow,
    add_noise,
    drop_conditions,
    level,
    logit_normal,
    per_latent,
    rollout,
    weighted_error,
)
from liveavatar.training.optim import rate_factor

SUBSTEPS = 4  # teacher steps within one student step
MAIN_STEPS, OTHER_STEPS, OTHER_SHARE = 4, (1, 2, 3, 5, 6), 0.2  # steps the student is trained for
FAKE_PER_STUDENT = 3  # updates of the fake score for one of the student
ANCHOR = 0.1  # weight of the trajectory loss beside distribution matching
LOWEST, HIGHEST = 0.02, 0.98  # noise levels at which distributions are compared


class Network(Flow, Protocol):
    """One of the three networks of distillation. It predicts flows without gradients."""

    def traced_flow(self, x: Tensor, sigma_Bb: Tensor, window: Window) -> Tensor:
        """Predict the flow so that a loss of it can be differentiated."""

    def gradients(self, x: Tensor, sigma_Bb: Tensor, target: Tensor, window: Window) -> Tensor:
        """Compute the gradients of the region-weighted flow error; return the loss."""

    def update(self, factor: float) -> Tensor:
        """Change the weights once by the gradients of all ranks, at `factor` times the base rates; return the norm."""


def draw_levels(cfg: ModelConfig, host: torch.Generator) -> list[float]:
    """Draw a step count that a student is trained for and return its noise levels, including the terminal 0."""
    steps = MAIN_STEPS
    if float(torch.rand((), generator=host)) < OTHER_SHARE:
        steps = OTHER_STEPS[int(torch.randint(len(OTHER_STEPS), (), generator=host))]
    return [*cfg.sigmas[steps], 0.0]


@dataclass(frozen=True, slots=True)
class Networks:
    """Networks of distillation."""

    student: Network
    teacher: Network  # real score; never updated
    fake: Network  # fake score


class Sampler(Protocol):
    """Source of training windows."""

    def sample(self, batch: int) -> Window:
        """Draw a batch of windows."""


class Windows(Protocol):
    """Training windows, and the generator of everything else that is drawn on the device."""

    @property
    def sampler(self) -> Sampler:
        """Source of the windows."""

    @property
    def generator(self) -> torch.Generator:
        """Generator on the device."""


class DistillTrainer:
    """Trainer of the student against a frozen teacher and the fake score."""

    def __init__(
        self,
        args: argparse.Namespace,
        cfg: ModelConfig,
        nets: Networks,
        data: Windows,
        host: torch.Generator,
        face: FaceLoss | None = None,
    ) -> None:
        """Prepare to train.

        Args:
            args: of the stage; `batch`, `guidance` and `anchor` count.
            cfg: of the networks.
            nets: the networks.
            data: training windows.
            host: generator on the CPU of the choices that decide which networks run how often. Ranks that hold shards
                of one network must draw the same.
            face: loss of the face in the student's clean latents.
        """
        self.args, self.cfg, self.nets, self.data, self.host, self.face = args, cfg, nets, data, host, face
        self.step = 0  # updates of the student in this part
        self.calls = 0

    # Trajectory regression -------------------------------------------------------------------------

    def regression_step(self, fraction: float) -> dict[str, Tensor]:
        """Update the student once towards the teacher's trajectory."""
        window, noise = self._batch()
        sigmas = draw_levels(self.cfg, self.host)
        index = torch.randint(len(sigmas) - 1, (len(noise),), generator=self.host)
        self.calls += 1
        start = self._own_states(window, noise, sigmas, index) if self.calls % 2 else None
        loss = self.nets.student.gradients(*self._trajectory(window, noise, (sigmas, index), start), window)
        return {"loss": loss, "grad_norm": self._update(fraction)}

    @torch.no_grad()
    def _trajectory(
        self, window: Window, noise: Tensor, position: tuple[list[float], Tensor], start: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the start of a student step, its noise levels, and the flow that reaches the teacher's end point."""
        sigmas, index = position
        table = torch.tensor(sigmas)  # on the CPU like the index: nothing here waits for the GPU
        sigma, following = (table[i].to(noise.device) for i in (index, index + 1))
        x = add_noise(window.latents, noise, level(noise, sigma)) if start is None else start
        end = self._teacher_walk(x, sigma, following, window)
        target = (end - x) / per_latent((following - sigma)[:, None].expand(-1, x.shape[2] // 3))
        return x, level(x, sigma), target

    @torch.no_grad()
    def _teacher_walk(self, x: Tensor, sigma: Tensor, following: Tensor, window: Window) -> Tensor:
        stride = (following - sigma) / SUBSTEPS
        for k in range(SUBSTEPS):
            flow = self.guided(x, level(x, sigma + k * stride), window)
            x = x + stride[:, None, None, None, None] * flow
        return x

    @torch.no_grad()
    def _own_states(self, window: Window, noise: Tensor, sigmas: list[float], index: Tensor) -> Tensor:
        """Roll the student out to the latents before step `index` of every window."""
        x, states = noise, [noise]
        for i in range(int(index.max())):
            x = x + (sigmas[i + 1] - sigmas[i]) * self.nets.student.flow(x, level(x, sigmas[i]), window)
            states.append(x)
        return torch.stack(states)[index.to(noise.device), torch.arange(len(noise), device=noise.device)]

    # Distribution matching -------------------------------------------------------------------------

    def dmd_step(self, fraction: float) -> dict[str, Tensor]:
        """Update the fake score once, and every third time the student."""
        window, noise = self._batch()
        sigmas = draw_levels(self.cfg, self.host)
        at = int(torch.randint(len(sigmas) - 1, (), generator=self.host))
        with torch.no_grad():
            x = rollout(self.nets.student, window, sigmas[:at], noise, end=sigmas[at])
        sigma = level(x, sigmas[at])
        values: dict[str, Tensor] = {}
        self.calls += 1
        if self.calls % FAKE_PER_STUDENT == 0:
            clean = x - per_latent(sigma) * self.nets.student.traced_flow(x, sigma, window)
            loss, values["dmd"] = self.matching_loss(clean, window)
            if self.face is not None:
                face = self.face(clean, window.latents)
                loss, values["face"] = loss + face, face.detach()
            loss.backward()
            clean = clean.detach()
            if self.args.anchor:
                values["anchor"] = self._anchor(window, noise, (sigmas, torch.full((len(x),), at)))
            values["grad_norm"] = self._update(fraction)
        else:
            clean = x - per_latent(sigma) * self.nets.student.flow(x, sigma, window)
        values["fake"] = self._fake_update(clean, window, fraction)
        return values

    def _anchor(self, window: Window, noise: Tensor, position: tuple[list[float], Tensor]) -> Tensor:
        """Add the gradients of the trajectory loss from noised data; return the loss."""
        start, levels, target = self._trajectory(window, noise, position, None)
        loss = weighted_error(self.nets.student.traced_flow(start, levels, window), target, window.weights)
        (self.args.anchor * loss).backward()
        return loss.detach()

    def matching_loss(self, clean: Tensor, window: Window) -> tuple[Tensor, Tensor]:
        """Compute a surrogate loss with the gradient (fake - real) / |clean - real| at `clean`, weighted by region.

        Returns:
            the loss, and the mean magnitude of the gradient.
        """
        with torch.no_grad():
            sigma = logit_normal((len(clean),), self.data.generator).clamp(LOWEST, HIGHEST)
            noise = torch.randn(clean.shape, device=clean.device, generator=self.data.generator)
            levels = level(clean, sigma)
            noisy = add_noise(clean, noise, levels)
            real = noisy - per_latent(levels) * self.guided(noisy, levels, window)
            fake = noisy - per_latent(levels) * self.nets.fake.flow(noisy, levels, window)
            scale = (clean - real).abs().mean((1, 2, 3, 4), keepdim=True).clamp(min=1e-3)
            gradient = (fake - real) / scale * window.weights
            target = clean - gradient
        return 0.5 * (clean - target).square().mean(), gradient.abs().mean()

    def guided(self, noisy: Tensor, levels: Tensor, window: Window) -> Tensor:
        """Predict the teacher's flow with classifier-free guidance by speech."""
        conditional = self.nets.teacher.flow(noisy, levels, window)
        if self.args.guidance == 1:
            return conditional
        silent = self.nets.teacher.flow(noisy, levels, replace(window, features=torch.zeros_like(window.features)))
        return silent + self.args.guidance * (conditional - silent)

    def _fake_update(self, clean: Tensor, window: Window, fraction: float) -> Tensor:
        generator = self.data.generator
        sigma = level(clean, logit_normal((len(clean),), generator))
        noise = torch.randn(clean.shape, device=clean.device, generator=generator)
        loss = self.nets.fake.gradients(add_noise(clean, noise, sigma), sigma, noise - clean, window)
        self.nets.fake.update(rate_factor(self.calls, fraction))
        return loss

    # Shared ----------------------------------------------------------------------------------------

    def _batch(self) -> tuple[Window, Tensor]:
        window = drop_conditions(self.data.sampler.sample(self.args.batch), self.data.generator)
        shape, device = window.latents.shape, window.latents.device
        return window, torch.randn(shape, device=device, generator=self.data.generator)

    def _update(self, fraction: float) -> Tensor:
        norm = self.nets.student.update(rate_factor(self.step, fraction))
        self.step += 1
        return norm
