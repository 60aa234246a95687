"""`python -m liveavatar.bench.live_speech`: how far the 14B's speech features heard through a window are from a file's.

A block of live sound is encoded from the newest seconds of it, a file in one pass over the whole
(`liveavatar.audio.encoders.wav2vec2`). For windows and look-aheads of several lengths the features of both are compared
on one track, at the same moments; what the released clock, which stretches a whole file, adds to that is told apart.
Without `--model` the network has the released shapes and random weights, which show what windows, borders
and clocks do to such a network, and not how much a trained one leans on far sound. Random attention spreads evenly;
`SHARP` makes it pick single moments, the harder case.

With `--times` nothing is compared: only the time of one block's encoding is measured, for every window, on the GPU
where there is one, with random weights. `--layers N` makes a smaller network of it, to try the script.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from liveavatar import paths
from liveavatar.audio.encoders.wav2vec2 import (
    RELEASED_CLIP,
    block_frames,
    build_wav2vec2,
    hidden_states,
    load_wav2vec2,
    wav2vec2_features,
    window_features,
)
from liveavatar.audio.encoders.windows import window_samples
from liveavatar.bench.dated import today, write_dated
from liveavatar.checkpoints.released import speech_dir
from liveavatar.config import LIVE_AVATAR_14B, SpeechConfig
from liveavatar.hardware import GB
from liveavatar.timing import BLOCK_FRAMES, BLOCK_SAMPLES, FPS, SAMPLE_RATE

# config.json of wav2vec2-large-xlsr-53, as far as it differs from transformers' defaults
XLSR: dict[str, Any] = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    "conv_bias": True, "feat_extract_norm": "layer", "do_stable_layer_norm": True,
}  # fmt: skip
WINDOWS = ((2.0, 0.16), (4.0, 0.16), (8.0, 0.16), (8.0, 0.32), (8.0, 0.96))  # seconds
SECONDS = 20.0  # of the track
STRIDE = 9  # every so many blocks one is compared
WARM_BLOCKS, TIMED_BLOCKS = 5, 100
SHARP = 8.0  # queries of a random network are so much larger


@dataclass(frozen=True, kw_only=True, slots=True)
class Yardsticks:
    """Other distances to the whole track, to compare with."""

    neighbours: float  # of each frame to the one before it
    clock: float  # of the released features, whose clock is stretched, to those at the frames' own moments


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowRow:
    """A window, and what is heard through it."""

    window_s: float
    lookahead_s: float
    distance: float  # see `distance`
    block_ms: float  # to encode one block

    @property
    def line(self) -> str:
        """Write a row of the table."""
        return f"| {self.window_s:g} | {self.lookahead_s:g} | {self.distance:.3f} | {self.block_ms:.0f} |"


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeRow:
    """Milliseconds from a window of sound on the host to a block's features there."""

    window_s: float
    blocks: int
    p50_ms: float
    p99_ms: float
    peak_gib: float  # of GPU memory, weights included; 0 on a CPU

    @property
    def line(self) -> str:
        """Write a row of the table."""
        times = f"{self.p50_ms:.2f} | {self.p99_ms:.2f}"
        return f"| {self.window_s:g} | {self.blocks} | {times} | {self.peak_gib:.2f} |"


