"""Fine-tune a few-step model on eyes and mouth, anchored to itself everywhere else.

`python -m liveavatar.training.finetune --data RUN --out RUN --init MODEL --seconds N`; `--data` is the folder that the
encode stage wrote. A new transformer knows the few thousand people of its run and forgets those of the runs before.
So this stage keeps a finished one: the student streams from pure noise, as the engine does, to a level of its own, and
its next prediction of the clean latents must equal the truth in the cells of eyes and mouth, and elsewhere what the
model before the stage predicts there. Pose, lids and gaze are given, so the truth lies where the student draws.
Writes `student.pt` (`finetune`: averaged weights) and `finetune.jsonl`.

Shapes: B batch, b blocks, C latent channels, T = 3 b latents, h/w latent cells.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from liveavatar.checkpoints.directory import read_config
from liveavatar.config import ModelConfig, shifted_sigmas
from liveavatar.pose.track import HEAD
from liveavatar.training import runtime
from liveavatar.training.batch import Window
from liveavatar.training.distill import EMA_DECAY, WholeNetwork, warm_up
from liveavatar.training.export import avatar_weights
from liveavatar.training.flow import (
    AvatarNet,
    Flow,
    RecordedNet,
    drop_conditions,
    is_outer,
    level,
    load_face_loss,
    per_latent,
    rollout,
)
from liveavatar.training.latents import EYE_WEIGHT, FACE_WEIGHT
from liveavatar.training.matching import Windows, draw_levels
from liveavatar.training.optim import Average, Optimisers, rate_factor
from liveavatar.training.teacher import Dataset, transformer_arguments


def truth_share(window: Window, conditions: Window) -> Tensor:
    """Compute how far each cell must equal the truth: [B, 1, T, h, w], 1 in eyes and mouth, 0 outside the face.

    It is 0 in windows whose conditions do not say where and what the truth is: without speech, without a pose, or with
    a reference in other light.
    """
    cells = window.weights / window.weights.amin()  # the backdrop weighs 1
    share = (2 * (cells - FACE_WEIGHT) / (EYE_WEIGHT - FACE_WEIGHT)).clamp(0, 1)  # 1 in cells that are half an eye's
    told = conditions.features.flatten(1).any(1)
    if window.pose is not None and conditions.pose is not None:
        told = told & (window.pose == conditions.pose).flatten(1).all(1)
    if window.bound is not None:
        told = told & ~window.bound
    return share * told[:, None, None, None, None]


def without_gaze(window: Window) -> Window:
    """Clear the gaze of a window's pose latents, for a model that is not conditioned on it."""
    if window.pose is None:
        return window
    pose = window.pose.clone()
    pose[:, HEAD + 1 :] = 0
    return replace(window, pose=pose)


class FinetuneTrainer:
    """Trainer of a student against the truth and against the model that it was."""

    def __init__(
        self,
        args: argparse.Namespace,
        cfg: ModelConfig,
        student: WholeNetwork,
        before: Flow,
        data: Windows,
        host: torch.Generator,
    ) -> None:
        """Prepare to train.

        Args:
            args: of the stage; `batch` counts.
            cfg: of the networks; its noise levels are those of a render.
            student: the network that is trained.
            before: the model that it was, never updated; it sees no gaze unless `cfg.gaze_conditioned`.
            data: training windows.
            host: generator on the CPU of the noise levels, the same on all ranks.
        """
        self.args, self.cfg, self.student, self.before, self.data, self.host = args, cfg, student, before, data, host
        self.step = 0

    def train_step(self, fraction: float) -> dict[str, Tensor]:
        """Update the student once."""
        window, generator = self.data.sampler.sample(self.args.batch), self.data.generator
        conditions = drop_conditions(window, generator)
        noise = torch.randn(window.latents.shape, device=window.latents.device, generator=generator)
        sigmas = draw_levels(self.cfg, self.host)
        at = int(torch.randint(len(sigmas) - 1, (), generator=self.host))
        with torch.no_grad():
            x = rollout(self.student, conditions, sigmas[:at], noise, end=sigmas[at])
            sigma = level(x, sigmas[at])
            seen = conditions if self.cfg.gaze_conditioned else without_gaze(conditions)
            clean = x - per_latent(sigma) * self.before.flow(x, sigma, seen)
            wanted = torch.lerp(clean, window.latents, truth_share(window, conditions))
            target = (x - wanted) / per_latent(sigma)
        loss = self.student.gradients(x, sigma, target, conditions)
        norm = self.student.update(rate_factor(self.step, fraction))
        self.step += 1
        return {"loss": loss, "grad_norm": norm}


