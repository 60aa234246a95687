"""`python -m liveavatar.bench.live_speech`: how far the 14B's speech features heard through a window are from a file's.

A block of live sound is encoded from the newest seconds of it, a file in one pass over the whole
(`liveavatar.audio.encoders.wav2vec2`). For windows and look-aheads of several lengths the features of both are compared
on one track, at the same moments; what the released clock, which stretches a whole file, adds to that is told apart.
Without `--model` the network has the released shapes and random weights, which show what windows, borders
and clocks do to such a network, and not how much a trained one leans on far sound. Random attention spreads evenly;
`SHARP` makes it pick single moments, the harder case.
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
from liveavatar.audio.ingest import load_audio
from liveavatar.bench.dated import today, write_dated
from liveavatar.checkpoints.released import speech_dir
from liveavatar.config import LIVE_AVATAR_14B, SpeechConfig
from liveavatar.quality.split import FOLDER
from liveavatar.timing import BLOCK_FRAMES, BLOCK_SAMPLES, FPS, SAMPLE_RATE

# config.json of wav2vec2-large-xlsr-53, as far as it differs from transformers' defaults
XLSR: dict[str, Any] = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    "conv_bias": True, "feat_extract_norm": "layer", "do_stable_layer_norm": True,
}  # fmt: skip
WINDOWS = ((2.0, 0.16), (4.0, 0.16), (8.0, 0.16), (8.0, 0.32), (8.0, 0.96))  # seconds
SECONDS = 20.0  # of the track
STRIDE = 9  # every so many blocks one is compared
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


def load_track(seconds: float = SECONDS) -> np.ndarray:
    """Load voices of the evaluation split, one after the other: float32 mono 16 kHz."""
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


def main() -> None:
    """Compare, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a model directory in the released layout; none: random weights")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
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
