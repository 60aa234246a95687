"""Stage 3: distil the teacher into a student of few steps.

`python -m liveavatar.training.distill --data RUN --out RUN --seconds_regression N --seconds_dmd N`: first trajectory
regression, then distribution matching, see `matching.py`. Writes `student.pt` (`regression`, `dmd`: averaged weights
after each part) and `distill.jsonl`; `evaluate.py` chooses the weights to export, possibly the teacher's.

`--preset live-avatar-14b` distils the published model, sharded over GPUs and with options of its own: see
`sharded/command.py`, or add `--help`.
"""

import argparse
from typing import Any

import torch
from torch import Tensor

from liveavatar.checkpoints.directory import read_config
from liveavatar.config import LIVE_AVATAR_14B, ModelConfig
from liveavatar.training import runtime
from liveavatar.training.batch import Window
from liveavatar.training.flow import AvatarNet, RecordedNet, is_outer, level, load_face_loss, with_shift
from liveavatar.training.matching import ANCHOR, DistillTrainer, Networks
from liveavatar.training.optim import Average, Optimisers
from liveavatar.training.sharded import command as sharded
from liveavatar.training.teacher import Dataset, transformer_arguments

EMA_DECAY = 0.995


class WholeNetwork:
    """Network that every rank holds whole, with its optimisers and, for a student, its average."""

    def __init__(self, recorded: RecordedNet, rank: runtime.TrainRank, optim: Optimisers | None = None) -> None:
        """Prepare to train `recorded`; without `optim` it never changes."""
        self.recorded, self.rank, self.optim = recorded, rank, optim
        self.average: Average | None = None
        self.updates = 0  # since the average began

    @property
    def net(self) -> AvatarNet:
        """The network itself."""
        return self.recorded.net

    def flow(self, x: Tensor, sigma_Bb: Tensor, window: Window) -> Tensor:
        """Predict the flow without gradients."""
        return self.recorded.flow(x, sigma_Bb, window)

    def traced_flow(self, x: Tensor, sigma_Bb: Tensor, window: Window) -> Tensor:
        """Predict the flow so that a loss of it can be differentiated."""
        with self.rank.autocast():
            return self.net.flow(x, sigma_Bb, window)

    def gradients(self, x: Tensor, sigma_Bb: Tensor, target: Tensor, window: Window) -> Tensor:
        """Compute the gradients of the region-weighted flow error; return the loss."""
        return self.recorded.gradients(x, sigma_Bb, target, window)

    def update(self, factor: float) -> Tensor:
        """Change the weights once by the mean gradients of all ranks; return their norm."""
        assert self.optim is not None, "a frozen network has no updates"
        runtime.average_gradients(self.optim.params, self.rank)
        norm = self.optim.step(factor)
        if self.average is not None:
            self.average.update(self.net, self.updates)
        self.updates += 1
        return norm


def teacher_weights(args: argparse.Namespace, rank: runtime.TrainRank) -> dict[str, Tensor]:
    """Load the weights of the teacher in `args.data`."""
    weights: dict[str, Tensor] = runtime.load_checkpoint(args.data / "teacher.pt", rank.device)["average"]
    return weights


def build_network(
    args: argparse.Namespace, rank: runtime.TrainRank, cfg: ModelConfig, weights: dict[str, Tensor], speed: float
) -> WholeNetwork:
    """Build one of the networks of a stage.

    Args:
        args: of the stage.
        rank: this process.
        cfg: of the networks.
        weights: that it begins with.
        speed: factor on its learning rates; 0: it is never updated.
    """
    net = AvatarNet(cfg).to(rank.device)
    net.load_state_dict(weights)
    if args.compile:
        net.compile_blocks()  # requires_grad stays on in a frozen one, too, so that it shares the student's graph
    if not speed:
        return WholeNetwork(RecordedNet(net, rank, args.graphs), rank)
    rates = {"muon": speed * args.muon, "adamw": speed * args.adamw}
    optim = Optimisers(net.named_parameters(), **rates, outer=is_outer, record=args.graphs)
    return WholeNetwork(RecordedNet(net, rank, args.graphs), rank, optim)