def build_networks(
    args: argparse.Namespace, rank: runtime.TrainRank, cfg: ModelConfig
) -> tuple[WholeNetwork, WholeNetwork]:
    """Build the student and the model before the stage, both with the weights of `args.init`."""
    weights = avatar_weights(args.init, cfg.dit.cond_dim)

    def network() -> AvatarNet:
        net = AvatarNet(cfg).to(rank.device)
        net.load_state_dict(weights)
        if args.compile:
            net.compile_blocks()  # gradients stay on in both, so that they share a graph
        return net

    net = network()
    optim = Optimisers(net.named_parameters(), muon=args.muon, adamw=args.adamw, outer=is_outer, record=args.graphs)
    face = load_face_loss(args.data, args.face_loss, rank.device)
    student = WholeNetwork(RecordedNet(net, rank, args.graphs, face), rank, optim)
    student.average = Average(net, EMA_DECAY)
    return student, WholeNetwork(RecordedNet(network(), rank, args.graphs), rank)


def train(args: argparse.Namespace, rank: runtime.TrainRank) -> None:
    """Run the stage until its time budget is used up."""
    cfg, before = read_config(args.data), read_config(args.init)
    cfg = replace(cfg, gaze_conditioned=before.gaze_conditioned)
    if args.shift is not None:
        cfg = replace(cfg, sigmas={n: shifted_sigmas(n, args.shift) for n in cfg.sigmas})
    student, frozen = build_networks(args, rank, cfg)
    host = torch.Generator().manual_seed(args.seed * 31)
    trainer = FinetuneTrainer(args, cfg, student, frozen, Dataset(args, rank, cfg), host)
    journal = runtime.JsonLog(args.out / "finetune.jsonl", rank)
    if args.compile:
        warm_up(student, trainer.data.sampler.sample(args.batch))
    budget = runtime.Budget(rank, args.seconds)
    saved = budget.elapsed
    while (fraction := budget.fraction(trainer.step)) < 1:
        values = trainer.train_step(fraction)
        if trainer.step % args.log_every == 0:
            journal.report(trainer.step, budget, values)
        if budget.elapsed - saved > args.save_every:
            saved = budget.elapsed
            save(args.out, student, rank)
    save(args.out, student, rank)


def save(out: Path, student: WholeNetwork, rank: runtime.TrainRank) -> None:
    """Write the averaged weights for `export --weights finetune`."""
    assert student.average is not None
    if rank.first:
        runtime.save_checkpoint(out / "student.pt", {"finetune": dict(student.average.weights)})


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    options = transformer_arguments("fine-tune a few-step model on eyes and mouth", face_loss=0.2)
    options.add_argument("--seconds", type=float, default=300)
    options.add_argument("--init", type=Path, required=True, help="model directory to start from and to stay near")
    options.add_argument("--shift", type=float, help="of the noise levels; those of the run if not given")
    options.add_argument("--muon", type=float, default=0.003, help="rate of matrices inside the network")
    options.add_argument("--adamw", type=float, default=2e-4, help="rate of everything else")
    return options


def main(argv: list[str] | None = None) -> None:
    """Run the command line of the stage."""
    runtime.run_stage(parser(), train, argv)


if __name__ == "__main__":
    main()
