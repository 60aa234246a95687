"""Denoise steps spread over GPUs: how fast, how busy each rank is, what travels, how much memory; one process a GPU,
or all of them on one, which then says what fits in how much memory and nothing about speed.

Every rank runs `RankRun.run`, the same list of phases. The last rank opens the jobs and sends the parent each result
as soon as it is known; a rank that fails ends them all.
"""

import logging
import os
import queue
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, multiprocessing
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from liveavatar.bench.gpu.build import Mode, bench_engine, bench_job, release
from liveavatar.bench.gpu.capped import CARD, Capped
from liveavatar.bench.gpu.ranks import (
    CIRCULAR,
    LAYERS,
    SHORT_BLOCKS,
    STEPS,
    WHOLE_STEPS,
    BenchRank,
    RanksPlan,
    everyone,
    rank_engine,
)
from liveavatar.bench.gpu.speed import WARM_BLOCKS, measure_pace
from liveavatar.config import ModelConfig
from liveavatar.distributed.balance import rank_times
from liveavatar.distributed.group import Group
from liveavatar.distributed.placement import DecodeLayers
from liveavatar.distributed.tpp import packet
from liveavatar.engine.placement import RankTimes, RankWork, share_layers
from liveavatar.hardware import GB, Gpu, as_installed, free_port, gpu_of
from liveavatar.planning.speed import decode_layers
from liveavatar.timing import BLOCK_FRAMES

log = logging.getLogger(__name__)

LOCALHOST = "127.0.0.1"
LIMIT_SECONDS = 240.0  # for any rank to answer another: a kernel's first use compiles it
TOTAL_SECONDS = 580.0
ALONE_BLOCKS = 8  # on one GPU
SMALL_LAYERS, SMALL_BLOCKS = 4, 8
ROUNDS = 3  # at most: layers spread by the table, and by measured times
# NVLink multicast is not needed, and where it is broken it takes the whole machine's GPUs along.
ENVIRONMENT = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NVSHMEM_DISABLE_NVLS": "1"}


