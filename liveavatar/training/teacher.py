"""Stage 2: train the many-step teacher by block-causal flow matching.

`python -m liveavatar.training.teacher --data RUN --out RUN --seconds N --preset mini`; `--data` is the folder the
encode stage wrote. Every block of a window has its own noise level and sees the ring and sinks it would see in a
stream. When the held-out error has stopped falling, or most of the seconds are spent, training goes on from the best
weights while the rate falls to nothing. Writes `teacher.pt` (resumable; `best` are the averaged weights with the
lowest held-out error) and `teacher.jsonl`.
"""

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liveavatar.config import ModelConfig, load_config
from liveavatar.training import runtime
from liveavatar.training.flow import (
    AvatarNet,
    RecordedNet,
    add_noise,
    drop_conditions,
    held_out_errors,
    is_outer,
    mixed_levels,
)
from liveavatar.training.latents import (
    FeatureBank,
    LatentSet,
    WindowSampler,
    cut_window,
    load_bank,
    load_latents,
)
from liveavatar.training.optim import Average, Optimisers, warm_up
from liveavatar.training.window import Window

log = logging.getLogger(__name__)

EMA_DECAY = 0.999
HELD_WINDOWS = 16  # an orientation
# Their sum picks the best weights. The mouth's error alone starts to rise before the face is learned.
SELECT_BY = ("held_3", "held_6", "held_9", "held_3_mouth", "held_6_mouth", "held_9_mouth")


PATIENCE = 3  # evaluations without a better one before the rate begins to fall
COOLING_SHARE = 0.35  # of the time before: how long the rate falls


class Cooling:
    """When the rate falls, and how far it has fallen; times are shares of the stage's seconds."""

    def __init__(self, begun: float | None = None) -> None:
        self.begun = begun

    def due(self, fraction: float, stale: int) -> bool:
        """Whether it is time to begin, after `stale` evaluations without a better one."""
        return self.begun is None and (stale >= PATIENCE or fraction * (1 + COOLING_SHARE) >= 1)

    def factor(self, fraction: float) -> float:
        """Of the rate: 1, then linear to 2 %."""
        if self.begun is None:
            return 1.0
        return max(0.02, 1 - (fraction - self.begun) / (COOLING_SHARE * self.begun + 1e-9))

    def over(self, fraction: float) -> bool:
        """Whether training has ended."""
        return fraction >= 1 or (self.begun is not None and fraction >= (1 + COOLING_SHARE) * self.begun)


class Dataset:
    """Everything the transformer stages train on and are judged by."""

    def __init__(self, args: argparse.Namespace, rank: runtime.Rank, cfg: ModelConfig) -> None:
        history = cfg.dit.audio_history_frames
        self.sets = load_latents(args.data, "train", rank.device, rank.rank)
        self.bank = load_bank(args.data, "train", history, rank.device)
        self.sampler = WindowSampler(self.sets, self.bank, args.blocks, rank.generator(args.seed + 1))
        self.generator = rank.generator(args.seed + 2)
        self.held: list[Window] = []
        if rank.first:
            bank = load_bank(args.data, "eval", history, rank.device)
            sets = load_latents(args.data, "eval", rank.device)
            self.held = [held_window(s, bank, self.sampler.num_blocks) for s in sets]


def held_window(data: LatentSet, bank: FeatureBank, num_blocks: int) -> Window:
    """The first blocks of the first held-out clips, their heads free, as most renders are."""
    clips = torch.arange(min(HELD_WINDOWS, len(data.latents)), device=data.latents.device)
    return replace(cut_window(data, bank, clips, torch.zeros_like(clips), num_blocks), pose=None)


