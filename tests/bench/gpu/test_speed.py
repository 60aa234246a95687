"""Pace of a stream without its first blocks, and kernels by kind."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from liveavatar.bench.gpu import speed
from liveavatar.bench.gpu.build import DRY
from liveavatar.bench.gpu.speed import kind_of, measure_pace
from liveavatar.engine.job import Block


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_tst_192x192_64x4_2x1_v_bz_coopA_TNN", "linears"),
        ("cutlass::device_kernel<GemmUniversal>", "linears"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "attention"),
        ("_rms_rope_write", "fused kernels"),
        ("_write_values8", "fused kernels"),
        ("_attend8", "attention"),
        ("_enlarge", "fused kernels"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc", "decoder convolutions"),
        ("void at::native::vectorized_elementwise_kernel", "other elementwise"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
    ],
)
def test_kernels_are_sorted_by_name(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


class SlowStart:
    """An engine that opens in 2 s and whose blocks take 9 s before, and 0.5 or 1 s after, the rings are full.

    The last one is ready after 0.01 s, for nothing is denoised beside its decoding.
    """

    def __init__(self, warm: int) -> None:
        self.now, self.warm, self.closed = 0.0, warm, False

    def open(self, job: Any) -> Any:
        self.now += 2.0
        self.num_blocks = job.num_frames // 12
        return SimpleNamespace(blocks=self.blocks, close=lambda: setattr(self, "closed", True))

    def blocks(self) -> Iterator[Block]:
        for index in range(self.num_blocks):
            late = index >= self.warm
            last = index == self.num_blocks - 1
            self.now += 9.0 if not late else 0.01 if last else 1.0 if index == self.warm + 1 else 0.5
            step = 0.1 if late and not last else 5.0
            yield Block(index, torch.zeros(1), np.zeros(1), (step,), decode_s=step / 2)


def test_pace_leaves_out_the_blocks_before_and_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SlowStart(warm=3)
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: engine.now))
    kept: list[Block] = []
    found = measure_pace(engine, DRY, (16, 16), 5, kept, warm=3)
    assert (found["blocks"], found["fps"]) == (5, pytest.approx(12 * 5 / 3))
    assert (found["open_s"], found["first_frame_s"]) == (2.0, 11.0)
    assert (found["step_s"], found["decode_s"]) == (pytest.approx(0.1), pytest.approx(0.05))
    assert (found["block_p50_s"], found["block_p99_s"]) == (0.5, pytest.approx(0.98))
    assert found["p99_over_p50"] == pytest.approx(1.96)
    assert [b.index for b in kept] == [3, 4, 5, 6, 7]
    assert all(b.frames is None for b in kept)
    assert engine.closed
