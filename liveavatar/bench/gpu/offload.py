"""One small card: weights and rings in host memory, under the memory of a card, beside the planner's numbers.

The same stream with its rings on the GPU, where there is room, has the same latents.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from liveavatar.bench.gpu.build import BenchEngine, Mode, fast_engine, release
from liveavatar.bench.gpu.memory import memory_model
from liveavatar.bench.gpu.speed import measure_pace
from liveavatar.config import ModelConfig
from liveavatar.engine.memory import process_gb
from liveavatar.fast.copies import HostMemory
from liveavatar.hardware import GB, Gpu, gpu_of, host_memory_gb

log = logging.getLogger(__name__)

CARDS = (24.0, 16.0)  # GB, whose usable memory is the cap
BLOCKS = 5  # with full rings
LINK_BYTES, DRY_LINK_BYTES = 2**30, 2**12
_REPEATS = 3
HOST_MODES = (
    Mode(name="fp8 + fp8 rings", fp8=True, kv_cache_dtype="fp8", offload=True, rings_on_host=True),
    Mode(name="fp8 + 8-bit attention", fp8=True, kv_cache_dtype="int8", offload=True, rings_on_host=True),
    Mode(name="fp8", fp8=True, offload=True, rings_on_host=True),
)
# Each mode with its cards; None: no cap and rings on the GPU, which must make the same latents.
TRIES: tuple[tuple[Mode, float | None], ...] = (
    (HOST_MODES[0], CARDS[0]),
    (HOST_MODES[0], CARDS[1]),
    (HOST_MODES[0], None),
    (HOST_MODES[2], CARDS[1]),
    (HOST_MODES[2], None),
    (HOST_MODES[1], CARDS[1]),
)


class OffloadBench:
    """Measurements on one engine whose weights wait in host memory."""

    def __init__(self, config: ModelConfig, size: tuple[int, int], device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.size, self.device, self.dtype = config, size, device, dtype
        self.cuda = device.type == "cuda"
        self._engine: BenchEngine | None = None
        self._latents: dict[str, str] = {}  # digest by mode

    def measurements(self) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
        """List what is measured, by name, in order."""
        tries = [(f"{mode.name} {where_of(cap)}", partial(self.measure, mode, cap)) for mode, cap in TRIES]
        return [("the link to the host", self.link), *tries]

    def link(self) -> dict[str, Any]:
        """Measure GB/s (10^9 bytes) between pinned host memory and the GPU, one way and both ways at once."""
        num_bytes = LINK_BYTES if self.cuda else DRY_LINK_BYTES
        began = time.perf_counter()
        hosts = [HostMemory(num_bytes, self.device) for _ in range(2)]
        pinning = (time.perf_counter() - began) / 2
        here = [torch.empty(num_bytes, dtype=torch.uint8, device=self.device) for _ in range(2)]
        streams = [torch.cuda.Stream(self.device) if self.cuda else None for _ in range(2)]
        inward, outward = (here[0], hosts[0].bytes), (hosts[1].bytes, here[1])

        def rate(*ways: tuple[torch.Tensor, torch.Tensor]) -> float:
            best = 0.0
            for _ in range(_REPEATS):
                self._wait()
                started = time.perf_counter()
                for stream, (target, source) in zip(streams, ways, strict=False):
                    with torch.cuda.stream(stream):
                        target.copy_(source, non_blocking=True)
                self._wait()
                best = max(best, num_bytes / 1e9 / (time.perf_counter() - started))
            return best

        return {
            "pinned": all(host.pinned for host in hosts),
            "pin_s_per_gib": pinning * GB / num_bytes,
            "to_gpu_gb_s": rate(inward),
            "from_gpu_gb_s": rate(outward),
            "each_of_both_gb_s": rate(inward, outward),
        }

    def measure(self, mode: Mode, card_gb: float | None) -> dict[str, Any]:
        """Measure a stream in the memory of a card, or without a cap and with rings on the GPU."""
        engine = self._loaded()
        engine.mode = mode if card_gb else replace(mode, rings_on_host=False)
        engine.forget_sizes()
        release()
        card = self._card(card_gb)
        if self.cuda and card_gb:
            total = torch.cuda.get_device_properties(self.device).total_memory
            torch.cuda.set_per_process_memory_fraction(
                min(1.0, card.usable_gb * GB / total), torch.cuda.current_device()
            )
        row: dict[str, Any] = {
            "mode": mode.name,
            "rings": "host" if card_gb else "GPU",
            "size": f"{self.size[0]}*{self.size[1]}",
            "cap_gib": card.usable_gb if card_gb else None,
        }
        try:
            row |= self._stream(engine, mode) | {"fits": True}
        except torch.OutOfMemoryError as e:
            row |= {"fits": False, "error": str(e).splitlines()[0]}
        finally:
            if self.cuda:
                torch.cuda.set_per_process_memory_fraction(1.0, torch.cuda.current_device())
        row |= self._memory() | self._predicted(mode, card)
        row["off"] = row["predicted_gib"] / row["allocated_gib"] - 1 if self.cuda and row["fits"] else None
        return row

    def _stream(self, engine: BenchEngine, mode: Mode) -> dict[str, Any]:
        pace = measure_pace(engine, self.config, self.size, BLOCKS)
        kept = ("fps", "block_p50_s", "p99_over_p50", "step_s", "decode_s", "open_s", "first_frame_s", "latents")
        found = {name: pace[name] for name in kept if name in pace}
        wanted = self._latents.setdefault(mode.name, found["latents"])
        return found | {"same_latents": found["latents"] == wanted}

    def _memory(self) -> dict[str, Any]:
        """Read what is in use while the rings are there."""
        used, _ = host_memory_gb()
        return {
            "allocated_gib": torch.cuda.max_memory_allocated() / GB if self.cuda else 0.0,
            "reserved_gib": torch.cuda.max_memory_reserved() / GB if self.cuda else 0.0,
            "process_gib": process_gb(),
            "host_used_gib": used,
        }

    def _predicted(self, mode: Mode, card: Gpu) -> dict[str, Any]:
        model = memory_model(self.config, mode, self.size, (card,))
        load, host, (guess, _) = model.loads("single")[0], model.host("single", 1), model.pace("single")
        return {
            "predicted_gib": load.allocated,
            "predicted_parts": load.breakdown,
            "predicted_host_gib": host["total"] - host["encoders"],  # none here
            "predicted_host_parts": host,
            "predicted_fps": guess,
        }

    def _card(self, card_gb: float | None) -> Gpu:
        """Return this GPU with the memory of a card."""
        gpu = gpu_of(torch.cuda.get_device_name(self.device) if self.cuda else "H200", 141.0)
        return replace(gpu, memory_gb=card_gb) if card_gb else gpu

    def _loaded(self) -> BenchEngine:
        if self._engine is None:
            began = time.perf_counter()
            self._engine = fast_engine(self.config, HOST_MODES[0], self.device, self.dtype)
            release()
            log.info("weights in %.0f s: %.1f GB in this process", time.perf_counter() - began, process_gb())
        return self._engine

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)


def where_of(card_gb: float | None) -> str:
    """Say where the rings are: "in the memory of 24 GB"."""
    return f"in the memory of {card_gb:g} GB" if card_gb else "with rings on the GPU"
