"""Options of the sharded distillation, and the model, window and memory that they describe."""

import argparse
import math
from dataclasses import replace
from pathlib import Path

from liveavatar.checkpoints.directory import read_config, resolve_model_dir
from liveavatar.config import LIVE_AVATAR_14B, ModelConfig
from liveavatar.errors import InputError
from liveavatar.hardware import parse_gpus
from liveavatar.training.sharded.adapters import AdapterShape
from liveavatar.training.sharded.memory import ShardedRun, fits, host_memory, memory
from liveavatar.training.sharded.windows import WindowSize

WINDOW, STREAM = "window", "stream"  # of `--scores`
# Few weights of the same kind, to try a command on a CPU.
TINY = replace(
    LIVE_AVATAR_14B.dit, dim=48, num_heads=2, num_layers=4, ffn_dim=96, freq_dim=32, text_dim=16, text_len=8,
    audio_dim=24, audio_layers=3, audio_inject_layers=(0, 2), audio_prefix_frames=73,
)  # fmt: skip


def count(text: str) -> int:
    """Parse a number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def positive(text: str) -> float:
    """Parse a number above 0."""
    value = not_negative(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def not_negative(text: str) -> float:
    """Parse a number of 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 0 or more")
    return value


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    options = argparse.ArgumentParser(
        description="distil the 14B by distribution matching, sharded over the ranks of torchrun",
        epilog="example: torchrun --nproc_per_node=8 -m liveavatar.training.distill --preset live-avatar-14b "
        "--model live-avatar-14b --data CLIPS --out RUN --resume",
    )
    options.add_argument("--preset", choices=(LIVE_AVATAR_14B.name,), default=LIVE_AVATAR_14B.name)
    options.add_argument("--model", help="directory of the published base, or a preset; its LoRA is not used")
    options.add_argument("--data", type=Path, help="folder of clips, see liveavatar/training/sharded/windows.py")
    options.add_argument("--out", type=Path, help="folder of the run")
    options.add_argument("--random", action="store_true", help="random weights and windows, to measure a machine")
    options.add_argument("--tiny", action="store_true", help="with --random: a few thousand weights, for a CPU")
    options.add_argument("--layers", type=count, help="with --random: depth; all 40 when absent")
    options.add_argument("--estimate", metavar="GPUS", help='print the memory of a rank on "8x80GB", and end')
    options.add_argument("--size", default="704*384", help="width*height in pixels of random windows")
    options.add_argument("--blocks", type=count, default=7, help="blocks of 12 frames a window")
    options.add_argument("--batch", type=count, default=1, help="windows a GPU")
    options.add_argument("--lora_rank", type=count, default=AdapterShape().rank)
    options.add_argument("--lora_alpha", type=positive, default=AdapterShape().alpha)
    options.add_argument("--init_lora", type=Path, help="safetensors file of adapters that the student starts from")
    options.add_argument("--updates", type=count, default=6000, help="of the fake score; every third is the student's")
    options.add_argument("--until", type=count, help="stop after this update with a checkpoint; --resume continues")
    options.add_argument("--hours", type=positive, default=math.inf, help="stop after so long, like --until")
    options.add_argument("--adamw", type=positive, default=5e-5, help="learning rate of the student")
    options.add_argument(
        "--guidance", type=positive, default=4.5, help="of the teacher by speech, as it samples; 1: none"
    )
    options.add_argument(
        "--scores",
        choices=(WINDOW, STREAM),
        default=WINDOW,
        help="teacher and fake score attend to the whole window, as the base was trained, or as in a stream",
    )
    options.add_argument("--anchor", type=not_negative, default=0.0, help="weight of the trajectory beside matching")
    options.add_argument("--save_every", type=count, default=50, help="updates from one checkpoint to the next")
    options.add_argument("--log_every", type=count, default=10, help="updates")
    options.add_argument("--resume", action="store_true")
    options.add_argument("--seed", type=int, default=0)
    return options


def model_config(args: argparse.Namespace) -> ModelConfig:
    """Return the config of the model that the options name.

    Raises:
        InputError: they name none, or a depth that does not go with it.
    """
    if args.random == bool(args.model):
        raise InputError("give --model DIR with the published base, or --random to measure without weights")
    if not args.random:
        if args.layers or args.tiny:
            raise InputError("--layers and --tiny make another network than the base's; use them with --random")
        if args.data is None:
            raise InputError("give --data DIR with encoded clips, or --random to measure without data")
        return read_config(resolve_model_dir(args.model))
    dit = TINY if args.tiny else LIVE_AVATAR_14B.dit
    layers = args.layers or dit.num_layers
    if layers > LIVE_AVATAR_14B.dit.num_layers:
        raise InputError(f"--layers {layers}: the model has {LIVE_AVATAR_14B.dit.num_layers}; choose as many or fewer")
    injected = tuple(i for i in dit.audio_inject_layers if i < layers)
    return replace(LIVE_AVATAR_14B, dit=replace(dit, num_layers=layers, audio_inject_layers=injected))


def pixels(size: str) -> tuple[int, int]:
    """Parse `--size` into width and height.

    Raises:
        InputError: it is none, or no multiple of what the motion packer takes.
    """
    width, _, height = size.replace("x", "*").partition("*")
    multiple = LIVE_AVATAR_14B.size_multiple
    sides = [int(side) if side.isdigit() else 0 for side in (width, height)]
    if not all(sides) or any(side % multiple for side in sides):
        raise InputError(f"--size {size}: write width*height in multiples of {multiple}, such as 704*384")
    return sides[0], sides[1]


def window_size(args: argparse.Namespace, cfg: ModelConfig) -> WindowSize:
    """Parse `--size` and `--blocks` of random windows.

    Raises:
        InputError: one of them cannot be used.
    """
    width, height = pixels(args.size)
    stride = cfg.vae.spatial_stride
    return WindowSize(args.blocks, height // stride, width // stride)


def sharded_run(args: argparse.Namespace, cfg: ModelConfig, size: WindowSize, world: int) -> ShardedRun:
    """Return the dimensions of a run."""
    return ShardedRun(
        model=cfg,
        size=size,
        batch=args.batch,
        adapters=AdapterShape(args.lora_rank, args.lora_alpha),
        world=world,
        guidance=args.guidance != 1,
        causal_scores=args.scores == STREAM,
        anchor=bool(args.anchor),
    )


def estimate(args: argparse.Namespace) -> tuple[str, bool]:
    """Describe the memory of a rank on the GPUs of `--estimate`, and tell whether it fits the smallest of them.

    Raises:
        InputError: options cannot be used.
    """
    gpus = parse_gpus(args.estimate, "--estimate")
    if not gpus:
        raise InputError(f'--estimate {args.estimate}: name GPUs, such as "8x80GB"')
    args.random = args.random or not args.model
    cfg = model_config(args) if args.random else read_config(resolve_model_dir(args.model))
    run = sharded_run(args, cfg, window_size(args, cfg), len(gpus))
    parts = memory(run)
    lines = [f"{name:40} {gb:8.2f} GB" for name, gb in (*parts.items(), ("all", sum(parts.values())))]
    smallest = min(gpus, key=lambda gpu: gpu.usable_gb)
    fitting = fits(run, smallest)
    lines.append(
        f"a rank of {run.world} {'fits' if fitting else 'does not fit'} {smallest.name} "
        f"({smallest.usable_gb:.1f} GB usable); host memory of all ranks {host_memory(run):.0f} GB"
    )
    return "\n".join(lines), fitting