def random_network(config: dict[str, Any], sharpness: float = 1.0) -> nn.Module:
    """Make a network with seeded weights, as training begins with them; queries are `sharpness` times as large."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    torch.manual_seed(0)
    weights = Wav2Vec2ForCTC(Wav2Vec2Config(**config)).state_dict()
    for name in weights:
        if ".q_proj." in name:
            weights[name] = weights[name] * sharpness
    return build_wav2vec2(config, weights)


def distance(live_LCF: Tensor, whole_LCF: Tensor, mean_LC1: Tensor) -> float:
    """Compute the root mean square of live minus whole, over that of whole minus its mean in time; mean over states."""
    error = (live_LCF - whole_LCF).square().mean((1, 2)).sqrt()
    return float((error / (whole_LCF - mean_LC1).square().mean((1, 2)).sqrt()).mean())


@torch.inference_mode()
def compare(
    network: nn.Module, audio: np.ndarray, windows: Sequence[tuple[float, float]], speech: SpeechConfig
) -> tuple[list[WindowRow], Yardsticks]:
    """Compare features heard through windows with those of the whole track.

    Args:
        network: speech encoder.
        audio: float32 mono 16 kHz; the last of the compared blocks lies `max look-ahead` before its end.
        windows: (seconds, seconds of it after a block's end).
        speech: settings that the windows replace.

    Returns:
        A row a window, and distances to compare with.
    """
    device = next(network.parameters()).device
    samples = torch.from_numpy(audio).to(device)
    released = wav2vec2_features(network, samples, FPS, RELEASED_CLIP).cpu()
    states = hidden_states(network, samples)
    margin = round(max(lookahead for _, lookahead in windows) * SAMPLE_RATE)
    blocks = range(STRIDE - 1, (len(audio) - margin) // BLOCK_SAMPLES, STRIDE)
    track = torch.cat([block_frames(states, block).cpu() for block in range(blocks[-1] + 1)], dim=2)
    mean = track.mean(2, keepdim=True)
    frames = torch.cat([torch.arange(block * BLOCK_FRAMES, (block + 1) * BLOCK_FRAMES) for block in blocks])
    whole = track[:, :, frames]
    rows = []
    for seconds, lookahead in windows:
        length, after = window_samples(replace(speech, window_seconds=seconds, lookahead_seconds=lookahead))
        live, began = [], time.perf_counter()
        for block in blocks:
            end = (block + 1) * BLOCK_SAMPLES + after
            first = max(0, end - length)
            live.append(window_features(network, samples[first:end], block, first).cpu())
        spent = (time.perf_counter() - began) / len(blocks)
        apart = distance(torch.cat(live, 2), whole, mean)
        rows.append(WindowRow(window_s=seconds, lookahead_s=lookahead, distance=apart, block_ms=1000 * spent))
    yardsticks = Yardsticks(
        neighbours=distance(track[:, :, frames - 1], whole, mean), clock=distance(released[:, :, frames], whole, mean)
    )
    return rows, yardsticks


@torch.inference_mode()
def block_times(network: nn.Module, seconds: Sequence[float], blocks: int) -> list[TimeRow]:
    """Measure the encoding of one block at a time from windows of noise, as live sound is encoded.

    Args:
        network: speech encoder.
        seconds: lengths of windows.
        blocks: of each length, after a few that are not counted.
    """
    device = next(network.parameters()).device
    rng, rows = np.random.default_rng(0), []
    for length in seconds:
        times = []
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        for index in range(WARM_BLOCKS + blocks):
            window = torch.from_numpy(rng.uniform(-0.1, 0.1, round(length * SAMPLE_RATE)).astype(np.float32))
            block = round(length * SAMPLE_RATE) // BLOCK_SAMPLES - 1
            began = time.perf_counter()
            window_features(network, window.to(device), block, 0).cpu()  # waits for the GPU
            if index >= WARM_BLOCKS:
                times.append(1000 * (time.perf_counter() - began))
        peak = torch.cuda.max_memory_allocated(device) / GB if device.type == "cuda" else 0.0
        p50, p99 = np.percentile(times, (50, 99)).tolist()
        rows.append(TimeRow(window_s=length, blocks=blocks, p50_ms=p50, p99_ms=p99, peak_gib=peak))
    return rows


def times_page(rows: Sequence[TimeRow], layers: int, device: str) -> str:
    """Write the report of `--times`."""
    lines = [
        f"# Live speech features of {LIVE_AVATAR_14B.name}: time of a block, {today()}",
        "",
        f"On {device}, torch {torch.__version__}, fp32, {layers} layers, random weights of the shapes of "
        "wav2vec2-large-xlsr-53.",
        "Command: `python -m liveavatar.bench.live_speech --times`. From the window on the host to the features there.",
        f"A block is {1000 * BLOCK_FRAMES / FPS:.0f} ms of video; windows of the 14B have "
        f"{LIVE_AVATAR_14B.speech.window_seconds:g} s.",
        "",
        "| window, s | blocks | ms a block, P50 | P99 | GPU memory, GiB |",
        "|---|---|---|---|---|",
        *(row.line for row in rows),
    ]
    return "\n".join([*lines, ""])


def load_track(seconds: float = SECONDS) -> np.ndarray:
    """Load voices of the evaluation split, one after the other: float32 mono 16 kHz."""
    from liveavatar.audio.ingest import load_audio  # needs libraries for files, which `--times` does without
    from liveavatar.quality.split import FOLDER

    voices = [load_audio(path) for path in sorted(FOLDER.glob("*.speech.ogg"))]
    track: np.ndarray = np.concatenate(voices)[: round(seconds * SAMPLE_RATE)]
    return track


def page(tables: dict[str, tuple[list[WindowRow], Yardsticks]], device: str) -> str:
    """Write the report."""
    lines = [
        f"# Live speech features of {LIVE_AVATAR_14B.name}: a window against the whole file, {today()}",
        "",
        f"On {device}, torch {torch.__version__}, fp32. Command: `python -m liveavatar.bench.live_speech`.",
        "Distance: root mean square of the difference over that of the features about their mean in time, mean over",
        f"the 25 hidden states; {SECONDS:.0f} s of speech, every {STRIDE}th block. Milliseconds are of a busy machine.",
    ]
    for name, (rows, other) in tables.items():
        lines += ["", f"## {name}", "", f"Each frame to the one before it: {other.neighbours:.3f}."]
        lines += [f"The released clock, stretched over the whole file, to the frames' own: {other.clock:.3f}.", ""]
        lines += ["| window, s | of it after the block, s | distance | ms a block |", "|---|---|---|---|"]
        lines += [row.line for row in rows]
    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None) -> None:
    """Compare or measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a model directory in the released layout; none: random weights")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks")
    parser.add_argument("--times", action="store_true", help="measure the time of a block and nothing else")
    parser.add_argument("--layers", type=int, default=XLSR["num_hidden_layers"], help="of --times")
    parser.add_argument("--blocks", type=int, default=TIMED_BLOCKS, help="of --times, for each window")
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.times:
        network = random_network({**XLSR, "num_hidden_layers": options.layers}).to(device)
        found = block_times(network, sorted({seconds for seconds, _ in WINDOWS}), options.blocks)
        where = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
        text = times_page(found, options.layers, where)
        rows = {"device": where, "torch": torch.__version__, "rows": [asdict(row) for row in found]}
        sys.stdout.write(text + f"{write_dated(options.out, f'live_speech_times_{today()}', text, rows)}\n")
        return
    audio, speech, tables = load_track(), LIVE_AVATAR_14B.speech, {}
    networks: dict[str, Callable[[], nn.Module]] = {
        "random weights, even attention": lambda: random_network(XLSR),
        f"random weights, attention sharpened {SHARP:g} times": lambda: random_network(XLSR, SHARP),
    }
    if options.model is not None:
        networks = {"released weights": lambda: load_wav2vec2(speech_dir(options.model))}
    for name, make in networks.items():
        tables[name] = compare(make().to(device), audio, WINDOWS, speech)
    content = {name: {**asdict(other), "rows": [asdict(row) for row in rows]} for name, (rows, other) in tables.items()}
    sys.stdout.write(f"{write_dated(options.out, f'live_speech_{today()}', page(tables, device), content)}\n")


if __name__ == "__main__":
    main()
