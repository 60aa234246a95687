"""Pace and first frame at fewer denoise steps, on a few thousand weights."""

import pytest
import torch

from liveavatar.bench.gpu.build import DRY, FP8, fast_engine
from liveavatar.bench.gpu.steps import FIRST_FRAMES, STEPS, first_frame, measure_steps

CPU = torch.device("cpu")
SIZE = (64, 64)


@pytest.mark.nightly
def test_a_row_for_each_number_of_steps() -> None:
    rows = measure_steps(DRY, FP8, SIZE, 2, CPU, torch.float32)
    assert [(row["mode"], row["size"], row["sample_steps"]) for row in rows] == [("fp8", "64*64", n) for n in STEPS]
    for row, steps in zip(rows, STEPS, strict=True):
        assert row["blocks"] == 2
        assert row["step_s"] > 0
        assert row["block_p50_s"] > 0.5 * steps * row["step_s"], "all steps of a block count"


def test_a_first_frame_is_the_median_of_several() -> None:
    engine = fast_engine(DRY, FP8, CPU, torch.float32)
    opened = []

    class Counting:
        def open(self, job: object) -> object:
            opened.append(job.settings.sample_steps)  # type: ignore[attr-defined]
            return engine.open(job)  # type: ignore[arg-type]

    assert first_frame(Counting(), DRY, SIZE, 3) > 0  # type: ignore[arg-type]
    assert opened == [3] * FIRST_FRAMES
