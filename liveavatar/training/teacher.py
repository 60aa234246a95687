"""Stage 2: train the many-step teacher by block-causal flow matching.

`python -m liveavatar.training.teacher --data RUN --out RUN --seconds N --preset mini`; `--data` is the folder that the
encode stage wrote. Every block of a window has its own noise level and attends to the same ring and sinks as in a
stream. Writes `teacher.pt` (resumable; later stages use the averaged weights, `average`) and `teacher.jsonl`.

The held-out flow error is for monitoring, not for choosing weights. The mouth's error rises while the learning rate
falls, and yet the *generated* mouths improve: in one run from 0.77 at the lowest error to 0.85 at the end (correlation
of openness with the truth, unseen people and voices), with likeness and sharpness.
"""

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.load import load_model
from liveavatar.config import ModelConfig
from liveavatar.errors import CheckpointError
from liveavatar.training import runtime
from liveavatar.training.batch import Window
from liveavatar.training.features import FeatureBank, load_bank
from liveavatar.training.flow import (
    AvatarNet,
    RecordedNet,
    add_noise,
    drop_conditions,
    held_out_errors,
    is_outer,
    load_face_loss,
    mixed_levels,
    with_conditions,
)
from liveavatar.training.latent_set import LatentSet, load_latents
from liveavatar.training.latents import WindowSampler, cut_window
from liveavatar.training.optim import Average, Optimisers, rate_factor

log = logging.getLogger(__name__)

EMA_DECAY = 0.999
HELD_OUT_WINDOWS = 16  # per orientation


class Dataset:
    """Training windows and, on the first rank, held-out windows of the transformer stages."""

    def __init__(self, args: argparse.Namespace, rank: runtime.TrainRank, cfg: ModelConfig) -> None:
        history = cfg.dit.audio_history_frames
        self.sets = load_latents(args.data, "train", rank.device, rank.rank, rank.world)
        self.bank = load_bank(args.data, "train", history, rank.device)
        self.sampler = WindowSampler(self.sets, self.bank, args.blocks, rank.generator(args.seed + 1))
        self.generator = rank.generator(args.seed + 2)
        self.held_out: list[Window] = []
        if rank.first:
            bank = load_bank(args.data, "eval", history, rank.device)
            sets = load_latents(args.data, "eval", rank.device)
            self.held_out = [held_out_window(s, bank, self.sampler.num_blocks) for s in sets]


def held_out_window(data: LatentSet, bank: FeatureBank, num_blocks: int) -> Window:
    """Cut the first blocks of the first held-out clips, with free head motion as in most renders."""
    clips = torch.arange(min(HELD_OUT_WINDOWS, len(data.latents)), device=data.latents.device)
    return cut_window(data, bank, clips, torch.zeros_like(clips), num_blocks).with_free_head()


def _load_start(net: AvatarNet, model_dir: Path) -> None:
    start = load_model(model_dir, "cpu", torch.float32, parts=("dit", "text"))
    same = replace(start.config.dit, cond_dim=net.cfg.dit.cond_dim)  # additional channels start silent
    if (same, start.config.text) != (net.cfg.dit, net.cfg.text):
        raise CheckpointError(
            f"--init {model_dir} holds a network of other sizes than this run's; name a model of the same preset, "
            "or start without --init"
        )
    if start.config.pose_guided and start.config.pose_origin != net.cfg.pose_origin:
        log.info(
            "--init %s counts head angles from the %s, this run from the %s: the network learns them anew",
            model_dir, start.config.pose_origin, net.cfg.pose_origin,
        )  # fmt: skip
    weights = start.dit.state_dict()
    weights["cond_encoder.weight"] = with_conditions(weights["cond_encoder.weight"], net.cfg.dit.cond_dim)
    net.dit.load_state_dict(weights)
    net.text.load_state_dict(start.text.state_dict())


