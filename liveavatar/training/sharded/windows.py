"""Training windows of the 14B: clips read from files one batch at a time, or random ones.

A folder of clips holds one safetensors file a clip, floats of any width:

    latents    [C, T, h, w]  normalised, T = 3 b of b blocks; without the latent of the video's first frame
    reference  [C, 1, h, w]  latent of the portrait
    features   [L, A, 12 b]  hidden states of the speech encoder at 25 fps
    text       [R, D]        rows of the text encoder, R up to the config's text length
    weights    [T, h, w]     optional: weight of each cell in the loss; the mouth's is larger

Files are memory-mapped, and of a clip only its window is read, so host memory does not grow with the corpus.

Shapes: B batch, b blocks, C latent channels, T latents, h/w latent cells, L hidden states, A their width, R rows.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from liveavatar.config import ModelConfig
from liveavatar.errors import InputError
from liveavatar.timing import BLOCK_FRAMES, BLOCK_LATENTS
from liveavatar.training import runtime
from liveavatar.training.batch import Window
from liveavatar.training.matching import Sampler

TENSORS = ("latents", "reference", "features", "text")


@dataclass(frozen=True, slots=True)
class WindowSize:
    """Extent of a training window."""

    num_blocks: int
    h: int  # latent cells
    w: int

    @property
    def num_latents(self) -> int:
        """Number of latents."""
        return self.num_blocks * BLOCK_LATENTS


@dataclass(frozen=True, slots=True)
class WindowSource:
    """Sampler of windows, and the generators that a checkpoint must keep."""

    sampler: Sampler
    size: WindowSize
    generator: torch.Generator  # of noise and dropped conditions, on the device
    host: torch.Generator  # of the choice of clips


class ClipFiles:
    """Sampler of windows from a rank's share of the clips in a folder."""

    def __init__(
        self, folder: Path, cfg: ModelConfig, num_blocks: int, rank: runtime.TrainRank, host: torch.Generator
    ) -> None:
        """List the clips.

        Raises:
            InputError: there are fewer clips than ranks, or the first one does not fit the model.
        """
        files = sorted(folder.glob("*.safetensors"))
        if len(files) < rank.world:
            raise InputError(
                f"--data {folder} holds {len(files)} clips (*.safetensors) for {rank.world} ranks; give each rank one "
                "or more, or --random to measure without data"
            )
        self.files, self.cfg, self.device, self.host = files[rank.rank :: rank.world], cfg, rank.device, host
        latents, h, w = _shape(files[0], "latents", cfg.dit.in_dim)
        width, _ = _shape(files[0], "features", cfg.dit.audio_layers)
        if width != cfg.dit.audio_dim:
            raise InputError(f"{files[0]}: features are {width} wide, and {cfg.name} takes {cfg.dit.audio_dim}")
        self.size = WindowSize(min(num_blocks, latents // BLOCK_LATENTS), h, w)

    def sample(self, batch: int) -> Window:
        """Draw a batch of windows."""
        drawn = torch.randint(len(self.files), (batch,), generator=self.host).tolist()
        parts = [self._read(self.files[i], float(torch.rand((), generator=self.host))) for i in drawn]
        latents, reference, features, text, weights = (
            torch.stack(p).to(self.device).float() for p in zip(*parts, strict=True)
        )
        weights = weights[:, None]
        return Window(latents, reference, weights / weights.mean(), features, text)

    def _read(self, path: Path, place: float) -> tuple[Tensor, ...]:
        """Read a window that begins at share `place` of what is left of the clip."""
        try:
            with safe_open(path, framework="pt") as file:
                latents = file.get_slice("latents")
                blocks = latents.get_shape()[1] // BLOCK_LATENTS
                first = int(place * (blocks - self.size.num_blocks + 1))
                times = slice(first * BLOCK_LATENTS, first * BLOCK_LATENTS + self.size.num_latents)
                frames = slice(first * BLOCK_FRAMES, (first + self.size.num_blocks) * BLOCK_FRAMES)
                text = file.get_tensor("text")[: self.cfg.dit.text_len]
                cut = latents[:, times]
                has_weights = "weights" in file.keys()  # noqa: SIM118 (not a dict)
                weights = file.get_slice("weights")[times] if has_weights else torch.ones_like(cut[0])
                features = file.get_slice("features")[:, :, frames]
                reference = file.get_tensor("reference")
        except (SafetensorError, OSError, KeyError, RuntimeError) as e:
            raise InputError(f"{path} is no clip ({e}); encode it again") from e
        wanted = (self.size.num_latents, self.size.h, self.size.w)
        if tuple(cut.shape[1:]) != wanted or features.shape[2] != self.size.num_blocks * BLOCK_FRAMES:
            raise InputError(
                f"{path}: a window of {tuple(cut.shape[1:])} latents and {features.shape[2]} frames of speech; all "
                f"clips of a folder have the size of the first, {wanted}, and speech to their end"
            )
        return cut, reference, features, F.pad(text, (0, 0, 0, self.cfg.dit.text_len - len(text))), weights


def _shape(path: Path, name: str, first: int) -> list[int]:
    """Read the shape of a clip's tensor, whose first number must be `first`; return the others."""
    try:
        with safe_open(path, framework="pt") as file:
            shape: list[int] = file.get_slice(name).get_shape()
    except (SafetensorError, OSError) as e:
        raise InputError(f"{path} is no clip ({e}); its tensors are {', '.join(TENSORS)}") from e
    if shape[0] != first:
        raise InputError(f"{path}: {name} is {shape}, and the model takes {first} first; encode it for this model")
    return shape[1:]


class RandomWindows:
    """Sampler of windows of noise, to measure memory and speed."""

    def __init__(self, cfg: ModelConfig, size: WindowSize, generator: torch.Generator) -> None:
        self.cfg, self.size, self.generator = cfg, size, generator

    def sample(self, batch: int) -> Window:
        """Draw a batch of windows."""
        dit, size = self.cfg.dit, self.size
        frames = dit.audio_history_frames + size.num_blocks * BLOCK_FRAMES
        latents = self._draw(batch, dit.in_dim, size.num_latents, size.h, size.w)
        return Window(
            latents,
            latents[:, :, :1],
            torch.ones_like(latents[:, :1]),
            self._draw(batch, dit.audio_layers, dit.audio_dim, frames),
            self._draw(batch, dit.text_len, dit.text_dim),
        )

    def _draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.generator.device, generator=self.generator)
