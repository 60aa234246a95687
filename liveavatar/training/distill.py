"""Stage 3: distil the teacher into a student of few steps.

`python -m liveavatar.training.distill --data RUN --out RUN --seconds_regression N --seconds_dmd N`.

First *trajectory regression*: one student step from sigma_i to sigma_{i+1} must reach the result of several teacher
sub-steps, from noised data and from the student's own rollouts. Then *distribution matching* (DMD2, arXiv 2405.14867,
with the self-rollout of Self-Forcing, arXiv 2506.08009): the student streams from pure noise with one ring per step,
its prediction is noised again, and the difference between a trained copy's (fake) and the teacher's (real) prediction
of the clean latents is its gradient. Writes `student.pt` (`regression`, `dmd`: averaged weights after each part) and
`distill.jsonl`; `evaluate.py` chooses the weights to export, possibly the teacher's.
"""

import argparse
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from liveavatar.checkpoints.directory import read_config
from liveavatar.config import ModelConfig
from liveavatar.training import runtime
from liveavatar.training.batch import Window
from liveavatar.training.flow import (
    AvatarNet,
    RecordedNet,
    add_noise,
    drop_conditions,
    is_outer,
    level,
    load_face_loss,
    logit_normal,
    per_latent,
    weighted_error,
)
from liveavatar.training.optim import Average, Optimisers, rate_factor
from liveavatar.training.teacher import Dataset, transformer_arguments

SUBSTEPS = 4  # teacher steps within one student step
MAIN_STEPS, OTHER_STEPS, OTHER_SHARE = 4, (1, 2, 3, 5, 6), 0.2  # steps the student is trained for
FAKE_PER_STUDENT = 3  # updates of the fake score for one of the student
REGRESSION_WEIGHT = 0.1  # of the trajectory loss beside distribution matching
LOWEST, HIGHEST = 0.02, 0.98  # noise levels at which distributions are compared
EMA_DECAY = 0.995


class DistillTrainer:
    """Trainer of the student: frozen teacher, student, and the fake score."""

    def __init__(self, args: argparse.Namespace, rank: runtime.TrainRank, cfg: ModelConfig) -> None:
        self.args, self.rank, self.cfg = args, rank, cfg
        self.data = Dataset(args, rank, cfg)
        self.teacher, self.student, self.fake = (AvatarNet(cfg).to(rank.device) for _ in range(3))
        weights = runtime.load_checkpoint(args.data / "teacher.pt", rank.device)["average"]
        for net in (self.teacher, self.student, self.fake):
            net.load_state_dict(weights)
            if args.compile:
                net.compile_blocks()  # the teacher's requires_grad stays on, so that it shares the student's graph
        self.face = load_face_loss(args.data, args.face_loss, rank.device)
        self.real, self.critic = (RecordedNet(net, rank, args.graphs) for net in (self.teacher, self.fake))
        self.pupil = RecordedNet(self.student, rank, args.graphs, self.face)
        self.optim, self.fake_optim = (
            Optimisers(
                net.named_parameters(),
                muon=speed * args.muon,
                adamw=speed * args.adamw,
                outer=is_outer,
                record=args.graphs,
            )
            for net, speed in ((self.student, 1), (self.fake, 2))
        )
        self.average = Average(self.student, EMA_DECAY)
        self.host = torch.Generator().manual_seed(args.seed * 31 + rank.rank)
        self.step = 0  # updates of the student in this part
        self.calls = 0

    # Trajectory regression -------------------------------------------------------------------------

    def regression_step(self, fraction: float) -> dict[str, Tensor]:
        """Update the student once towards the teacher's trajectory."""
        window, noise = self._batch()
        sigmas = self._levels()
        index = torch.randint(len(sigmas) - 1, (len(noise),), generator=self.host)
        self.calls += 1
        start = self._own_states(window, noise, sigmas, index) if self.calls % 2 else None
        loss = self.pupil.gradients(*self._trajectory(window, noise, (sigmas, index), start), window)
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
            x = x + (sigmas[i + 1] - sigmas[i]) * self.pupil.flow(x, level(x, sigmas[i]), window)
            states.append(x)
        return torch.stack(states)[index.to(noise.device), torch.arange(len(noise), device=noise.device)]

    # Distribution matching -------------------------------------------------------------------------

    def dmd_step(self, fraction: float) -> dict[str, Tensor]:
        """Update the fake score once, and every third time the student."""
        window, noise = self._batch()
        sigmas = self._levels()
        at = int(torch.randint(len(sigmas) - 1, (), generator=self.host))
        x = self._rollout_to(window, noise, sigmas, at)
        sigma = level(x, sigmas[at])
        values = {}
        self.calls += 1
        if self.calls % FAKE_PER_STUDENT == 0:
            with self.rank.autocast():
                clean = x - per_latent(sigma) * self.student.flow(x, sigma, window)
            matching, size = self.matching_loss(clean, window)
            index = torch.full((len(x),), at)
            start, levels, target = self._trajectory(window, noise, (sigmas, index), None)
            with self.rank.autocast():
                flow = self.student.flow(start, levels, window)
                anchor = weighted_error(flow, target, window.weights)
                face = self.face(clean, window.latents) if self.face else torch.zeros_like(anchor)
            (matching + REGRESSION_WEIGHT * anchor + face).backward()
            values = {
                "dmd": size,
                "face": face.detach(),
                "anchor": anchor.detach(),
                "grad_norm": self._update(fraction),
            }
            clean = clean.detach()
        else:
            clean = x - per_latent(sigma) * self.pupil.flow(x, sigma, window)
        values["fake"] = self._fake_update(clean, window, fraction)
        return values

    @torch.no_grad()
    def _rollout_to(self, window: Window, noise: Tensor, sigmas: list[float], at: int) -> Tensor:
        x = noise
        for i in range(at):
            x = x + (sigmas[i + 1] - sigmas[i]) * self.pupil.flow(x, level(x, sigmas[i]), window)
        return x

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
            fake = noisy - per_latent(levels) * self.critic.flow(noisy, levels, window)
            scale = (clean - real).abs().mean((1, 2, 3, 4), keepdim=True).clamp(min=1e-3)
            gradient = (fake - real) / scale * window.weights
            target = clean - gradient
        return 0.5 * (clean - target).square().mean(), gradient.abs().mean()

    def guided(self, noisy: Tensor, levels: Tensor, window: Window) -> Tensor:
        """Predict the teacher's flow with classifier-free guidance by speech."""
        conditional = self.real.flow(noisy, levels, window)
        if self.args.guidance == 1:
            return conditional
        silent = self.real.flow(noisy, levels, replace(window, features=torch.zeros_like(window.features)))
        return silent + self.args.guidance * (conditional - silent)

    def _fake_update(self, clean: Tensor, window: Window, fraction: float) -> Tensor:
        generator = self.data.generator
        sigma = level(clean, logit_normal((len(clean),), generator))
        noise = torch.randn(clean.shape, device=clean.device, generator=generator)
        loss = self.critic.gradients(add_noise(clean, noise, sigma), sigma, noise - clean, window)
        runtime.average_gradients(self.fake_optim.params, self.rank)
        self.fake_optim.step(rate_factor(self.calls, fraction))
        return loss

    def warm_up(self) -> None:
        """Compile every graph before the time budget starts; no weights change."""
        window, noise = self._batch()
        sigma = level(noise, 0.5)
        with torch.no_grad(), self.rank.autocast():
            self.student.flow(noise, sigma, window)
        with self.rank.autocast():
            flow = self.student.flow(noise, sigma, window)
        flow.mean().backward()
        self.student.zero_grad(set_to_none=True)

    # Shared ----------------------------------------------------------------------------------------

    def _batch(self) -> tuple[Window, Tensor]:
        window = drop_conditions(self.data.sampler.sample(self.args.batch), self.data.generator)
        shape, device = window.latents.shape, window.latents.device
        return window, torch.randn(shape, device=device, generator=self.data.generator)

    def _levels(self) -> list[float]:
        """Draw a step count and return its noise levels, including the terminal 0."""
        steps = MAIN_STEPS
        if float(torch.rand((), generator=self.host)) < OTHER_SHARE:
            steps = OTHER_STEPS[int(torch.randint(len(OTHER_STEPS), (), generator=self.host))]
        return [*self.cfg.sigmas[steps], 0.0]

    def _update(self, fraction: float) -> Tensor:
        runtime.average_gradients(self.optim.params, self.rank)
        norm = self.optim.step(rate_factor(self.step, fraction))
        self.average.update(self.student, self.step)
        self.step += 1
        return norm