class TeacherTrainer:
    """Trainer of the teacher: networks, optimisers and data of the stage."""

    def __init__(self, args: argparse.Namespace, rank: runtime.TrainRank, cfg: ModelConfig) -> None:
        self.args, self.rank, self.cfg = args, rank, cfg
        self.data = Dataset(args, rank, cfg)
        self.net = AvatarNet(cfg).to(rank.device)
        if args.init:
            _load_start(self.net, args.init)
        runtime.broadcast(self.net, rank)
        self.average_net = self.net.frozen_copy()
        self.optim = Optimisers(
            self.net.named_parameters(),
            muon=args.muon,
            adamw=args.adamw,
            outer=is_outer,
            decay=args.decay,
            record=args.graphs,
        )
        self.average = Average(self.net, EMA_DECAY)
        self.step = 0
        if args.compile:
            self.net.compile_blocks()
        face = load_face_loss(args.data, args.face_loss, rank.device)
        self.recorded = RecordedNet(self.net, rank, args.graphs, face)

    def train_step(self, fraction: float) -> dict[str, Tensor]:
        """Update the network once."""
        window = self.data.sampler.sample(self.args.batch)
        generator = self.data.generator
        dropped = drop_conditions(window, generator)
        sigma = mixed_levels(self.args.batch, self.data.sampler.num_blocks, generator)
        noise = torch.randn(window.latents.shape, device=window.latents.device, generator=generator)
        noisy = add_noise(window.latents, noise, sigma)
        loss = self.recorded.gradients(noisy, sigma, noise - window.latents, dropped)
        runtime.average_gradients(self.optim.params, self.rank)
        norm = self.optim.step(rate_factor(self.step, fraction))
        self.average.update(self.net, self.step)
        self.step += 1
        return {"loss": loss, "grad_norm": norm}

    def held_out(self) -> dict[str, float]:
        """Measure the averaged weights on held-out windows."""
        self.average.copy_to(self.average_net)
        with self.rank.autocast():
            return held_out_errors(self.average_net, self.data.held_out)

    def state(self, seconds: float) -> dict[str, Any]:
        """Collect the state for `teacher.pt`."""
        return {
            "weights": {n: p.detach() for n, p in self.net.named_parameters()},
            "average": self.average.weights,
            "optim": self.optim.state_dict(),
            "step": self.step,
            "seconds": seconds,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.net.load_state_dict(state["weights"])
        self.average.load(state["average"])
        self.step = state["step"]
        self.optim.load_state_dict(state["optim"])


def train(args: argparse.Namespace, rank: runtime.TrainRank) -> None:
    """Run the stage until its time budget is used up."""
    cfg = read_config(args.data)
    trainer = TeacherTrainer(args, rank, cfg)
    path = args.out / "teacher.pt"
    budget = runtime.resume(trainer, path, args, rank)
    journal = runtime.JsonLog(args.out / "teacher.jsonl", rank)
    saver = runtime.Saver(path, trainer, budget, args.save_every)
    last_eval = budget.elapsed
    mark = (trainer.step, budget.elapsed)  # start of the current speed measurement
    while (fraction := budget.fraction(trainer.step)) < 1:
        values = trainer.train_step(fraction)
        if trainer.step % args.log_every == 0:
            row = {k: float(v) for k, v in values.items()}  # waits for the GPU
            step_seconds = (budget.elapsed - mark[1]) / (trainer.step - mark[0])
            row |= {"ms_step": 1000 * step_seconds, "windows_s": args.batch * rank.world / step_seconds}
            if rank.first and budget.elapsed - last_eval > args.eval_every:
                row |= trainer.held_out()
                last_eval = budget.elapsed
            journal.report(trainer.step, budget, row)
            mark = (trainer.step, budget.elapsed)
        if saver.save_if_due():
            mark = (trainer.step, budget.elapsed)
    if rank.first:
        journal.report(trainer.step, budget, trainer.held_out(), final=1)
        saver.save()


def transformer_arguments(description: str, face_loss: float) -> argparse.ArgumentParser:
    """Build the options shared by teacher and student; `face_loss` is the default of that option."""
    parser = runtime.loop_arguments(description, log_every=20)
    parser.add_argument("--batch", type=int, default=64, help="windows a GPU")
    parser.add_argument("--blocks", type=int, default=6, help="blocks a window")
    parser.add_argument("--eval_every", type=float, default=25, help="seconds")
    parser.add_argument("--face_loss", type=float, default=face_loss, help="weight of the face reader's loss; 0: none")
    return parser


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    options = transformer_arguments("train the teacher", face_loss=0.2)
    options.add_argument("--seconds", type=float, default=480)
    options.add_argument("--muon", type=float, default=0.015, help="rate of matrices inside the network")
    options.add_argument("--adamw", type=float, default=1e-3, help="rate of everything else")
    options.add_argument("--decay", type=float, default=0.05, help="weight decay of Muon's matrices, times their rate")
    options.add_argument("--init", type=Path, help="model directory to start from; start from its autoencoder, too")
    return options


def main(argv: list[str] | None = None) -> None:
    """Run the command line of the stage."""
    runtime.run_stage(parser(), train, argv)


if __name__ == "__main__":
    main()
