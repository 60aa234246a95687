"""Driving features of `mini`: Whisper encoder states aligned to 25 fps, the same streamed as for a whole track.

A block's features come from a *window*: the 3 s of sound that end 0.16 s after the block's last frame, zeros where
there is no sound. The log-mel is Whisper's, except that the loudest bin is taken as at least `LOUDEST_FLOOR`, so
silence stays silent; the positional embedding is cut to the window. Of the window's 50 Hz states the 24 that lie on
the block are used, two per video frame. `SpeechConfig.shifts` averages them over windows moved by some milliseconds:
states depend a little on the phase of the spectra, and lips on the states. A window never depends on later sound, so
whole and streamed features are equal.

Runs with torch, numpy and safetensors alone, so that training needs only an encoder file (`training.speech_encoder`).

Shapes: N windows, L states of depth (embedding + layers), T frames, C = 2 * encoder width.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from liveavatar.audio.encoders.whisper_network import STATE_SAMPLES, WhisperEncoder, load_encoder
from liveavatar.audio.encoders.windows import StreamedFeatures, window_samples
from liveavatar.checkpoints.tuning import tuning_file
from liveavatar.config import SpeechConfig
from liveavatar.errors import CheckpointError
from liveavatar.files import sha256
from liveavatar.timing import BLOCK_FRAMES, BLOCK_SAMPLES, SAMPLES_PER_FRAME, count_blocks, count_frames

STATES_PER_FRAME = SAMPLES_PER_FRAME // STATE_SAMPLES


class WhisperSpeech:
    """The `whisper` kind of `liveavatar.audio.encoders.SpeechEncoder`."""

    def __init__(self, speech: SpeechConfig, encoder: WhisperEncoder) -> None:
        check_encoder(speech, encoder)
        self.speech, self.encoder = speech, encoder

    def features(self, audio: np.ndarray) -> Tensor:
        """Compute features float16 [L, C, T] of a whole track (float32 mono 16 kHz), T whole blocks."""
        return whisper_features(audio, self.speech, whisper_encoder=self.encoder, dtype=torch.float16)

    def stream(self, first_block: int) -> StreamedFeatures:
        """Start features of sound that still arrives."""
        return StreamedFeatures(self.speech, self._window_features, first_block)

    def _window_features(self, window: np.ndarray, block: int) -> Tensor:
        """Compute the features [L, C, 12] of a block from its window, silence before the first sample."""
        length, _ = window_samples(self.speech)
        padded = torch.from_numpy(np.pad(window, (length - len(window), 0)))[None]
        return block_features(padded.to(self.encoder.positional_embedding.device), self.encoder, self.speech)[0]


def load(speech: SpeechConfig, model_dir: Path | None = None) -> WhisperSpeech:
    """Load the encoder `speech` names; its weights come with a package, their corrections with the model directory.

    Raises:
        InputError: the encoder has corrections, and there is no model directory.
        CheckpointError: the corrections are missing, damaged, or of another encoder.
    """
    tuning = tuning_file(speech, model_dir)
    digest = "" if tuning is None else sha256(tuning)
    return WhisperSpeech(speech, _shared_encoder(speech.name, "cpu", tuning, digest))


@lru_cache(maxsize=2)
def _shared_encoder(name: str, device: str, tuning: Path | None = None, digest: str = "") -> WhisperEncoder:
    """Load an encoder once; `digest` is of the file `tuning`, which may be written anew."""
    return load_encoder(name, device, tuning)


def block_features(windows_NS: Tensor, encoder: WhisperEncoder, cfg: SpeechConfig) -> Tensor:
    """Compute the features of blocks from their windows.

    Args:
        windows_NS: float32 [N, window samples], each ending `cfg.lookahead_seconds` after its block; on the
            encoder's device.

    Returns:
        [N, L, C, 12] float32, rounded to what float16 can hold, so that a file of half the size keeps streamed and
        stored features equal.
    """
    length, lookahead = window_samples(cfg)
    assert windows_NS.shape[1] == length, (windows_NS.shape, length)
    end = (length - lookahead) // STATE_SAMPLES
    with torch.inference_mode():
        passes = [
            encoder(_shifted(windows_NS, shift))[:, :, end - BLOCK_FRAMES * STATES_PER_FRAME : end]
            for shift in cfg.shifts
        ]
        states = passes[0] if len(passes) == 1 else torch.stack(passes).mean(0)
    frames = states.unflatten(2, (BLOCK_FRAMES, STATES_PER_FRAME)).flatten(3)  # [N, L, 12, C]
    return frames.transpose(2, 3).half().float().clone()  # a plain tensor that autograd accepts


def _shifted(windows_NS: Tensor, shift: int) -> Tensor:
    """Delay windows by `shift` samples (advance them when negative), padding with silence."""
    return F.pad(windows_NS, (shift, -shift)) if shift else windows_NS


def check_encoder(cfg: SpeechConfig, encoder: WhisperEncoder) -> None:
    """Check that an encoder fits the model's config. Raises CheckpointError."""
    width = STATES_PER_FRAME * encoder.positional_embedding.shape[1]
    if cfg.kind != "whisper" or (cfg.num_states, cfg.dim) != (encoder.num_states, width):
        raise CheckpointError(
            f"the model wants {cfg.num_states} states of {cfg.dim} from {cfg.kind} {cfg.name}, the speech encoder "
            f"gives {encoder.num_states} of {width}; use the encoder named in the model's config.json"
        )


