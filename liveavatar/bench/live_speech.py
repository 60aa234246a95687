"""`python -m liveavatar.bench.live_speech`: how far the 14B's speech features heard through a window are from a file's.

A block of live sound is encoded from the newest seconds of it, a file in one pass over the whole
(`liveavatar.audio.encoders.wav2vec2`). For windows and look-aheads of several lengths the features of both are compared
on one track. Without `--model` the network has the released shapes and random weights, which show what windows, borders
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
    build_wav2vec2,
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
WINDOWS = ((2.0, 0.16), (4.0, 0.16), (8.0, 0.16), (16.0, 0.16), (8.0, 0.32), (8.0, 0.64), (8.0, 1.28))  # seconds
SECONDS = 24.0  # of the track
STRIDE = 9  # every so many blocks one is compared
SHARP = 8.0  # queries of a random network are so much larger


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
) -> tuple[list[WindowRow], float]:
    """Compare features heard through windows with those of the whole track.

    Args:
        network: speech encoder.
        audio: float32 mono 16 kHz; the last of the compared blocks lies `max look-ahead` before its end.
        windows: (seconds, seconds of it after a block's end).
        speech: settings that the windows replace.

    Returns:
        A row a window, and the distance between neighbouring frames of the whole track, to compare with.
    """
    device = next(network.parameters()).device
    samples = torch.from_numpy(audio).to(device)
    whole = wav2vec2_features(network, samples, FPS, RELEASED_CLIP)[:, :, : len(audio) * FPS // SAMPLE_RATE]
    mean = whole.mean(2, keepdim=True)
    margin = round(max(lookahead for _, lookahead in windows) * SAMPLE_RATE)
    blocks = range(STRIDE - 1, (len(audio) - margin) // BLOCK_SAMPLES, STRIDE)
    frames = torch.cat([torch.arange(block * BLOCK_FRAMES, (block + 1) * BLOCK_FRAMES) for block in blocks])
    rows = []
    for seconds, lookahead in windows:
        length, after = window_samples(replace(speech, window_seconds=seconds, lookahead_seconds=lookahead))
        live, began = [], time.perf_counter()
        for block in blocks:
            end = (block + 1) * BLOCK_SAMPLES + after
            first = max(0, end - length)
            live.append(window_features(network, samples[first:end], block, first).cpu())
        spent = (time.perf_counter() - began) / len(blocks)
        apart = distance(torch.cat(live, 2), whole[:, :, frames].cpu(), mean.cpu())
        rows.append(WindowRow(window_s=seconds, lookahead_s=lookahead, distance=apart, block_ms=1000 * spent))
    return rows, distance(whole[:, :, frames - 1].cpu(), whole[:, :, frames].cpu(), mean.cpu())


def load_track(seconds: float = SECONDS) -> np.ndarray:
    """Load voices of the evaluation split, one after the other: float32 mono 16 kHz."""
    voices = [load_audio(path) for path in sorted(FOLDER.glob("*.speech.ogg"))]
    track: np.ndarray = np.concatenate(voices)[: round(seconds * SAMPLE_RATE)]
    return track


def page(tables: dict[str, tuple[list[WindowRow], float]], device: str) -> str:
    """Write the report."""
    lines = [
        f"# Live speech features of {LIVE_AVATAR_14B.name}: a window against the whole file, {today()}",
        "",
        f"On {device}, torch {torch.__version__}, fp32. Command: `python -m liveavatar.bench.live_speech`.",
        "Distance: root mean square of the difference over that of the features about their mean in time, mean over",
        "the 25 hidden states. The distance of a frame to the one before it is given to compare with.",
    ]
    for name, (rows, neighbours) in tables.items():
        lines += ["", f"## {name}", "", f"Neighbouring frames: {neighbours:.3f}.", ""]
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
    content = {name: {"neighbours": apart, "rows": [asdict(r) for r in rows]} for name, (rows, apart) in tables.items()}
    sys.stdout.write(f"{write_dated(options.out, f'live_speech_{today()}', page(tables, device), content)}\n")


if __name__ == "__main__":
    main()