class TeacherTrainer:
    """Networks and optimisers of the stage."""

    def __init__(self, args: argparse.Namespace, rank: runtime.Rank, cfg: ModelConfig) -> None:
        self.args, self.rank, self.cfg = args, rank, cfg
        self.data = Dataset(args, rank, cfg)
        self.net = AvatarNet(cfg).to(rank.device)
        runtime.broadcast(self.net, rank)
        self.held_net = self.net.frozen_copy()
        self.optim = Optimisers(
            self.net.named_parameters(),
            muon=args.muon,
            adamw=args.adamw,
            outer=is_outer,
            decay=args.decay,
            record=args.graphs,
        )
        self.average = Average(self.net, EMA_DECAY)
        self.best = {n: w.clone() for n, w in self.average.weights.items()}
        self.best_error, self.stale = float("inf"), 0
        self.step = 0
        self.cooling = Cooling()
        if args.compile:
            self.net.compile_blocks()
        self.recorded = RecordedNet(self.net, rank, args.graphs)

    def train_step(self, fraction: float) -> dict[str, Tensor]:
        """One update."""
        window = self.data.sampler.sample(self.args.batch)
        generator = self.data.generator
        driven = drop_conditions(window, generator)
        sigma = mixed_levels(self.args.batch, self.data.sampler.num_blocks, generator)
        noise = torch.randn(window.latents.shape, device=window.latents.device, generator=generator)
        noisy = add_noise(window.latents, noise, sigma)
        loss = self.recorded.gradients(noisy, sigma, noise - window.latents, driven)
        runtime.average_gradients(self.optim.params, self.rank)
        norm = self.optim.step(warm_up(self.step, fraction) * self.cooling.factor(fraction))
        self.average.update(self.net, self.step)
        self.step += 1
        return {"loss": loss, "grad_norm": norm}

    def held_out(self) -> dict[str, float]:
        """Held-out errors of the averaged weights; remembers the best ones."""
        self.average.copy_to(self.held_net)
        with self.rank.autocast():
            errors = held_out_errors(self.held_net, self.data.held)
        score = sum(errors[name] for name in SELECT_BY)
        self.stale += 1
        if score < self.best_error:
            self.best_error, self.stale = score, 0
            for name, weight in self.average.weights.items():
                self.best[name].copy_(weight)
        return errors

    def maybe_cool(self, fraction: float) -> None:
        """Let the rate begin to fall when it is time, from the best weights; all ranks call this at the same step."""
        due = self.rank.mean(torch.tensor(float(self.cooling.due(fraction, self.stale)), device=self.rank.device))
        if due == 0 or self.cooling.begun is not None:  # only the first rank evaluates, so it knows before the others
            return
        self.cooling.begun = fraction
        if self.rank.first:
            log.info("step %d: the rate falls from here on", self.step)
            with torch.no_grad():
                for name, p in self.net.named_parameters():
                    p.copy_(self.best[name])
        runtime.broadcast(self.net, self.rank)
        self.average.load({n: p.detach() for n, p in self.net.named_parameters()})

    def state(self, seconds: float) -> dict[str, Any]:
        """For `teacher.pt`."""
        return {
            "weights": {n: p.detach() for n, p in self.net.named_parameters()},
            "average": self.average.weights,
            "best": self.best,
            "best_error": self.best_error,
            "optim": self.optim.state_dict(),
            "step": self.step,
            "stale": self.stale,
            "cooling": self.cooling.begun,
            "seconds": seconds,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.net.load_state_dict(state["weights"])
        self.average.load(state["average"])
        self.best = {n: w.clone() for n, w in state["best"].items()}
        self.best_error, self.step, self.stale = state["best_error"], state["step"], state["stale"]
        self.cooling = Cooling(state["cooling"])
        self.optim.load_state_dict(state["optim"])


def train(args: argparse.Namespace, rank: runtime.Rank) -> None:
    """Run the stage until its seconds are spent."""
    cfg = load_config(args.data)
    trainer = TeacherTrainer(args, rank, cfg)
    path = args.out / "teacher.pt"
    spent = 0.0
    if args.resume and path.is_file():
        state = runtime.load_checkpoint(path, rank.device)
        trainer.load(state)
        spent = state["seconds"]
    journal = runtime.JsonLog(args.out / "teacher.jsonl", rank)
    budget = runtime.Budget(rank, args.seconds, spent)
    last_save = last_eval = budget.elapsed
    mark = (trainer.step, budget.elapsed)  # since when speed is measured
    while not trainer.cooling.over(fraction := budget.fraction(trainer.step)):
        values = trainer.train_step(fraction)
        if trainer.step % args.log_every == 0:
            row = {k: float(v) for k, v in values.items()}  # waits for the GPU
            step_seconds = (budget.elapsed - mark[1]) / (trainer.step - mark[0])
            row |= {"ms_step": 1000 * step_seconds, "windows_s": args.batch * rank.world / step_seconds}
            if rank.first and budget.elapsed - last_eval > args.eval_every:
                row |= trainer.held_out()
                last_eval = budget.elapsed
            journal.write(step=trainer.step, seconds=budget.elapsed, **row)
            if rank.first:
                log.info("teacher %d, %.0f s: %s", trainer.step, budget.elapsed, row)
            trainer.maybe_cool(fraction)
            mark = (trainer.step, budget.elapsed)
        if rank.first and budget.elapsed - last_save > args.save_every:
            runtime.save_checkpoint(path, trainer.state(budget.elapsed))
            last_save = budget.elapsed
            mark = (trainer.step, budget.elapsed)
    if rank.first:
        final = trainer.held_out()
        journal.write(step=trainer.step, seconds=budget.elapsed, final=1, **final)
        runtime.save_checkpoint(path, trainer.state(budget.elapsed))
        log.info("teacher done after %d steps: %s", trainer.step, final)


def transformer_arguments(description: str) -> argparse.ArgumentParser:
    """Options shared by teacher and student."""
    parser = runtime.arguments(description)
    parser.add_argument("--batch", type=int, default=64, help="windows a GPU")
    parser.add_argument("--blocks", type=int, default=6, help="blocks a window")
    parser.add_argument("--compile", type=int, default=int(torch.cuda.is_available()))
    parser.add_argument("--log_every", type=int, default=20)
    parser.add_argument("--eval_every", type=float, default=25, help="seconds")
    parser.add_argument("--save_every", type=float, default=60, help="seconds")
    parser.add_argument("--resume", action="store_true")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Command line of the stage."""
    parser = transformer_arguments("train the teacher")
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--muon", type=float, default=0.015, help="rate of matrices inside the network")
    parser.add_argument("--adamw", type=float, default=1e-3, help="rate of everything else")
    parser.add_argument("--decay", type=float, default=0.05, help="weight decay of Muon's matrices, times their rate")
    args: Any = parser.parse_args(argv)
    assert isinstance(args.out, Path)
    runtime.run_stage(args, train)


if __name__ == "__main__":
    main()