def iter_block_features(
    audio: np.ndarray,
    cfg: SpeechConfig,
    num_blocks: int,
    encoder: WhisperEncoder,
    batch: int = 32,
) -> Iterator[Tensor]:
    """Iterate over the features of blocks 0..num_blocks-1 of a track, `batch` at a time: float32 [<=batch, L, C, 12].

    Args:
        audio: float32 mono 16 kHz; silence is assumed before and after it.
    """
    check_encoder(cfg, encoder)
    length, lookahead = window_samples(cfg)
    device = encoder.positional_embedding.device
    for first in range(0, num_blocks, batch):
        count = min(batch, num_blocks - first)
        start = (first + 1) * BLOCK_SAMPLES + lookahead - length
        piece = _cut(audio, start, start + length + (count - 1) * BLOCK_SAMPLES)
        windows = torch.from_numpy(piece).to(device).unfold(0, length, BLOCK_SAMPLES)
        yield block_features(windows, encoder, cfg)


def _cut(audio: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Cut samples start..stop out of a track, with silence outside it."""
    out = np.zeros(stop - start, np.float32)
    inside = audio[max(0, start) : max(0, min(stop, len(audio)))]
    offset = max(0, -start)
    out[offset : offset + len(inside)] = inside
    return out


def whisper_features(
    audio: np.ndarray,
    cfg: SpeechConfig,
    num_blocks: int | None = None,
    device: str | torch.device = "cpu",
    *,
    whisper_encoder: WhisperEncoder | None = None,
    batch: int = 32,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Compute the driving features of a whole track.

    Args:
        audio: float32 mono 16 kHz.
        num_blocks: number of blocks; as many as cover the track when None.
        whisper_encoder: from `load_encoder`; `cfg.name` is loaded (and cached) when None, where it has no corrections.
        batch: blocks computed together; it bounds memory (about 3 MB a block for tiny.en).
        dtype: of the result; the computation is float32.

    Returns:
        [L, C, 12 * num_blocks] on `device`, time outermost in memory, so that a few frames are one run of bytes.
    """
    assert whisper_encoder is not None or not cfg.tuning, "corrections lie in a model directory: use `load`"
    encoder = whisper_encoder if whisper_encoder is not None else _shared_encoder(cfg.name, str(device))
    total = count_blocks(count_frames(len(audio))) if num_blocks is None else num_blocks
    out = torch.empty(total * BLOCK_FRAMES, cfg.num_states, cfg.dim, dtype=dtype, device=device)
    done = 0
    for part in iter_block_features(audio, cfg, total, encoder, batch):
        frames = part.permute(0, 3, 1, 2).flatten(0, 1)
        out[done : done + len(frames)] = frames
        done += len(frames)
    return out.permute(1, 2, 0)
