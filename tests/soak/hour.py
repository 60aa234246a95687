"""One hour of film through the whole block loop: memory stays flat and every block takes the same time.

    python -m tests.soak.hour --blocks 7500 --out data/benchmarks/hour.json

A random model of a few weights renders a small picture online: rings, decoder, spool, snapshots, film and live playlist
are those of any job, so what grows with length would show. Every reading is a line of JSON.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from scipy.io import wavfile
from torch import Tensor

from liveavatar.config import ModelConfig
from liveavatar.engine.settings import RenderSettings
from liveavatar.load import load_engine
from liveavatar.render.job import Progress, RenderJob, run_job
from liveavatar.render.sound import CompleteSound
from liveavatar.timing import BLOCK_FRAMES, SAMPLES_PER_FRAME

HOUR_BLOCKS = 7500
SIZE = (128, 128)  # pixels, the smallest the model takes
WARM = 0.2  # share of the readings before rings, allocator and libraries have found their size
MB = 1e6
MAX_GROWTH_MB = 5.0  # of an hour
MAX_SLOWER = 1.25  # last fifth of the blocks against the fifth after the warm-up


@dataclass(frozen=True, slots=True)
class Endless:
    """A second of features again and again."""

    tensor: Tensor
    shape: tuple[int, ...]

    def __getitem__(self, frames: slice) -> Tensor:
        return self.tensor[:, :, [i % self.tensor.shape[2] for i in range(frames.start, frames.stop)]]


@dataclass(frozen=True, slots=True)
class EndlessSound:
    """A sound source whose features need no file as long as the film."""

    audio: Path
    num_frames: int

    def open(self, config: ModelConfig) -> CompleteSound:
        """Repeat a second of noise."""
        noise = torch.randn(5, 768, 25, generator=torch.Generator().manual_seed(0))
        return CompleteSound(Endless(noise, (5, 768, self.num_frames)), self.audio, self.num_frames)


def measure(model_dir: Path, folder: Path, blocks: int, tell: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Render so many blocks and record memory and time all along.

    Returns:
        `readings` (list of {block, rss_mb, block_ms by the clock, cpu_ms of this process, which other load does not
        change}), `growth_mb` from the end of the warm-up to the end (`growth`), `first_ms`
        and `last_ms` (processor time a block, first quartile of a fifth of the readings each: what runs beside us
        slows many blocks down, growth slows all).
    """
    frames = blocks * BLOCK_FRAMES
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)).save(
        folder / "face.png"
    )
    sound = np.zeros(frames * SAMPLES_PER_FRAME, np.int16)
    wavfile.write(folder / "voice.wav", 16_000, sound)
    del sound
    job = RenderJob(
        digest=hashlib.sha256(b"hour").hexdigest(), work_dir=folder / "work", image=folder / "face.png",
        sound=EndlessSound(folder / "voice.wav", frames), settings=RenderSettings(prompt="a calm woman"), online=True,
    )  # fmt: skip
    process, every = psutil.Process(), max(1, blocks // 100)
    readings: list[dict[str, float]] = []
    marks: list[float] = []
    spent = [time.process_time()]  # seconds of processor, of all threads

    def look(progress: Progress) -> None:
        marks.append(time.perf_counter())
        if progress.done % every == 0:
            recent = np.diff(marks[-every - 1 :])
            rss = process.memory_info().rss / MB
            block_ms = round(1000 * statistics.median(recent), 2) if len(recent) else 0.0
            spent.append(time.process_time())
            cpu_ms = round(1000 * (spent[-1] - spent[-2]) / every, 2)
            readings.append({"block": progress.done, "rss_mb": round(rss, 2), "block_ms": block_ms, "cpu_ms": cpu_ms})
            tell(json.dumps(readings[-1]))

    engine = load_engine(model_dir, device="cpu", dtype="float32")
    result = run_job(engine, job, look)
    assert result.num_frames == frames
    assert len(result.rows) == blocks
    settled = readings[round(len(readings) * WARM) :]
    times = [r["cpu_ms"] for r in settled]
    fifth = max(1, len(readings) // 5)
    return {
        "blocks": blocks,
        "film_s": frames / 25,
        "wall_s": round(result.render_s, 1),
        "growth_mb": round(growth([(r["block"], r["rss_mb"]) for r in settled]), 2),
        "first_ms": round(float(np.quantile(times[:fifth], 0.25)), 2),
        "last_ms": round(float(np.quantile(times[-fifth:], 0.25)), 2),
        "rss_mb": settled[-1]["rss_mb"],
        "readings": readings,
    }


def growth(readings: Sequence[tuple[float, float]]) -> float:
    """Estimate how much memory grew over readings of (block, megabytes), in megabytes.

    A straight line through the readings without their largest single step: an allocator may take one arena at any time,
    a leak goes on.
    """
    blocks, megabytes = zip(*readings, strict=True)
    steps = np.diff(megabytes, prepend=megabytes[0])
    steps[np.argmax(steps)] = 0.0
    return float(np.polyfit(blocks, np.cumsum(steps), 1)[0]) * (blocks[-1] - blocks[0])


def judge(measured: dict[str, Any]) -> list[str]:
    """List what is wrong with a measurement; nothing when memory is flat and time constant."""
    wrong = []
    allowed = max(MAX_GROWTH_MB * measured["blocks"] / HOUR_BLOCKS, 3.0)
    if measured["growth_mb"] > allowed:
        wrong.append(f"memory grew by {measured['growth_mb']} MB, more than {allowed:.1f}")
    if measured["last_ms"] > MAX_SLOWER * measured["first_ms"]:
        wrong.append(f"blocks take {measured['last_ms']} ms at the end, {measured['first_ms']} at the start")
    return wrong


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the command line; 1 when memory grows or blocks slow down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=HOUR_BLOCKS)
    parser.add_argument("--out", type=Path, help="write the measurement there as JSON")
    options = parser.parse_args()
    from tests.conftest import make_tiny_model

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model_dir = make_tiny_model(Path(folder) / "tiny")
        measured = measure(model_dir, Path(folder), options.blocks, _say)
    if options.out:
        options.out.write_text(json.dumps(measured, indent=1) + "\n")
    wrong = judge(measured)
    _say(json.dumps({k: v for k, v in measured.items() if k != "readings"} | {"wrong": wrong}))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
