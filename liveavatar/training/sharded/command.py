"""Distillation of the 14B from the command line.

`torchrun --nproc_per_node=8 -m liveavatar.training.distill --preset live-avatar-14b --model DIR --data CLIPS --out RUN`

Distribution matching (`liveavatar.training.matching`) of low-rank adapters on the published base: `--data` is a folder
of clips (`windows.py`), `--resume` continues at the last checkpoint with the same bits. Writes `RUN/checkpoints/`,
`RUN/adapter/liveavatar.safetensors`, which renders beside the base, `distill.jsonl` and `distill_sharded.md`/`.json`
with memory and seconds. `--random` has random weights and windows instead, at any depth (`--layers`), to measure a
machine; `--estimate 8x80GB` prints the memory of a rank and ends.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import torch
from torch.distributed.device_mesh import init_device_mesh

from liveavatar.checkpoints import released
from liveavatar.checkpoints.directory import resolve_model_dir
from liveavatar.checkpoints.lora import LowRank
from liveavatar.checkpoints.weight_files import check_keys, part_files, read_tensors, shapes_of
from liveavatar.config import ModelConfig
from liveavatar.errors import CapacityError, CheckpointError, InputError, LiveAvatarError
from liveavatar.hardware import GB
from liveavatar.training import runtime
from liveavatar.training.matching import DistillTrainer, Networks
from liveavatar.training.sharded import checkpoint, report
from liveavatar.training.sharded.adapters import FAKE, STUDENT, AdapterShape, base_of
from liveavatar.training.sharded.export import export_adapters
from liveavatar.training.sharded.memory import ShardedRun, memory
from liveavatar.training.sharded.network import (
    AdapterSet,
    Role,
    ShardedNet,
    allocate,
    fill_adapters,
    fill_base,
    fill_random,
)
from liveavatar.training.sharded.options import STREAM, estimate, model_config, parser, sharded_run, window_size
from liveavatar.training.sharded.windows import ClipFiles, RandomWindows, WindowSource

log = logging.getLogger(__name__)

EMA_DECAY = 0.99
FAKE_SPEED = 2  # learning rate of the fake score over the student's
# Options that a run keeps when it continues.
SETTINGS = (
    *("model", "random", "tiny", "layers", "size", "blocks", "batch", "lora_rank", "lora_alpha", "seed"),
    *("updates", "adamw", "guidance", "anchor", "scores"),
)


def window_source(args: argparse.Namespace, cfg: ModelConfig, rank: runtime.TrainRank) -> WindowSource:
    """Open the clips, or make a source of random windows."""
    noise = rank.generator(args.seed + 2)
    clips = torch.Generator().manual_seed(rank.generator(args.seed + 1).initial_seed())
    if args.random:
        size = window_size(args, cfg)
        return WindowSource(RandomWindows(cfg, size, noise), size, noise, clips)
    files = ClipFiles(args.data, cfg, args.blocks, rank, clips)
    return WindowSource(files, files.size, noise, clips)


def fill(net: ShardedNet, args: argparse.Namespace) -> None:
    """Fill the shards of the base and of the adapters.

    Raises:
        CheckpointError: files are missing, damaged, or for another model.
    """
    shapes = {name: p.shape for name, p in base_of(net.dit).items()}
    if args.random:
        fill_random(net, args.seed)
    else:
        folder = resolve_model_dir(args.model)
        files = released.dit_files(folder) if released.is_released(folder) else part_files(folder, "dit")
        if not files:
            raise CheckpointError(f"{folder} holds no transformer; run `liveavatar models fetch {args.preset}`")
        check_keys(str(folder), shapes_of(files), shapes)
        fill_base(net, read_tensors(files))
    given: dict[str, dict[str, LowRank]] = {}
    if args.init_lora:
        given[STUDENT] = released.read_lora(args.init_lora, shapes)
    fill_adapters(net, args.seed, given)


# The run -----------------------------------------------------------------------------------------------


def build(
    args: argparse.Namespace, cfg: ModelConfig, source: WindowSource, rank: runtime.TrainRank
) -> checkpoint.RunState:
    """Build the network, its roles and the trainer; return the state that changes."""
    mesh = init_device_mesh(rank.device.type, (rank.world,))
    dtype = torch.bfloat16 if rank.device.type == "cuda" else torch.float32
    shape = AdapterShape(args.lora_rank, args.lora_alpha)
    net = ShardedNet(cfg, shape, mesh, dtype)
    allocate(net, rank.device)
    fill(net, args)
    scores = args.scores == STREAM
    student = Role(net, AdapterSet(net, STUDENT), causal=True, rate=args.adamw, ema_decay=EMA_DECAY)
    fake = Role(net, AdapterSet(net, FAKE), causal=scores, rate=FAKE_SPEED * args.adamw)
    teacher = Role(net, None, causal=scores)
    host = torch.Generator().manual_seed(args.seed)  # the same on all ranks: it decides which forwards there are
    trainer = DistillTrainer(args, cfg, Networks(student, teacher, fake), source, host)
    generators = {"host": host, "clips": source.host, "noise": source.generator}
    settings = {name: getattr(args, name) for name in SETTINGS}
    return checkpoint.RunState(trainer, student, fake, generators, settings)


def train(args: argparse.Namespace, rank: runtime.TrainRank) -> None:
    """Train to the last update, or to `--until`.

    Raises:
        LiveAvatarError: options, files or the machine do not go together.
    """
    cfg = model_config(args)
    source = window_source(args, cfg, rank)
    run = sharded_run(args, cfg, source.size, rank.world)
    refuse_too_large(run, rank)
    measured = report.Measured()
    with timed(measured, "building and filling the shards", rank):
        state = build(args, cfg, source, rank)
    folder = args.out / "checkpoints"
    found = checkpoint.saved(folder)
    if args.resume and found:
        with timed(measured, "reading the checkpoint", rank):
            checkpoint.load(found[-1], state, rank)
    elif found:
        raise InputError(
            f"{args.out} holds a run of {int(found[-1].name)} updates; add --resume, or name another --out"
        )
    update_until(args, state, measured, rank)
    with timed(measured, "writing a checkpoint", rank):
        checkpoint.save(folder, state, rank)
    export_adapters(args.out / "adapter", state.student, run.adapters, rank)
    write_report(args, run, state, measured, rank)


def update_until(
    args: argparse.Namespace, state: checkpoint.RunState, measured: report.Measured, rank: runtime.TrainRank
) -> None:
    """Update up to `--updates`, `--until` or the end of `--hours`; log and save on the way."""
    journal = runtime.JsonLog(args.out / "distill.jsonl", rank)
    last, end = min(args.updates, args.until or args.updates), state.seconds + 3600 * args.hours
    while state.updates < last and state.seconds < end:
        began = time.monotonic()
        values = state.trainer.dmd_step(state.updates / args.updates)
        losses = {name: float(rank.mean(value.clone())) for name, value in values.items()}  # waits for the GPU
        seconds = float(rank.mean(torch.tensor(time.monotonic() - began, device=rank.device)))  # all ranks agree
        state.seconds += seconds
        measured.updates.append(("grad_norm" in losses, seconds))
        measured.losses.append(losses)
        if state.updates % args.log_every == 0 or state.updates == last:
            journal.write(update=state.updates, seconds=state.seconds, **losses)
            if rank.first:
                listed = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
                log.info("update %d of %d, %.1f s: %s", state.updates, args.updates, seconds, listed)
        if state.updates % args.save_every == 0 and state.updates < last:
            checkpoint.save(args.out / "checkpoints", state, rank)


def refuse_too_large(run: ShardedRun, rank: runtime.TrainRank) -> None:
    """Refuse a run that would not fit this rank's GPU, before anything is built.

    Raises:
        CapacityError: with what it needs and the way out.
    """
    if rank.device.type != "cuda":
        return
    have, need = torch.cuda.get_device_properties(rank.device).total_memory / GB, sum(memory(run).values())
    if need > have:
        raise CapacityError(
            f"a rank of {rank.world} needs about {need:.0f} GB and its GPU has {have:.0f}; use more GPUs, or smaller "
            "--blocks, --batch or --size"
        )


def write_report(
    args: argparse.Namespace,
    run: ShardedRun,
    state: checkpoint.RunState,
    measured: report.Measured,
    rank: runtime.TrainRank,
) -> None:
    """Write memory, seconds and the digest of all ranks. Every rank must call it."""
    tensors = {name: t for name, t in state.tensors().items() if ".weights." in name or ".average." in name}
    digest = report.weights_sha256(tensors, rank)
    ranks = report.gather(report.rank_memory(rank), rank)
    if not rank.first:
        return
    facts = {
        "model": "random weights of the shapes of " + run.model.name if args.random else str(args.model),
        "command": " ".join(["python -m liveavatar.training.distill", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name(rank.device) if rank.device.type == "cuda" else "CPU",
        "torch": f"PyTorch {torch.__version__}",
        "adapters": asdict(run.adapters),
        "weights_sha256": digest,
        "total_updates": state.updates,
    }
    path = report.write(args.out, report.content(run, measured, ranks, facts))
    log.info("%s; sha256 of the adapters %s", path, digest)


@contextmanager
def timed(measured: report.Measured, name: str, rank: runtime.TrainRank) -> Iterator[None]:
    """Measure the seconds of a block, to the last rank's end."""
    began = time.monotonic()
    yield
    rank.barrier()
    measured.seconds[name] = time.monotonic() - began


@contextmanager
def repeatable() -> Iterator[None]:
    """Make equal runs give equal bits: gradients of attention have a fixed order, kernels are not tried out."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling, tries = torch.utils.deterministic, torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)  # with only warnings attention's gradients would stay as they are
    fills, filling.fill_uninitialized_memory = filling.fill_uninitialized_memory, False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        filling.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = tries


# The command -------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> None:
    """Run the command line; the exit codes are those of `liveavatar`."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        if args.estimate:
            said, fitting = estimate(args)
            sys.stdout.write(said + "\n")
            if not fitting:
                raise SystemExit(CapacityError.exit_code)
            return
        if args.out is None:
            raise InputError("give --out DIR, the folder of the run")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # equal bits need a workspace of a fixed size
        rank = runtime.start(args.seed, alone=True)
        with repeatable():
            train(args, rank)
        runtime.finish(rank, alone=True)
    except LiveAvatarError as e:
        log.error("%s", e)
        raise SystemExit(e.exit_code) from e
