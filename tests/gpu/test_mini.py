"""The embedded model on a GPU: `load_engine` records its steps; streams are resumed to the bit and hear their pose."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from liveavatar.bench.gpu.build import bench_job, release
from liveavatar.bench.gpu.mini import distance, engine_of
from liveavatar.checkpoints.directory import read_config, resolve_model_dir
from liveavatar.engine.engine import Engine
from liveavatar.engine.job import StreamJob
from liveavatar.fast.backend import FastBackend
from liveavatar.load import load_engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")
BLOCKS = 9
RESUMED = 5  # block


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    release()


@pytest.fixture
def job() -> StreamJob:
    """A job whose head nods and whose lids close."""
    made = bench_job(read_config(resolve_model_dir("mini")), (256, 384), BLOCKS)
    track = np.zeros((made.num_frames, 4), np.float32)
    track[:, :3] = 0.2 * np.sin(np.arange(made.num_frames) / 20)[:, None]
    track[50:54, 3] = 1.0
    return replace(made, pose=track, portrait_pose=np.zeros(3, np.float32))


def latents(engine: Engine, job: StreamJob) -> torch.Tensor:
    return torch.stack([block.latents for block in engine.open(job).blocks(decode=False)])


def test_recorded_steps_are_as_near_to_fp32_as_kernels_one_by_one(job: StreamJob) -> None:
    expected = latents(engine_of("plain", CUDA, torch.float32), job)
    plain, recorded = (
        distance(latents(engine_of(mode, CUDA, torch.bfloat16), job), expected) for mode in ("plain", "recorded")
    )
    assert recorded < 1.3 * plain + 0.005, (recorded, plain)
    still = latents(engine_of("recorded", CUDA, torch.bfloat16), replace(job, pose=None))
    assert distance(still, expected) > 2 * recorded, "the pose is heard"


def test_a_stream_is_resumed_to_the_bit(job: StreamJob) -> None:
    engine = load_engine("mini", device="cuda")
    assert isinstance(engine.backend, FastBackend)
    made, state = [], {}
    for block in engine.open(job).blocks(snapshot_every=RESUMED):
        made.append(block)
        if block.state is not None and not state:
            state = {name: tensor.clone() for name, tensor in block.state.items()}
    stream = load_engine("mini", device="cuda").open(job)
    stream.restore(state)
    for got, wanted in zip(stream.blocks(), made[RESUMED:], strict=True):
        assert torch.equal(got.latents, wanted.latents)
        assert got.frames is not None
        assert wanted.frames is not None
        assert np.array_equal(got.frames, wanted.frames)