def train(args: argparse.Namespace, rank: runtime.TrainRank) -> None:
    """Run both parts; skip a part with saved weights."""
    cfg = read_config(args.data)
    trainer = DistillTrainer(args, rank, cfg)
    path = args.out / "student.pt"
    saved: dict[str, Any] = runtime.load_checkpoint(path, rank.device) if args.resume and path.is_file() else {}
    journal = runtime.JsonLog(args.out / "distill.jsonl", rank)
    if args.compile:
        trainer.warm_up()
    for part, seconds, step in (
        ("regression", args.seconds_regression, trainer.regression_step),
        ("dmd", args.seconds_dmd, trainer.dmd_step),
    ):
        if part in saved:
            trainer.student.load_state_dict(saved[part])
            trainer.average.load(saved[part])
            continue
        budget, last_log = runtime.Budget(rank, seconds), -1
        trainer.step, trainer.calls, count = 0, 0, 0
        while (fraction := budget.fraction(count)) < 1:
            values = step(fraction)
            count += 1
            if count // args.log_every != last_log:
                last_log = count // args.log_every
                journal.report(count, budget, values, part=part)
        if count:
            saved[part] = {n: w.clone() for n, w in trainer.average.weights.items()}
            if rank.first:
                runtime.save_checkpoint(path, saved)


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    options = transformer_arguments("distil the student", face_loss=0.02)
    options.add_argument("--seconds_regression", type=float, default=100)
    options.add_argument("--seconds_dmd", type=float, default=140)
    options.add_argument("--guidance", type=float, default=1.0, help="of the teacher by speech; 1: none")
    options.add_argument("--muon", type=float, default=0.003, help="rate of matrices inside the network")
    options.add_argument("--adamw", type=float, default=2e-4, help="rate of everything else")
    return options


def main(argv: list[str] | None = None) -> None:
    """Run the command line of the stage."""
    runtime.run_stage(parser(), train, argv)


if __name__ == "__main__":
    main()
