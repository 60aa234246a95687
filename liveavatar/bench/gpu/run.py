"""All measurements in order; what has been measured is on disk after each, so a cut run keeps its numbers."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch

from liveavatar.bench.gpu.attention import measure_attention
from liveavatar.bench.gpu.build import (
    ATTENTION8,
    BF16,
    BF16_ATTENTION8,
    BF16_RINGS8,
    DRY,
    E4M3,
    FP8,
    FP8_ALL,
    FP8_PYTORCH,
    OFFLOADED,
    fast_engine,
    release,
)
from liveavatar.bench.gpu.memory import measure_capped, measure_memory
from liveavatar.bench.gpu.mini import SIZES as MINI_SIZES
from liveavatar.bench.gpu.mini import measure_mini
from liveavatar.bench.gpu.offload import OffloadBench
from liveavatar.bench.gpu.ranks import SPLITS, TRYING, RanksPlan
from liveavatar.bench.gpu.report import to_markdown
from liveavatar.bench.gpu.speed import measure_fast, measure_plain
from liveavatar.bench.gpu.steps import measure_steps
from liveavatar.bench.gpu.tpp import run_group
from liveavatar.bench.gpu.verify import verify
from liveavatar.config import LIVE_AVATAR_14B, ModelConfig
from liveavatar.errors import InputError, LiveAvatarError
from liveavatar.fast import ops
from liveavatar.fast.flash3 import PACKAGE, flash3
from liveavatar.paths import BENCHMARKS
from liveavatar.planning.plan import video_size

log = logging.getLogger(__name__)

SECTIONS = ("verify", "attention", "speed", "steps", "memory", "caps", "mini")  # on one GPU
GROUP_SECTION = "tpp"  # on several; only when asked for
OFFLOAD_SECTION = "offload"  # on one, with 70 GiB of host memory; only when asked for
EXTRA_SECTIONS = (GROUP_SECTION, OFFLOAD_SECTION)
CAPPED_SIZES = ((704, 384), (640, 320), (576, 320), (384, 256))  # tried on several cards of 24 GB
# Tried by ranks that share a GPU, smallest first: when one ends them, the report has the sizes before it.
SHARED_SIZES = ((384, 256), (448, 256), (512, 256), (448, 320), (512, 320), (576, 320), (640, 320))
GROUP_BLOCKS, QUICK_GROUP_BLOCKS = 40, 24
FULL_SIZE = (704, 384)
AREAS = ((384, 256), (688, 368), (704, 384), (720, 400))  # of the memory table; a size is the nearest that is allowed
SMALL_SIZE = (384, 256)
MINI_DRY = (128, 128)
BLOCKS, QUICK_BLOCKS, DRY_BLOCKS = 30, 20, 3
REPORTS = BENCHMARKS
# What one measurement may end with while the others go on.
_NOTED: tuple[type[Exception], ...] = (RuntimeError, AssertionError, LiveAvatarError, *ops.compile_errors())
PLAIN = "plain"  # name of the plain engine among the modes of the section "speed"
SPEED_MODES = {
    mode.name: mode for mode in (FP8, BF16, FP8_ALL, BF16_RINGS8, ATTENTION8, E4M3, BF16_ATTENTION8, FP8_PYTORCH)
}
_ROOMY = 100e9  # bytes of GPU memory from which bf16 weights and bf16 rings fit together
_HOPPER_48, _CARD_24 = 48.0, 24.0  # GB of 10^9 bytes, as cards are sold


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuOptions:
    """Options of a run."""

    out: Path
    quick: bool = False  # fewer blocks, no grid of memory
    dry_run: bool = False  # a few thousand weights on the CPU: proves the script, measures nothing
    only: tuple[str, ...] = SECTIONS
    modes: tuple[str, ...] = ()  # of the section "speed"; none: those that the GPU has room for, and the plain one
    gpus: int = 4  # of the section "tpp"
    shared: bool = False  # section "tpp" with all its ranks on one GPU, through host memory: what fits, no speed
    sizes: tuple[tuple[int, int], ...] = ()  # tried under the cap of the section "tpp"; none: the usual ones
    splits: tuple[str, ...] = ()  # of the section "tpp"; none: all
    guess: float | None = None  # of "tpp": layers that decoding counts as until times are measured; None: the planner's
    single_fps: float | None = None  # of one GPU with 8-bit weights; measured first when it is not known


def _refuse_unknown(option: str, what: str, named: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = set(named) - set(known)
    if unknown:
        raise InputError(f"{option} {', '.join(sorted(unknown))}: {what} are {', '.join(known)}")


def run(options: GpuOptions) -> dict[str, Any]:
    """Measure, write `bench_gpu.json` and `bench_gpu.md` to `options.out` and the page to `data/benchmarks`.

    Raises:
        InputError: no GPU, or an unknown section or mode.
    """
    _refuse_unknown("--modes", "modes", options.modes, (*SPEED_MODES, PLAIN))
    _refuse_unknown("--splits", "ways of dividing", options.splits, SPLITS)
    _refuse_unknown("--only", "sections", options.only, (*SECTIONS, *EXTRA_SECTIONS))
    if GROUP_SECTION in options.only and options.gpus < 2:
        raise InputError(f"--gpus {options.gpus}: {GROUP_SECTION} spreads steps over 2 GPUs or more")
    if options.shared and options.only != (GROUP_SECTION,):
        raise InputError(
            f"--shared: ranks share a GPU in the section {GROUP_SECTION}; use it with --only {GROUP_SECTION}"
        )
    if not options.dry_run and not torch.cuda.is_available():
        raise InputError("bench gpu: PyTorch sees no GPU here; on the CPU use `liveavatar bench cpu`")
    spread = GROUP_SECTION in options.only and not options.shared
    if spread and not options.dry_run and torch.cuda.device_count() < options.gpus:
        raise InputError(
            f"--gpus {options.gpus}: PyTorch sees {torch.cuda.device_count()} GPUs here; use --gpus 2 to that, or "
            "--shared for what fits in how much memory"
        )
    return GpuBench(options).run()


class GpuBench:
    """One run."""

    def __init__(self, options: GpuOptions) -> None:
        self.options = options
        dry = options.dry_run
        self.device = torch.device("cpu" if dry else "cuda")
        self.dtype = torch.float32 if dry else torch.bfloat16
        self.config: ModelConfig = DRY if dry else LIVE_AVATAR_14B
        self.full, self.small = ((128, 64), (64, 64)) if dry else (FULL_SIZE, SMALL_SIZE)
        self.blocks = DRY_BLOCKS if dry else QUICK_BLOCKS if options.quick else BLOCKS
        self.started = time.perf_counter()
        options.out.mkdir(parents=True, exist_ok=True)
        self.results: dict[str, Any] = {"model": self.config.name, "machine": self._machine(), "errors": {}}

    def run(self) -> dict[str, Any]:
        """Measure the requested sections."""
        for section in self.options.only:
            getattr(self, f"_{section}")()
        if not self.options.dry_run:
            REPORTS.mkdir(parents=True, exist_ok=True)
            name = self.results["machine"]["gpu"].lower().replace(" ", "-")
            name += f"-x{self.options.gpus}" if self.options.only == (GROUP_SECTION,) else ""
            name += "-shared" if self.options.shared else ""
            name += f"-{OFFLOAD_SECTION}" if self.options.only == (OFFLOAD_SECTION,) else ""
            (REPORTS / f"{self.results['machine']['date']}-{name}.md").write_text(to_markdown(self.results))
        return self.results

    def _machine(self) -> dict[str, Any]:
        try:
            from triton import __version__ as triton
        except ImportError:
            triton = "missing"
        cuda = self.device.type == "cuda"
        return {
            "gpu": torch.cuda.get_device_name() if cuda else "CPU",
            "date": time.strftime("%Y-%m-%d"),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version() if cuda else None,
            "triton": triton,
            "fa3_fwd": version(PACKAGE) if flash3(self.device) else None,
            "kernels": "on" if ops.backend(self.device).__name__.endswith("kernels") else "off",
            "dry_run": self.options.dry_run,
            "seconds": 0.0,
        }

    def _measure(self, section: str, name: str, work: Callable[[], Any]) -> Any:
        """Run one measurement; what goes wrong is noted and the next one runs."""
        began = time.perf_counter()
        release()
        try:
            found = work()
        except _NOTED as e:
            reason = f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
            log.exception("%s failed", name)
            self.results["errors"][name] = reason
            found = None
        else:
            self._add(section, found if isinstance(found, list) else [found])
        log.info("%s: %.0f s", name, time.perf_counter() - began)
        self._write()
        release()
        return found

    def _add(self, section: str, rows: list[Any]) -> None:
        """Add measured rows to the results on disk."""
        self.results.setdefault(section, []).extend(rows)
        self._write()

    def _write(self) -> None:
        self.results["machine"]["seconds"] = time.perf_counter() - self.started
        (self.options.out / "bench_gpu.json").write_text(json.dumps(self.results, indent=1, default=str))
        (self.options.out / "bench_gpu.md").write_text(to_markdown(self.results))

    def _tpp(self) -> None:
        options, dry, shared = self.options, self.options.dry_run, self.options.shared
        usual = ((64, 64),) if dry else SHARED_SIZES if shared else CAPPED_SIZES
        modes = tuple(SPEED_MODES[name] for name in options.modes if name != PLAIN) or ((FP8,) if dry else (FP8, BF16))
        plan = RanksPlan(
            config=self.config,
            world=options.gpus,
            size=self.small if dry else self.full,
            blocks=DRY_BLOCKS if dry else QUICK_GROUP_BLOCKS if options.quick else GROUP_BLOCKS,
            checked=(FP8_ALL,) if dry else (BF16, FP8_ALL),
            modes=() if shared else modes,
            capped=options.sizes or usual,
            single_fps=options.single_fps,
            guess=options.guess,
            splits=options.splits,
            alone=modes[:1] if options.quick else modes,
            shared=shared,
            cpu=dry,
        )

        self._measure(GROUP_SECTION, f"steps spread over {plan.world} processes", partial(self._run_ranks, plan))

    def _run_ranks(self, plan: RanksPlan) -> list[Any]:
        """Run a group; where a size under the cap ends its ranks, note that, and go on with the others in new ones."""
        begun: dict[str, Any] | None = None

        def tell(section: str, row: dict[str, Any]) -> None:
            nonlocal begun
            begun = row if section == TRYING else None
            if section != TRYING:
                self._add(section, [row])

        while True:
            try:
                run_group(plan, tell)
                return []
            except RuntimeError as e:
                if begun is None:
                    raise
                lost = {"fits": False, "error": str(e), "allocated_gib": [], "reserved_gib": [], "graphs": []}
                self._add("tpp_capped", [begun | lost])
                tried = tuple((row["size"], row["split"]) for row in self.results["tpp_capped"])
                plan, begun = replace(plan, checked=(), modes=(), tried=tried), None

    def _verify(self) -> None:
        self._measure("verify", "verify", lambda: verify(self.config, self.small, self.device, self.dtype))

    def _attention(self) -> None:
        work = partial(measure_attention, self.config, self.full, self.device, self.dtype)
        self._measure("attention", "attention alone", work)

    def _speed(self) -> None:
        roomy = self.device.type == "cpu" or torch.cuda.get_device_properties(self.device).total_memory > _ROOMY
        usual = [ATTENTION8.name, FP8.name, (BF16 if roomy else BF16_RINGS8).name, FP8_ALL.name, PLAIN]
        if self.device.type == "cpu" or flash3(self.device) is not None:
            usual += [E4M3.name, FP8_PYTORCH.name]
        where = (self.device, self.dtype)
        for name in self.options.modes or usual:
            if name == PLAIN:
                work = partial(measure_plain, self.config, self.full, *where)
            else:
                work = partial(measure_fast, self.config, SPEED_MODES[name], self.full, self.blocks, *where)
            self._measure("speed", f"speed of {name}", work)

    def _steps(self) -> None:
        flash = self.device.type == "cpu" or flash3(self.device) is not None
        for mode in (FP8, ATTENTION8, *([E4M3] if flash else [])):
            work = partial(measure_steps, self.config, mode, self.full, self.blocks, self.device, self.dtype)
            self._measure("steps", f"fewer steps of {mode.name}", work)

    def _mini(self) -> None:
        dry = self.options.dry_run
        work = partial(measure_mini, (MINI_DRY,) if dry else MINI_SIZES, self.blocks, self.device, self.dtype)
        self._measure("mini", "the embedded model", work)

    def _memory(self) -> None:
        whole = not (self.options.quick or self.options.dry_run)
        sizes = sorted({video_size(self.config, a, a) for a in AREAS}) if whole else [self.full]
        for modes in ((FP8, FP8_ALL), (BF16, BF16_RINGS8)):
            engine = fast_engine(self.config, modes[0], self.device, self.dtype)
            for mode, size in product(modes, sizes):
                work = partial(measure_memory, self.config, engine, mode, size, self.device)
                self._measure("memory", f"memory of {mode.name} at {size[0]}*{size[1]}", work)
                del work
            engine.forget_sizes()
            del engine

    def _offload(self) -> None:
        bench = OffloadBench(self.config, self.full, self.device, self.dtype)
        for name, work in bench.measurements():
            self._measure("link" if work == bench.link else OFFLOAD_SECTION, name, work)

    def _caps(self) -> None:
        for mode, size, cap in ((FP8_ALL, self.full, _HOPPER_48), (OFFLOADED, self.small, _CARD_24)):
            work = partial(measure_capped, self.config, mode, size, cap, self.device, self.dtype)
            self._measure("capped", f"{mode.name} within {cap:.0f} GB", work)
