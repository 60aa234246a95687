"""Fine-tune a few-step model on eyes and mouth, anchored to itself everywhere else.

`python -m liveavatar.training.finetune --data RUN --out RUN --init MODEL --seconds N`; `--data` is the folder that the
encode stage wrote. A new transformer knows the few thousand people of its run and forgets those of the runs before.
So this stage keeps a finished one: the student streams from pure noise, as the engine does, to a level of its own, and
its next prediction of the clean latents must equal the truth in the cells of eyes and mouth, and elsewhere what the
model before the stage predicts there. Pose, lids and gaze are given, so the truth lies where the student draws.
`--before_features` names a folder of speech features for the model before, where the student learns to read others.
Writes `student.pt` (`finetune`: averaged weights) and `finetune.jsonl`.

Shapes: B batch, b blocks, C latent channels, T = 3 b latents, h/w latent cells.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liveavatar.checkpoints.directory import read_config
from liveavatar.config import ModelConfig
from liveavatar.pose.track import HEAD
from liveavatar.training import runtime
from liveavatar.training.batch import Window
from liveavatar.training.distill import WholeNetwork, build_network, build_student, student_arguments, warm_up
from liveavatar.training.export import avatar_weights
from liveavatar.training.features import load_bank
from liveavatar.training.flow import Flow, drop_conditions, level, per_latent, rollout, with_shift
from liveavatar.training.latents import EYE_WEIGHT, FACE_WEIGHT
from liveavatar.training.matching import Windows, draw_levels
from liveavatar.training.optim import rate_factor
from liveavatar.training.teacher import Dataset


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


def student_sees(window: Window, cfg: ModelConfig) -> Window:
    """Leave out the features that only the model before the stage reads."""
    return replace(window, features=window.features[:, : cfg.dit.audio_layers])


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
        seen = self._before_sees(conditions)
        conditions = student_sees(conditions, self.cfg)
        with torch.no_grad():
            x = rollout(self.student, conditions, sigmas[:at], noise, end=sigmas[at])
            sigma = level(x, sigmas[at])
            clean = x - per_latent(sigma) * self.before.flow(x, sigma, seen)
            wanted = torch.lerp(clean, window.latents, truth_share(window, conditions))
            target = (x - wanted) / per_latent(sigma)
        loss = self.student.gradients(x, sigma, target, conditions)
        norm = self.student.update(rate_factor(self.step, fraction))
        self.step += 1
        return {"loss": loss, "grad_norm": norm}

    def _before_sees(self, conditions: Window) -> Window:
        seen = replace(conditions, features=conditions.features[:, -self.cfg.dit.audio_layers :])
        return seen if self.cfg.gaze_conditioned else without_gaze(seen)

    def state(self, seconds: float) -> dict[str, Any]:
        """Collect the averaged weights for `export --weights finetune`."""
        assert self.student.average is not None
        return {"finetune": dict(self.student.average.weights)}


def build_trainer(args: argparse.Namespace, rank: runtime.TrainRank, cfg: ModelConfig) -> FinetuneTrainer:
    """Build the trainer of a student that begins as the model `args.init`, beside a copy of that model."""
    weights = avatar_weights(args.init, cfg.dit.cond_dim)
    student, before = build_student(args, rank, cfg, weights), build_network(args, rank, cfg, weights, 0)
    data, host = Dataset(args, rank, cfg), torch.Generator().manual_seed(args.seed * 31)
    if args.before_features is not None:
        data.bank.append(load_bank(args.before_features, "train", cfg.dit.audio_history_frames, rank.device))
    return FinetuneTrainer(args, cfg, student, before, data, host)


def train(args: argparse.Namespace, rank: runtime.TrainRank) -> None:
    """Run the stage until its time budget is used up."""
    cfg = replace(read_config(args.data), gaze_conditioned=read_config(args.init).gaze_conditioned)
    trainer = build_trainer(args, rank, with_shift(cfg, args.shift))
    journal = runtime.JsonLog(args.out / "finetune.jsonl", rank)
    if args.compile:
        warm_up(trainer.student, student_sees(trainer.data.sampler.sample(args.batch), cfg))
    budget = runtime.Budget(rank, args.seconds)
    saver = runtime.Saver(args.out / "student.pt", trainer, budget, args.save_every)
    while (fraction := budget.fraction(trainer.step)) < 1:
        values = trainer.train_step(fraction)
        if trainer.step % args.log_every == 0:
            journal.report(trainer.step, budget, values)
        saver.save_if_due()
    if rank.first:
        saver.save()


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    options = student_arguments("fine-tune a few-step model on eyes and mouth", face_loss=0.2)
    options.add_argument("--seconds", type=float, default=300)
    options.add_argument("--init", type=Path, required=True, help="model directory to start from and to stay near")
    options.add_argument("--before_features", type=Path, help="folder of the speech features that MODEL reads")
    return options


def main(argv: list[str] | None = None) -> None:
    """Run the command line of the stage."""
    runtime.run_stage(parser(), train, argv)


if __name__ == "__main__":
    main()
