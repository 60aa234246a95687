"""Driving features of `mini`: Whisper encoder states, aligned to 25 fps, the same live as in training.

A block's features come from a *window*: the 3 s of sound that end 0.16 s after the block's last frame, zeros where
there is no sound. Mel as Whisper makes it, except that the loudest bin is taken as at least `LOUDEST_FLOOR`, so
silence stays silent; the positional embedding is cut to the window. Of the window's 50 Hz states the 24 that lie on
the block are kept, two per video frame. They are the mean over windows moved by some milliseconds, if the model wants
that (`SpeechConfig.shifts`): states depend a little on how spectra happen to lie on the sound, and lips on the states.
Because a window never depends on what comes later, computing a track at once and computing it as it arrives give the
same numbers.

Runs with torch, numpy and safetensors alone, so that training needs only an encoder file (`training.speech_encoder`).

Shapes: N windows, L states of depth (embedding + layers), T frames, C = 2 * encoder width.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from liveavatar.audio.whisper_weights import HEAD_DIM, UNREADABLE, WHEEL_MODELS, checkpoint_path
from liveavatar.config import SpeechConfig
from liveavatar.errors import CheckpointError, InputError
from liveavatar.timing import BLOCK_FRAMES, BLOCK_SAMPLES, SAMPLE_RATE, SAMPLES_PER_FRAME, count_blocks, count_frames

NUM_FFT = 400  # samples of one spectrum, 25 ms
HOP = 160  # samples between spectra, 10 ms
STATE_SAMPLES = 2 * HOP  # the encoder halves the rate: 50 Hz
STATES_PER_FRAME = SAMPLES_PER_FRAME // STATE_SAMPLES
DYNAMIC_RANGE = 8.0  # log10 power below the loudest bin that is kept
STRETCH_TO = 4800.0  # Hz up to which a stretched spectrum is stretched in full
LOUDEST_FLOOR = -1.0  # log10 power; quieter windows are not stretched to full range
_MAKER = "`python -m liveavatar.training.speech_encoder`"
_STATE_PREFIX = "encoder."


class _Layer(nn.Module):
    """One pre-norm transformer layer under openai-whisper's names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = width // HEAD_DIM
        self.attn = nn.ModuleDict(
            {
                "query": nn.Linear(width, width),
                "key": nn.Linear(width, width, bias=False),
                "value": nn.Linear(width, width),
                "out": nn.Linear(width, width),
            }
        )
        self.attn_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, x_NLD: Tensor) -> Tensor:
        h = self.attn_ln(x_NLD)
        q, k, v = (
            self.attn[p](h).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x_NLD = x_NLD + self.attn["out"](mixed)
        return x_NLD + self.mlp(self.mlp_ln(x_NLD))


class SpeechEncoder(nn.Module):
    """Whisper's audio encoder on windows of any length up to 30 s, giving every hidden state."""

    mel_filters: Tensor
    positional_embedding: Tensor
    hann: Tensor

    def __init__(self, num_mels: int, num_positions: int, width: int, num_layers: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(num_mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", torch.zeros(num_positions, width))
        self.register_buffer("mel_filters", torch.from_numpy(mel_filters(num_mels)), persistent=False)
        self.register_buffer("hann", torch.hann_window(NUM_FFT), persistent=False)
        self.blocks = nn.ModuleList([_Layer(width) for _ in range(num_layers)])

    @property
    def num_states(self) -> int:
        """Hidden states it gives: the embedding output and one per layer."""
        return len(self.blocks) + 1

    def log_mel(self, audio_NS: Tensor) -> Tensor:
        """Whisper's log-mel spectrogram of windows [N, samples], silence not stretched: [N, mels, samples / 160]."""
        spectrum = torch.stft(audio_NS, NUM_FFT, HOP, window=self.hann, return_complex=True)[..., :-1]
        power = self.mel_filters @ spectrum.abs().square()
        logs = power.clamp(min=1e-10).log10()
        loudest = logs.amax((1, 2), keepdim=True).clamp(min=LOUDEST_FLOOR)
        return (torch.maximum(logs, loudest - DYNAMIC_RANGE) + 4.0) / 4.0

    def forward(self, audio_NS: Tensor) -> Tensor:
        """Hidden states of windows [N, samples]: [N, L, samples / 320, width]; the final norm is not applied."""
        # TF32 would make features differ between machines by more than the engine's own rounding
        with torch.backends.cudnn.flags(allow_tf32=False):
            x = F.gelu(self.conv1(self.log_mel(audio_NS)))
            x = F.gelu(self.conv2(x)).transpose(1, 2)
        x = x + self.positional_embedding[: x.shape[1]]
        states = [x]
        for layer in self.blocks:
            states.append(layer(states[-1]))
        return torch.stack(states, dim=1)


def mel_filters(num_mels: int, stretch: float = 1.0) -> np.ndarray:
    """Triangular filters on Slaney's mel scale with equal area, float32 [num_mels, 201] for 16 kHz (librosa's default).

    The scale is linear below 1 kHz (200/3 Hz per mel) and logarithmic above (27 mels per factor 6.4). With a `stretch`
    other than 1 every filter hears what lies at that factor of its frequency, so a voice sounds as if its vocal tract
    were as much longer (Jaitly and Hinton, 2013); near the top the factor gives way, so that nothing falls off.
    """
    corner, step, ratio = 1000.0, 200.0 / 3.0, math.log(6.4) / 27.0
    top = corner / step + math.log(SAMPLE_RATE / 2 / corner) / ratio
    mels = np.linspace(0.0, top, num_mels + 2)
    edges = np.where(mels * step < corner, mels * step, corner * np.exp(ratio * (mels - corner / step)))
    if stretch != 1.0:
        knee = STRETCH_TO * min(stretch, 1.0) / stretch
        edges = np.interp(edges, [0.0, knee, SAMPLE_RATE / 2], [0.0, knee * stretch, SAMPLE_RATE / 2])
    bins = np.linspace(0.0, SAMPLE_RATE / 2, NUM_FFT // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return filters.astype(np.float32)


def load_encoder(source: str | Path = "tiny.en", device: str | torch.device = "cpu") -> SpeechEncoder:
    """Load the speech encoder, float32.

    Args:
        source: a Whisper name (see `whisper_weights`), or a file made by `save_encoder`.

    Raises:
        InputError: when the model or file is not here.
        CheckpointError: when the file is damaged.
    """
    if str(source) in WHEEL_MODELS:
        state = _encoder_part(str(source))
    else:
        path = Path(source)
        if not path.is_file():
            raise InputError(
                f"speech encoder {source}: no such file or model; give one of {', '.join(WHEEL_MODELS)}, or a file "
                f"made by {_MAKER}"
            )
        try:
            with safe_open(path, "pt") as f:
                state = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (no iterator there)
        except SafetensorError as e:
            raise CheckpointError(f"{path} is no speech encoder file ({e}); make it anew with {_MAKER}") from e
    return _build(state).to(device)


def _build(state: dict[str, Tensor]) -> SpeechEncoder:
    width, num_mels, _ = state["conv1.weight"].shape
    num_layers = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    encoder = SpeechEncoder(num_mels, state["positional_embedding"].shape[0], width, num_layers)
    encoder.load_state_dict({name: value.float() for name, value in state.items()})
    return encoder.eval().requires_grad_(False)


def save_encoder(path: Path, name: str = "tiny.en") -> None:
    """Write the encoder of a Whisper model alone, float16, for a machine that lacks the weights (tiny.en: 16 MB)."""
    save_file({k: v.half().contiguous() for k, v in _encoder_part(name).items()}, path, {"whisper": name})


def _encoder_part(name: str) -> dict[str, Tensor]:
    path = checkpoint_path(name)
    try:
        state = torch.load(path, weights_only=True, mmap=True)["model_state_dict"]
    except UNREADABLE as e:
        raise CheckpointError(f"{path} is no Whisper checkpoint; delete it and try again") from e
    return {
        key.removeprefix(_STATE_PREFIX): value
        for key, value in state.items()
        if key.startswith(_STATE_PREFIX) and "ln_post" not in key
    }


@lru_cache(maxsize=2)
def _shared_encoder(name: str, device: str) -> SpeechEncoder:
    return load_encoder(name, device)


def window_samples(cfg: SpeechConfig) -> tuple[int, int]:
    """Samples of a window, and how many of them lie after the block's end."""
    return round(cfg.window_seconds * SAMPLE_RATE), round(cfg.lookahead_seconds * SAMPLE_RATE)


def block_features(windows_NS: Tensor, encoder: SpeechEncoder, cfg: SpeechConfig) -> Tensor:
    """Features of blocks from their windows.

    Args:
        windows_NS: float32 [N, window samples], each ending `cfg.lookahead_seconds` after its block; on the
            encoder's device.

    Returns:
        [N, L, C, 12] float32, rounded to what float16 can hold, so that a file of half the size keeps live and
        stored features equal.
    """
    length, lookahead = window_samples(cfg)
    assert windows_NS.shape[1] == length, (windows_NS.shape, length)
    end = (length - lookahead) // STATE_SAMPLES
    with torch.inference_mode():
        heard = [
            encoder(_moved(windows_NS, shift))[:, :, end - BLOCK_FRAMES * STATES_PER_FRAME : end]
            for shift in cfg.shifts
        ]
        states = heard[0] if len(heard) == 1 else torch.stack(heard).mean(0)
    frames = states.unflatten(2, (BLOCK_FRAMES, STATES_PER_FRAME)).flatten(3)  # [N, L, 12, C]
    return frames.transpose(2, 3).half().float().clone()  # a plain tensor that autograd accepts


def _moved(windows_NS: Tensor, shift: int) -> Tensor:
    """Windows in which everything comes `shift` samples later (earlier when negative), with silence where none is."""
    return F.pad(windows_NS, (shift, -shift)) if shift else windows_NS


def check_encoder(cfg: SpeechConfig, encoder: SpeechEncoder) -> None:
    """Refuse (CheckpointError) an encoder that does not give what the model's config wants."""
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
    encoder: SpeechEncoder,
    batch: int = 32,
) -> Iterator[Tensor]:
    """Features of blocks 0..num_blocks-1 of a track, `batch` at a time: float32 [<=batch, L, C, 12].

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
    """Samples start..stop of a track that is silent outside itself."""
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
    whisper_encoder: SpeechEncoder | None = None,
    batch: int = 32,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Driving features of a whole track.

    Args:
        audio: float32 mono 16 kHz.
        num_blocks: blocks wanted; as many as cover the track when None.
        whisper_encoder: made by `load_encoder`; `cfg.name` is loaded (and kept) when None.
        batch: blocks computed together; it bounds memory (about 3 MB a block for tiny.en).
        dtype: of the result; the computation is float32.

    Returns:
        [L, C, 12 * num_blocks] on `device`, time outermost in memory, so that a few frames are one run of bytes.
    """
    encoder = whisper_encoder if whisper_encoder is not None else _shared_encoder(cfg.name, str(device))
    wanted = count_blocks(count_frames(len(audio))) if num_blocks is None else num_blocks
    out = torch.empty(wanted * BLOCK_FRAMES, cfg.num_states, cfg.dim, dtype=dtype, device=device)
    done = 0
    for part in iter_block_features(audio, cfg, wanted, encoder, batch):
        frames = part.permute(0, 3, 1, 2).flatten(0, 1)
        out[done : done + len(frames)] = frames
        done += len(frames)
    return out.permute(1, 2, 0)
