"""Whisper's audio encoder as a network: log-mel, transformer layers, and the files its weights come from.

Runs with torch, numpy and safetensors alone, so that training needs only an encoder file (`training.speech_encoder`).

Shapes: N windows, L states of depth (embedding + layers), D width.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from liveavatar.audio.encoders import low_rank
from liveavatar.audio.whisper_weights import HEAD_DIM, UNREADABLE, WHEEL_MODELS, checkpoint_path
from liveavatar.errors import CheckpointError, InputError
from liveavatar.timing import SAMPLE_RATE

NUM_FFT = 400  # samples of one spectrum, 25 ms
HOP = 160  # samples between spectra, 10 ms
STATE_SAMPLES = 2 * HOP  # the encoder halves the rate: 50 Hz
DYNAMIC_RANGE = 8.0  # log10 power below the loudest bin that is retained
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


class WhisperEncoder(nn.Module):
    """Whisper's audio encoder on windows of any length up to 30 s, returning every hidden state."""

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
        """Number of hidden states: the embedding output and one per layer."""
        return len(self.blocks) + 1

    def log_mel(self, audio_NS: Tensor) -> Tensor:
        """Compute Whisper's log-mel of windows [N, samples], silence not stretched: [N, mels, samples/160]."""
        spectrum = torch.stft(audio_NS, NUM_FFT, HOP, window=self.hann, return_complex=True)[..., :-1]
        power = self.mel_filters @ spectrum.abs().square()
        logs = power.clamp(min=1e-10).log10()
        loudest = logs.amax((1, 2), keepdim=True).clamp(min=LOUDEST_FLOOR)
        return (torch.maximum(logs, loudest - DYNAMIC_RANGE) + 4.0) / 4.0

    def forward(self, audio_NS: Tensor) -> Tensor:
        """Encode windows [N, samples] to hidden states [N, L, samples/320, width], without the final norm."""
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
    """Build equal-area triangular filters on Slaney's mel scale: float32 [num_mels, 201] for 16 kHz, librosa's default.

    The scale is linear below 1 kHz (200/3 Hz per mel) and logarithmic above (27 mels per factor 6.4). A `stretch`
    other than 1 multiplies the frequency of every filter, as if the vocal tract were longer by that factor (vocal
    tract length perturbation, Jaitly and Hinton, 2013); it fades out near the top, so that no frequency is lost.
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


def load_encoder(
    source: str | Path = "tiny.en", device: str | torch.device = "cpu", tuning: Path | None = None
) -> WhisperEncoder:
    """Load Whisper's encoder, float32.

    Args:
        source: a Whisper name (see `whisper_weights`), or a file made by `save_encoder`.
        device: where its weights lie.
        tuning: file of corrections that are added to its weights, see `low_rank`.

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
    encoder = _build(state)
    if tuning is not None:
        low_rank.add(encoder, tuning)
    return encoder.to(device)


def _build(state: dict[str, Tensor]) -> WhisperEncoder:
    width, num_mels, _ = state["conv1.weight"].shape
    num_layers = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    encoder = WhisperEncoder(num_mels, state["positional_embedding"].shape[0], width, num_layers)
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