def build_student(
    args: argparse.Namespace, rank: runtime.TrainRank, cfg: ModelConfig, weights: dict[str, Tensor]
) -> WholeNetwork:
    """Build the student, with the loss of the face in its flow loss, and its average."""
    student = build_network(args, rank, cfg, weights, 1)
    student.recorded.face = load_face_loss(args.data, args.face_loss, rank.device)
    student.average = Average(student.net, EMA_DECAY)
    return student


def build_trainer(
    args: argparse.Namespace, rank: runtime.TrainRank, cfg: ModelConfig, student: WholeNetwork
) -> DistillTrainer:
    """Build the trainer of a student; teacher and fake score are copies of the teacher in `args.data`."""
    weights = teacher_weights(args, rank)
    teacher, fake = (build_network(args, rank, cfg, weights, speed) for speed in (0, 2))
    nets = Networks(student, teacher, fake)
    host = torch.Generator().manual_seed(args.seed * 31 + rank.rank)
    return DistillTrainer(args, cfg, nets, Dataset(args, rank, cfg), host, student.recorded.face)


def warm_up(student: WholeNetwork, window: Window) -> None:
    """Compile every graph before the time budget starts; no weights change."""
    sigma = level(window.latents, 0.5)
    with torch.no_grad():
        student.traced_flow(window.latents, sigma, window)
    student.traced_flow(window.latents, sigma, window).mean().backward()
    student.net.zero_grad(set_to_none=True)


def train(args: argparse.Namespace, rank: runtime.TrainRank) -> None:
    """Run both parts; skip a part with saved weights."""
    cfg = with_shift(read_config(args.data), args.shift)
    student = build_student(args, rank, cfg, teacher_weights(args, rank))
    trainer = build_trainer(args, rank, cfg, student)
    average = student.average
    assert average is not None
    path = args.out / "student.pt"
    saved: dict[str, Any] = runtime.load_checkpoint(path, rank.device) if args.resume and path.is_file() else {}
    journal = runtime.JsonLog(args.out / "distill.jsonl", rank)
    if args.compile:
        warm_up(student, trainer.data.sampler.sample(args.batch))
    for part, seconds, step in (
        ("regression", args.seconds_regression, trainer.regression_step),
        ("dmd", args.seconds_dmd, trainer.dmd_step),
    ):
        if part in saved:
            student.net.load_state_dict(saved[part])
            average.load(saved[part])
            continue
        budget, last_log = runtime.Budget(rank, seconds), -1
        trainer.step, trainer.calls, student.updates, count = 0, 0, 0, 0
        while (fraction := budget.fraction(count)) < 1:
            values = step(fraction)
            count += 1
            if count // args.log_every != last_log:
                last_log = count // args.log_every
                journal.report(count, budget, values, part=part)
        if count:
            saved[part] = {n: w.clone() for n, w in average.weights.items()}
            if rank.first:
                runtime.save_checkpoint(path, saved)


def student_arguments(description: str, face_loss: float) -> argparse.ArgumentParser:
    """Build the options that the stages of a student share; `face_loss` is the default of that option."""
    options = transformer_arguments(description, face_loss)
    options.add_argument("--shift", type=float, help="of the student's noise levels; those of the run if not given")
    options.add_argument("--muon", type=float, default=0.003, help="rate of matrices inside the network")
    options.add_argument("--adamw", type=float, default=2e-4, help="rate of everything else")
    return options


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    options = student_arguments("distil the student", face_loss=0.02)
    options.epilog = f"--preset {LIVE_AVATAR_14B.name} has options of its own: name it and add --help"
    options.add_argument("--seconds_regression", type=float, default=100)
    options.add_argument("--seconds_dmd", type=float, default=140)
    options.add_argument("--guidance", type=float, default=1.0, help="of the teacher by speech; 1: none")
    options.add_argument("--anchor", type=float, default=ANCHOR, help="weight of the trajectory beside matching")
    return options


def main(argv: list[str] | None = None) -> None:
    """Run the command line of the stage."""
    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument("--preset")
    args = chosen.parse_known_args(argv)[0]
    if args.preset == LIVE_AVATAR_14B.name:
        sharded.main(argv)
    else:
        runtime.run_stage(parser(), train, argv)


if __name__ == "__main__":
    main()
