"""Sizes that a group holds when each rank has the memory of a card of 24 GB, weights and rings in 8 bits.

A *try* makes all that a job needs on one rank, without the others, so that a rank for which there is no room says so
and the group lives on. What fits on every rank then streams.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from liveavatar.bench.gpu.build import FP8_ALL, bench_job, release
from liveavatar.bench.gpu.memory import predicted_ranks
from liveavatar.bench.gpu.ranks import (
    CIRCULAR,
    LAYERS,
    SHORT_BLOCKS,
    STEPS,
    TRYING,
    WHOLE_STEPS,
    BenchRank,
    RanksPlan,
    Tell,
    everyone,
    rank_engine,
)
from liveavatar.bench.gpu.speed import WARM_BLOCKS, measure_pace
from liveavatar.distributed.circular import circle
from liveavatar.distributed.group import Group
from liveavatar.distributed.tpp import packet
from liveavatar.engine.denoiser import Conditioning, DenoiseSpec
from liveavatar.engine.placement import SLOTS, RankWork
from liveavatar.engine.sampling import sigma_steps
from liveavatar.files import rounded
from liveavatar.hardware import GB, gpu_of
from liveavatar.model.motion import motion_tokens

log = logging.getLogger(__name__)

CARD = gpu_of("24 GB", 24.0)
CAP_GIB = CARD.usable_gb
_ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"


def size_text(size: tuple[int, int]) -> str:
    """Write a size as on the command line."""
    return f"{size[0]}*{size[1]}"


class _NoOthers:
    """Stands for the ranks that would make and take the sinks."""

    def __init__(self, dim: int, h: int, w: int, engine: BenchRank) -> None:
        self.shape, self.backend = ((h // 2) * (w // 2) + motion_tokens(h, w), dim), engine.backend

    def receive(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Make up what the layer before made."""
        device, dtype = self.backend.device, self.backend.dtype
        return torch.zeros(self.shape, device=device), torch.zeros(self.shape, dtype=dtype, device=device)

    def send(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Do nothing."""


class Capped:
    """One rank of the measurement under a cap."""

    def __init__(self, group: Group, plan: RanksPlan, tell: Tell, decode_layers: float | None) -> None:
        self.group, self.plan, self.tell = group, plan, tell
        self.last = group.rank == group.last
        self.cuda = group.device.type == "cuda"
        layers = decode_layers or plan.config.dit.num_layers / 2
        # Where time does not count, both ways: a rank with layers of two steps holds two rings, with a step only one.
        self.splits: list[float | None] = [layers] if plan.takes(LAYERS) else []
        if plan.shared and group.world <= STEPS and plan.takes(WHOLE_STEPS):
            self.splits.insert(0, None)
        self.weights_gib = 0.0

    def run(self) -> None:
        """Measure all sizes, where blocks go round with other weights on each rank."""
        if self.splits:
            self._sizes((), self.splits)
        if self.group.world > 1 and self.plan.takes(CIRCULAR):
            self._sizes(self.plan.layers(CARD), [None])

    def _sizes(self, layers: tuple[int, ...], splits: Sequence[float | None]) -> None:
        plan, device = self.plan, self.group.device
        names = {split: CIRCULAR if layers else WHOLE_STEPS if split is None else LAYERS for split in splits}
        tries = [(size, split) for size in plan.capped for split in splits]
        tries = [(size, split) for size, split in tries if (size_text(size), names[split]) not in plan.tried]
        if not tries:
            return
        # Without a copy in bf16, which several ranks of one GPU had no room for and which leaves holes behind.
        engine = rank_engine(plan.config, FP8_ALL, self.group, plan.dtype, vae=self.last, alike=True, layers=layers)
        release()
        if self.cuda:
            held = [f"{n / GB:.2f}" for n in (torch.cuda.memory_allocated(), torch.cuda.memory_reserved())]
            log.info("weights: %s GiB allocated, %s reserved", *held)
            self.weights_gib = torch.cuda.memory_allocated() / GB
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, CAP_GIB * GB / total), device)
        for size, decode_layers in tries:
            engine.placement.decode_layers = decode_layers
            row = self._row(engine, size)
            if self.last:
                self.tell("tpp_capped", row)
        del engine
        release()
        if self.cuda:
            torch.cuda.set_per_process_memory_fraction(1.0, device)

    def _row(self, engine: BenchRank, size: tuple[int, int]) -> dict[str, Any]:
        """Measure whether a size fits, and each rank's peak memory."""
        plan = self.plan
        engine.forget_sizes()
        release()
        works = engine.works(STEPS)
        row: dict[str, Any] = {
            "mode": FP8_ALL.name,
            "gpus": plan.world,
            "size": size_text(size),
            "split": engine.split_name,
            "cap_gib": CAP_GIB,
            "predicted_gib": rounded(predicted_ranks(plan.config, FP8_ALL, size, works, CARD), 2),
        }
        if plan.shared:
            row["shared"] = True
        if _ALLOCATOR in os.environ:
            row["allocator"] = os.environ[_ALLOCATOR]
        log.info("trying %s, %s: %s", row["size"], row["split"], works[self.group.rank].role)
        if self.last:
            self.tell(TRYING, row)
        reasons = everyone(self.group, self._try(engine, size, works))
        parts = everyone(self.group, self._parts(engine))
        named = [f"rank {rank}: {reason}" for rank, reason in enumerate(reasons) if reason]
        row |= {"fits": not named, "error": "; ".join(named) or None}
        if not named:
            row |= self._stream(engine, size)
        allocated, reserved, graphs = zip(*everyone(self.group, self._held(engine)), strict=True)
        return row | {
            "allocated_gib": rounded(allocated, 2),
            "reserved_gib": rounded(reserved, 2),
            "graphs": list(graphs),
            "parts_gib": parts,
        }

    def _parts(self, engine: BenchRank) -> dict[str, float]:
        """Measure what this rank holds by purpose after its try, in GiB, and what its allocator has beside."""
        kept = engine.backend.runners.current
        if not self.cuda or kept is None:
            return {}
        sinks = [*kept.sink.k, *kept.sink.v]
        rings = [t for ring in kept.rings for t in ring.tensors().values()]
        text = [t for pair in (kept.cond.text_kv if kept.cond else []) for t in pair]
        runner = engine.backend.decode_runner(kept.h, kept.w) if self.last else None
        state = [] if runner is None else [t for name, t in runner.state.tensors().items() if name != "position"]
        named = {"rings": rings, "sinks": sinks, "text": text, "decoder state": state}
        parts = {name: sum(t.numel() * t.element_size() for t in tensors) / GB for name, tensors in named.items()}
        stats = torch.cuda.memory_stats()
        free = stats["inactive_split_bytes.all.current"] / GB
        now = {"held": torch.cuda.memory_allocated(), "most held": torch.cuda.max_memory_allocated()}
        now |= {"reserved": torch.cuda.memory_reserved(), "most reserved": torch.cuda.max_memory_reserved()}
        parts = {"weights": self.weights_gib} | parts | {name: size / GB for name, size in now.items()}
        return {name: round(size, 3) for name, size in (parts | {"in pieces": free}).items()}

    def _held(self, engine: BenchRank) -> tuple[float, float, int]:
        """Read the GiB allocated and reserved at most on this rank, and how many graphs its steps have."""
        kept = engine.backend.runners.current
        graphs = 0 if kept is None else kept.num_recorded
        if not self.cuda:
            return 0.0, 0.0, graphs
        return torch.cuda.max_memory_allocated() / GB, torch.cuda.max_memory_reserved() / GB, graphs

    def _stream(self, engine: BenchRank, size: tuple[int, int]) -> dict[str, Any]:
        """Run a short job of the group: rings full, the reference changed."""
        if not self.last:
            engine.serve()
            return {}
        if not self.plan.shared:
            return measure_pace(engine, self.plan.config, size, SHORT_BLOCKS)
        stream = engine.open(bench_job(self.plan.config, size, WARM_BLOCKS, STEPS))
        try:
            return {"blocks": sum(1 for _ in stream.blocks())}
        finally:
            stream.close()

    def _try(self, engine: BenchRank, size: tuple[int, int], works: tuple[RankWork, ...]) -> str | None:
        """Make everything that jobs need here, without the others; why it does not fit, or None."""
        config, device, dtype = self.plan.config, self.group.device, self.plan.dtype
        job = bench_job(config, size, SHORT_BLOCKS, STEPS)
        stride = config.vae.spatial_stride
        h, w = size[1] // stride, size[0] // stride
        spec = DenoiseSpec(
            settings=replace(job.settings, kv_cache_dtype=FP8_ALL.kv_cache_dtype, fp8=FP8_ALL.fp8),
            sigmas=sigma_steps(config, STEPS),
            num_blocks=SHORT_BLOCKS,
            h=h,
            w=w,
        )
        work = works[self.group.rank]
        try:
            with torch.inference_mode():
                if self.last:
                    engine.backend.still_latents(job.image)
                motion = torch.zeros(1, config.dit.in_dim, config.dit.motion_latents, h, w, dtype=dtype, device=device)
                text = engine.bench.engine.encode_prompt(job.settings.prompt).to(dtype)
                kept = [torch.empty(n, dtype=torch.uint8, device=device) for n in self._wires(engine, spec, works)]
                if work.steps:
                    conditioning = Conditioning(text, motion[:, :, :1], motion)
                    made = engine.backend.denoiser(spec, conditioning, work, _NoOthers(config.dit.dim, h, w, engine))
                    made.reanchor(motion[:, :, :1])  # in mid-stream, beside the rings
                if self.last:
                    self._decode(engine, motion)
                    engine.backend.still_latents(job.image)  # of the next job, beside what is kept of this one
                self._wait()
                del kept
        except torch.OutOfMemoryError as e:
            log.info("%s does not fit: %s", size, e)
            engine.forget_sizes()
            return str(e).splitlines()[0].split(" GPU ")[0]
        return None

    def _decode(self, engine: BenchRank, motion: torch.Tensor) -> None:
        """Begin as a job does, and decode a block as its stream does."""
        runner = engine.backend.decode_runner(*motion.shape[-2:])
        if runner is None:
            return
        runner.begin(motion[:, :, : engine.backend.config.vae.prime_latents])
        self._wait()
        with torch.cuda.stream(runner.stream):
            runner.run()

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def _wires(self, engine: BenchRank, spec: DenoiseSpec, works: tuple[RankWork, ...]) -> Iterator[int]:
        """Bytes of the buffers for what travels."""
        rank = self.group.rank
        if works[rank].circular and rank in (0, self.group.last):
            yield SLOTS * circle(engine.backend, spec).num_bytes
        for work in (*works[rank - 1 : rank], *(() if self.last else (works[rank],))):
            yield SLOTS * packet(engine.backend, spec, work).num_bytes
