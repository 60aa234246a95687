"""Voice activity detection: Silero's model, run by onnxruntime on the weights in its wheel.

A *segment* is a half-open range of samples. Importing the `silero_vad` package is avoided on purpose: it sets torch
to one thread for the whole process.
"""

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from liveavatar.errors import InputError
from liveavatar.timing import SAMPLE_RATE

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FRAME = 512  # samples of one probability, 32 ms
_CONTEXT = 64  # samples of the frame before that the model sees too
FRAMES_PER_CALL = 512
_ENTER, _LEAVE = 0.5, 0.35  # probabilities that start and end speech


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Segment of speech, in samples at 16 kHz."""

    start: int
    stop: int


def wheel_file(package: str, file: str) -> Path:
    """Locate a data file of an installed wheel, without importing it.

    Raises:
        InputError: when the wheel is not installed.
    """
    spec = importlib.util.find_spec(package)
    path = Path(next(iter(spec.submodule_search_locations or ()), "")) / file if spec else None
    if path is None or not path.is_file():
        raise InputError(f"{package}: its weights are not installed; run `make setup`, or use --denoise off")
    return path


@lru_cache(maxsize=4)
def onnx_session(path: Path, num_threads: int = 0) -> "InferenceSession":
    """Open an onnxruntime session on the CPU; 0 threads means one per core. Raises InputError without onnxruntime."""
    try:
        import onnxruntime
    except ImportError as e:
        raise InputError("onnxruntime is not installed; run `make setup`, or use --denoise off") from e

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def speech_probabilities(audio: np.ndarray) -> np.ndarray:
    """Compute the probability of speech per 32 ms frame: float32 [ceil(samples / 512)].

    Args:
        audio: float32 mono 16 kHz.
    """
    session = onnx_session(wheel_file("silero_vad", "data/silero_vad_16k_sequence.onnx"), 1)
    hidden = cell = np.zeros((1, 1, 128), np.float32)
    context = np.zeros(_CONTEXT, np.float32)
    probabilities = []
    for start in range(0, len(audio), FRAME * FRAMES_PER_CALL):
        part = audio[start : start + FRAME * FRAMES_PER_CALL]
        frames = np.pad(part, (0, -len(part) % FRAME)).reshape(-1, FRAME)
        before = np.vstack([context, frames[:-1, -_CONTEXT:]])
        context = frames[-1, -_CONTEXT:]
        inputs = {"input": np.hstack([before, frames]).astype(np.float32), "h": hidden, "c": cell}
        values, hidden, cell = session.run(["speech_probs", "hn", "cn"], inputs)
        probabilities.append(values.reshape(-1))
    return np.concatenate(probabilities)


def segments_of(
    probabilities: np.ndarray,
    num_samples: int,
    *,
    min_speech_s: float = 0.2,
    min_pause_s: float = 0.3,
    pad_s: float = 0.1,
) -> list[Segment]:
    """Convert frame probabilities to segments, in order and without overlap.

    Speech starts at 0.5 and ends below 0.35. Pauses shorter than `min_pause_s` belong to the speech around them,
    stretches shorter than `min_speech_s` are dropped, and `pad_s` is added on both sides.
    """
    runs: list[list[int]] = []
    speaking = False
    for i, p in enumerate(probabilities):
        if p >= _ENTER and not speaking:
            if runs and (i - runs[-1][1]) * FRAME < min_pause_s * SAMPLE_RATE:
                runs[-1][1] = i + 1
            else:
                runs.append([i, i + 1])
            speaking = True
        elif p < _LEAVE:
            speaking = False
        elif speaking:
            runs[-1][1] = i + 1
    pad = round(pad_s * SAMPLE_RATE)
    segments: list[Segment] = []
    for first, last in runs:
        if (last - first) * FRAME < min_speech_s * SAMPLE_RATE:
            continue
        start, stop = max(0, first * FRAME - pad), min(num_samples, last * FRAME + pad)
        if segments and start <= segments[-1].stop:
            start = segments.pop().start
        segments.append(Segment(start=start, stop=stop))
    return segments


def find_speech(audio: np.ndarray) -> list[Segment]:
    """Detect the speech segments of a track."""
    return segments_of(speech_probabilities(audio), len(audio))
