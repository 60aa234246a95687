"""Runtime of every training stage: ranks, a time budget, checkpoints, the loss log.

A stage runs for a number of seconds, not steps, so that a whole run fits a machine lease. All ranks agree on the
elapsed share of the budget (the slowest one decides), and a checkpoint stores the seconds already spent.
"""

import argparse
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from liveavatar.files import replacing

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Value = TypeVar("Value")
Module = TypeVar("Module", bound=nn.Module)
REFINED = "refined"  # folder of the decoder's own training, inside a run's


@dataclass(frozen=True, slots=True)
class TrainRank:
    """Rank, world size and device of this process of a stage."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """True for rank 0, which writes logs and checkpoints."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the autocast context: bf16 on a GPU, full precision on a CPU."""
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()

    def generator(self, seed: int) -> torch.Generator:
        """Create a generator on this rank's device, seeded differently on every rank."""
        return torch.Generator(self.device).manual_seed(seed * 1009 + self.rank)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            dist.barrier()

    def mean(self, value: Tensor) -> Tensor:
        """Average `value` over ranks, in place."""
        if self.world > 1:
            dist.all_reduce(value)
            value /= self.world
        return value


def start(seed: int = 0, alone: bool = False) -> TrainRank:
    """Join the process group of torchrun (if any), select the device and seed the generators.

    Args:
        seed: of torch's own generator.
        alone: without torchrun, make a group of this process; sharded networks need one.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    elif alone and not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True)
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    torch.manual_seed(seed)  # equal on all ranks: weights start equal; data generators differ by rank
    return TrainRank(rank, world, device)


def run_stage(
    options: argparse.ArgumentParser, stage: Callable[[argparse.Namespace, TrainRank], None], argv: list[str] | None
) -> None:
    """Run the command line of a stage: set up logging, join the other ranks, call `stage`, leave the group."""
    args = options.parse_args(argv)
    logging.basicConfig(level=logging.INFO)
    rank = start(args.seed)
    stage(args, rank)
    finish(rank)


def finish(rank: TrainRank, alone: bool = False) -> None:
    """Leave the process group that `start` joined or, with `alone`, made."""
    if rank.world > 1 or alone:
        rank.barrier()
        dist.destroy_process_group()


class Budget:
    """Elapsed share of a stage's seconds, equal on all ranks."""

    EVERY = 10  # steps between agreements of the ranks

    def __init__(self, rank: TrainRank, seconds: float, spent: float = 0.0) -> None:
        self.rank, self.seconds, self.spent = rank, seconds, spent
        self._start = time.monotonic()
        self._agreed = spent

    @property
    def elapsed(self) -> float:
        """Seconds that this process has spent in the stage, including earlier runs."""
        return self.spent + time.monotonic() - self._start

    def fraction(self, step: int) -> float:
        """Compute the spent share of the budget, 0 to 1 or more; without a budget it is 1.

        Call it once per step with the step's number: ranks agree on the share at every tenth.
        """
        if self.rank.world == 1:
            self._agreed = self.elapsed
        elif step % self.EVERY == 0:
            now = torch.tensor(self.elapsed, device=self.rank.device)
            dist.all_reduce(now, dist.ReduceOp.MAX)
            self._agreed = float(now)
        return self._agreed / self.seconds if self.seconds > 0 else 1.0