def run_group(plan: RanksPlan, on_row: Callable[[str, Any], None]) -> None:
    """Start a process for every rank and pass on what they find: (section, row).

    Raises:
        RuntimeError: a rank failed, with its traceback, or took too long.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    context = multiprocessing.get_context("spawn")
    rows = context.Queue()
    port = free_port()
    began = time.monotonic()
    ranks = multiprocessing.start_processes(
        _rank, args=(plan, port, rows), nprocs=plan.world, join=False, start_method="spawn"
    )
    try:
        ended = False
        while not ended:
            ended = ranks.join(timeout=0.2)  # ends the others once one of them raises
            _pass_on(rows, on_row)
            if time.monotonic() - began > TOTAL_SECONDS:
                raise RuntimeError(f"{plan.world} ranks were not done after {TOTAL_SECONDS:.0f} s")
    except (ProcessExitedException, ProcessRaisedException) as e:
        log.error("rank %d failed: %s", e.error_index, e.msg)
        raise RuntimeError(f"rank {e.error_index}: {e.msg.strip().splitlines()[-1]}") from e
    finally:
        for process in ranks.processes:
            if process.is_alive():
                process.kill()
        _pass_on(rows, on_row)


def _pass_on(rows: Any, on_row: Callable[[str, Any], None]) -> None:
    try:
        while True:
            on_row(*rows.get(timeout=0.05))
    except queue.Empty:
        return


def _rank(rank: int, plan: RanksPlan, port: int, rows: Any) -> None:
    """Run one rank; entry point of its process."""
    logging.basicConfig(level=logging.INFO, format=f"rank {rank} %(relativeCreated)8.0f ms %(message)s")
    device = plan.device(rank)
    if plan.cpu:
        torch.set_num_threads(1)
    else:
        torch.cuda.set_device(device)
    RankRun(Group(rank, plan.world, device, LIMIT_SECONDS, plan.shared), plan, rows).run(port)


class RankRun:
    """One rank of the measurement, through all phases."""

    def __init__(self, group: Group, plan: RanksPlan, rows: Any) -> None:
        self.group, self.plan, self.rows = group, plan, rows
        self.last = group.rank == group.last
        self.device = group.device
        self.decode_layers: float | None = None  # as many layers take as long as decoding a block, by the table
        self.cold_s = 0.0  # of the newest short job

    def run(self, port: int) -> None:
        """Run all phases."""
        group, plan = self.group, self.plan
        if group.rank == 0:
            group.host(LOCALHOST, port)
        group.join((LOCALHOST, port))
        log.info("joined")
        for mode in plan.checked:
            self._verify(mode)
        for mode in plan.modes:
            self._speed(mode)
        if plan.capped:
            Capped(group, plan, self.tell, self.decode_layers).run()
        release()  # engines still refer to the group's connections
        group.leave()

    def tell(self, section: str, row: dict[str, Any]) -> None:
        """Pass a row on to the parent."""
        log.info("%s: %s", section, row)
        self.rows.put((section, row))

    def everyone(self, value: Any) -> list[Any]:
        """Gather a value of every rank on every rank."""
        return everyone(self.group, value)

    # Correctness -----------------------------------------------------------------------------------

    def _verify(self, mode: Mode) -> None:
        """A few narrow layers: spread over the ranks and on one, the latents are the same."""
        config, size = small_config(self.plan.config), (128, 64)
        engine = rank_engine(config, mode, self.group, self.plan.dtype, vae=self.last)
        job = bench_job(config, size, SMALL_BLOCKS, STEPS)
        alone: Tensor | None = None
        for layers in (None, SMALL_LAYERS / 2):
            engine.placement.decode_layers = layers
            if not self.last:
                engine.serve()
                continue
            made = _latents(engine, job)
            group, engine.placement.group = self.group, Group(0, 1, self.device)
            alone = _latents(engine, job)
            engine.placement.group = group
            self._tell_same(engine, mode, made, alone)
        del engine
        release()
        if self.plan.takes(CIRCULAR) and self.group.world <= SMALL_LAYERS:
            layers_of = share_layers(STEPS, SMALL_LAYERS, RankTimes((1.0,) * self.group.world, 1.0))
            engine = rank_engine(config, mode, self.group, self.plan.dtype, vae=self.last, layers=layers_of)
            if alone is None:
                engine.serve()
            else:
                self._tell_same(engine, mode, _latents(engine, job), alone)
            del engine
            release()

    def _tell_same(self, engine: BenchRank, mode: Mode, made: Tensor, alone: Tensor) -> None:
        what = f"{engine.split_name} over {self.group.world} ranks{' of one GPU' if self.plan.shared else ''}"
        self.tell("verify", asdict(_compare(f"{what}, {mode.name}", made, alone)))

    # Speed -----------------------------------------------------------------------------------------

    def _speed(self, mode: Mode) -> None:
        plan, began = self.plan, time.perf_counter()
        single = plan.single_fps if mode == plan.modes[0] else None
        first = self.group.rank == 0 and single is None and mode in plan.alone
        engine = rank_engine(plan.config, mode, self.group, self.plan.dtype, vae=self.last or first)
        self._wait()
        build_s = time.perf_counter() - began
        alone = self._alone(engine) if first else {}
        alone = self.everyone(alone)[0]
        if not self.last and engine.backend.vae is not None:
            engine.backend.drop_decoder()
        release()
        alone.setdefault("fps", single)
        more = {"build_s": build_s, "single_fps": alone["fps"], "single": alone}
        placement = engine.placement
        if plan.world <= STEPS + 1 and plan.takes(WHOLE_STEPS):
            self._record(engine)
            self._tell_pace(self._spread(engine, mode, SHORT_BLOCKS), more)
        # Layers: by the planner's table, and then by the times that the job before was measured to take.
        placement.own_decoder, placement.decode_layers_of = False, self._table(mode)
        before: tuple[RankWork, ...] = ()
        for _ in range((ROUNDS if mode == plan.modes[0] else ROUNDS - 1) if plan.takes(LAYERS) else 0):
            self._record(engine)
            works = engine.works(STEPS)
            if not self.everyone(works != before)[-1]:  # only the last rank knows the division
                break
            before = works
            self._tell_pace(self._spread(engine, mode, plan.blocks), more)
        self.decode_layers = placement.decode_layers
        del engine, placement
        release()
        if plan.takes(CIRCULAR):
            engine = rank_engine(
                plan.config, mode, self.group, plan.dtype, vae=self.last, layers=plan.layers(self._gpu())
            )
            self._record(engine)
            self._tell_pace(self._spread(engine, mode, plan.blocks), more)
            del engine
            release()

    def _table(self, mode: Mode) -> DecodeLayers:
        """Return the planner's prediction of how many layers take as long as decoding a block, or what is guessed."""
        guess = self.plan.guess
        if guess is not None:
            return lambda *_: guess
        return partial(decode_layers, self.plan.config, self._gpu().rates, mode.fp8)

    def _gpu(self) -> Gpu:
        """Look this GPU up in the planner's table."""
        if self.device.type != "cuda":
            return CARD
        facts = torch.cuda.get_device_properties(self.device)
        return as_installed(gpu_of(facts.name, facts.total_memory / GB))

    def _tell_pace(self, found: dict[str, Any], more: dict[str, Any]) -> None:
        if not self.last:
            return
        single = more["single_fps"]
        efficiency = found["fps"] / (self.plan.world * single) if single else None
        self.tell("tpp", found | more | {"efficiency": efficiency})

    def _alone(self, engine: BenchRank) -> dict[str, Any]:
        """Measure the same weights on one GPU."""
        plan = self.plan
        one = bench_engine(engine.backend, engine.bench.mode)
        found = measure_pace(one, plan.config, plan.size, ALONE_BLOCKS)
        one.forget_sizes()
        return {name: found[name] for name in ("fps", "block_p50_s", "step_s", "decode_s", "latents")}

    def _record(self, engine: BenchRank) -> None:
        """A short job, which records everything."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        if not self.last:
            engine.serve()
            return
        began = time.perf_counter()
        stream = engine.open(bench_job(self.plan.config, self.plan.size, 2, STEPS))
        for _ in stream.blocks():
            log.info("cold block after %.1f s", time.perf_counter() - began)
        stream.close()
        self.cold_s = time.perf_counter() - began

    def _spread(self, engine: BenchRank, mode: Mode, blocks: int) -> dict[str, Any]:
        """Measure a job on the resident group."""
        plan = self.plan
        if not self.last:
            engine.serve()
            self.everyone(self._memory(engine))
            return {}
        kept: list[Any] = []
        # Until rings are full everywhere, and what the change of the reference held up has passed through.
        row = measure_pace(engine, plan.config, plan.size, blocks, kept, WARM_BLOCKS + 2 * plan.world)
        works, current = engine.works(STEPS), engine.placement.current
        assert current is not None
        spec = current.spec
        where = self.everyone(self._memory(engine))
        names = ("busy_s", "wait_s", "sent_s")
        times = {name: np.median([getattr(b, name) for b in kept], axis=0).tolist() for name in names}
        ranks = [
            {
                "rank": work.rank,
                "role": work.role,
                "layers": work.num_layers_of(plan.config.dit.num_layers),
                **{name: times[name][work.rank] for name in names},
                "decode_s": row["decode_s"] if work.decodes else None,
                "sends_mib": packet(engine.backend, spec, work).num_bytes / 2**20 if not work.decodes else None,
                **where[work.rank],
            }
            for work in works
        ]
        size = f"{plan.size[0]}*{plan.size[1]}"
        facts = {
            "mode": mode.name,
            "gpus": plan.world,
            "size": size,
            "split": engine.split_name,
        }
        measured = rank_times([r["layers"] for r in ranks], times["busy_s"], times["wait_s"][-1], row["decode_s"])
        bound = BLOCK_FRAMES / measured.bound(STEPS * plan.config.dit.num_layers)
        return facts | row | {"cold_s": self.cold_s, "bound_fps": bound, "ranks": ranks}

    def _memory(self, engine: BenchRank) -> dict[str, Any]:
        cuda = self.device.type == "cuda"
        kept = engine.backend.runners.current
        return {
            "peak_gib": torch.cuda.max_memory_allocated() / GB if cuda else 0.0,
            "graphs": 0 if kept is None else kept.num_recorded,
        }

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def small_config(config: ModelConfig) -> ModelConfig:
    """A few narrow layers of a config, heads as wide as attention kernels like them."""
    dit = replace(
        config.dit, dim=256, num_heads=2, num_layers=SMALL_LAYERS, ffn_dim=512, audio_inject_layers=(0, 3), text_dim=16,
        text_len=8, audio_dim=8, audio_layers=3, freq_dim=32,
    )  # fmt: skip
    vae = replace(
        config.vae, encoder_widths=(4, 8, 8, 8), decoder_widths=(8, 8, 8, 4), num_res_blocks=1, prime_latents=2
    )
    return replace(config, dit=dit, vae=vae)


def _latents(engine: BenchRank, job: Any) -> Tensor:
    stream = engine.open(job)
    try:
        return torch.stack([b.latents for b in stream.blocks()])
    finally:
        stream.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Same:
    """Latents of two placements."""

    name: str
    distance: float  # largest difference over the largest value
    limit: float
    passed: bool


def _compare(name: str, made: Tensor, alone: Tensor) -> Same:
    distance = float((made - alone).abs().max() / alone.abs().max())
    limit = 2.0**-8  # one rounding in bf16
    finite = bool(torch.isfinite(made).all())
    return Same(name=name, distance=distance, limit=limit, passed=finite and distance <= limit)
