"""Blocks of a stream, and their comparison."""

from dataclasses import replace

import numpy as np
import torch

from liveavatar.bench.gpu.build import BenchEngine
from liveavatar.bench.gpu.ranks import BenchRank
from liveavatar.engine.job import Block, StreamJob


def blocks_of(
    engine: BenchEngine | BenchRank, wanted: StreamJob, state: dict[str, torch.Tensor] | None = None, every: int = 0
) -> list[Block]:
    opened = engine.open(wanted)
    if state is not None:
        opened.restore(state)
    try:
        return [
            replace(b, state=b.state and {name: t.clone() for name, t in b.state.items()})
            for b in opened.blocks(snapshot_every=every)
        ]
    finally:
        opened.close()


def assert_equal(made: list[Block], expected: list[Block]) -> None:
    assert [b.index for b in made] == [b.index for b in expected]
    for ours, theirs in zip(made, expected, strict=True):
        assert torch.equal(ours.latents, theirs.latents)
        assert np.array_equal(ours.frames, theirs.frames)  # type: ignore[arg-type]