def map_ahead(function: Callable[[Item], Value], items: Iterable[Item], threads: int, most: int) -> Iterator[Value]:
    """Map items in order on background threads, with at most `most` results pending (an ordered parallel map)."""
    rest = iter(items)
    waiting: deque[Future[Value]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        waiting.extend(pool.submit(function, item) for item in islice(rest, most))
        while waiting:
            value = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
            yield value


def channels_last(module: Module) -> Module:
    """Convert a network's convolutions to the channels-last memory format; return the network."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def average_gradients(params: list[nn.Parameter], rank: TrainRank) -> None:
    """Replace gradients by their mean over ranks, in one all-reduce."""
    if rank.world == 1:
        return
    grads = [p.grad for p in params if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in grads])
    dist.all_reduce(flat)
    flat /= rank.world
    parts = flat.split([g.numel() for g in grads])
    torch._foreach_copy_(grads, [part.view_as(g) for part, g in zip(parts, grads, strict=True)])


def broadcast(module: nn.Module, rank: TrainRank) -> None:
    """Broadcast the weights of rank 0 to every rank."""
    if rank.world > 1:
        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor.data, 0)


def save_checkpoint(path: Path, state: Mapping[Any, Any]) -> None:
    """Write `state` atomically, so that `path` always holds a complete checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Load a checkpoint of `save_checkpoint`."""
    return torch.load(path, map_location=device, weights_only=True)


class Saved(Protocol):
    """Trained state of a stage that is saved on the way."""

    def state(self, seconds: float) -> dict[str, Any]:
        """Collect the state after so many seconds of training; with "seconds" in it where it can be continued."""


class Trainer(Saved, Protocol):
    """Networks and optimisers of a stage that can be saved and continued."""

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a state."""


class StepTrainer(Trainer, Protocol):
    """Trainer of a stage whose every step is alike."""

    step: int

    def train_step(self, fraction: float) -> Mapping[str, float | Tensor]:
        """Train on one batch at this fraction of the budget; return what to log."""

    def held_out(self) -> dict[str, float]:
        """Measure held-out clips."""


def resume(trainer: Trainer, path: Path, args: argparse.Namespace, rank: TrainRank) -> Budget:
    """Continue from the checkpoint if `args.resume` asks for it and there is one; return what is left of the budget."""
    spent = 0.0
    if args.resume and path.is_file():
        state = load_checkpoint(path, rank.device)
        trainer.load(state)
        spent = state["seconds"]
    return Budget(rank, args.seconds, spent)


class Saver:
    """Checkpoint of a trainer, written by rank 0 every `every` seconds of a stage."""

    def __init__(self, path: Path, trainer: Saved, budget: Budget, every: float) -> None:
        self.path, self.trainer, self.budget, self.every = path, trainer, budget, every
        self._last = budget.elapsed

    def save_if_due(self) -> bool:
        """Save when it is time, and return whether it was."""
        due = self.budget.rank.first and self.budget.elapsed - self._last > self.every
        if due:
            self.save()
        return due

    def save(self) -> None:
        """Save now."""
        save_checkpoint(self.path, self.trainer.state(self.budget.elapsed))
        self._last = self.budget.elapsed


def run_steps(
    trainer: StepTrainer,
    saver: Saver,
    journal: "JsonLog",
    args: argparse.Namespace,
    held_out_every: int,
    on_row: Callable[[Mapping[str, float]], None] | None = None,
) -> None:
    """Train until the saver's time budget is used up; log, measure and save on the way and at the end.

    Args:
        trainer: of the stage.
        saver: of its checkpoint.
        journal: log of the stage.
        args: its options; `log_every` counts.
        held_out_every: logged rows from one measurement of held-out clips to the next.
        on_row: receives every logged row, on every rank.
    """
    budget = saver.budget
    while (fraction := budget.fraction(trainer.step)) < 1:
        values = trainer.train_step(fraction)
        if trainer.step % args.log_every == 0:
            row = {k: float(v) for k, v in values.items()}
            if budget.rank.first and trainer.step % (held_out_every * args.log_every) == 0:
                row |= trainer.held_out()
            journal.report(trainer.step, budget, row)
            if on_row is not None:
                on_row(row)
        saver.save_if_due()
    if budget.rank.first:
        saver.save()
        journal.report(trainer.step, budget, trainer.held_out(), final=1)


def autoencoder_file(run: Path) -> Path:
    """Find the newest autoencoder of a run: the one with the refined decoder if there is one."""
    refined = run / REFINED / "autoencoder.pt"
    return refined if refined.is_file() else run / "autoencoder.pt"


class JsonLog:
    """Log file with one JSON object per line; only rank 0 writes."""

    def __init__(self, path: Path, rank: TrainRank) -> None:
        self.path, self.rank = path, rank
        if rank.first:
            path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, **fields: float | str | int) -> None:
        """Append one record; numbers are rounded to 6 digits."""
        if self.rank.first:
            rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in fields.items()}
            with self.path.open("a") as f:
                f.write(json.dumps(rounded) + "\n")

    def report(self, step: int, budget: Budget, row: Mapping[str, float | Tensor], **labels: float | str | int) -> None:
        """Append the values of a step, and say them; reading tensors waits for the GPU."""
        values = {name: float(value) for name, value in row.items()}
        self.write(**labels, step=step, seconds=budget.elapsed, **values)
        if self.rank.first:
            words = [*(f"{k} {v}" for k, v in labels.items()), *(f"{k} {v:.4g}" for k, v in values.items())]
            log.info("%s %d, %.0f s: %s", self.path.stem, step, budget.elapsed, ", ".join(words))


def arguments(description: str) -> argparse.ArgumentParser:
    """Build the options that all stages share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder of rendered clips")
    parser.add_argument("--out", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--preset", choices=("mini", "tiny"), default="mini")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--graphs", type=int, default=1, help="replay recorded kernels where there is a GPU")
    return parser


def loop_arguments(description: str, log_every: int = 50) -> argparse.ArgumentParser:
    """Build the options that all stages with a training loop share."""
    parser = arguments(description)
    parser.add_argument("--compile", type=int, default=int(torch.cuda.is_available()))
    parser.add_argument("--log_every", type=int, default=log_every)
    parser.add_argument("--save_every", type=float, default=60, help="seconds")
    parser.add_argument("--resume", action="store_true")
    return parser
