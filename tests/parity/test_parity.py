"""The parity command on the trimmed reference set."""

from pathlib import Path

from liveavatar import parity

FP16_TOLERANCE = 1e-2  # the trimmed set is rounded to fp16


def test_trimmed_set(trimmed: Path) -> None:
    ran = {p.name: p.max_abs_difference for p in parity.run_parity(trimmed) if p.ok is not None}
    assert ran.keys() >= {"scheduler.sigmas", "dit.exactrope.prefill", "dit.exactrope.stream", "dit.exactrope.sampler"}
    assert {n: d for n, d in ran.items() if d > FP16_TOLERANCE} == {}
