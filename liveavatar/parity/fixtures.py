"""Reading of a fixture directory: tensors and metadata by file, configs mapped to ours.

Nothing here knows a size: dimensions come from the files' metadata, and what the metadata leaves out is
read off the shapes of the tensors.
"""

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from liveavatar.checkpoints.released import dit_config
from liveavatar.config import DiTConfig, VAEConfig
from liveavatar.errors import InputError
from liveavatar.timing import BLOCK_LATENTS

# What the reference does whatever its config says: 73 copies of a block's first feature frame as history, and
# sinks whose motion stays at the stream's beginning.
RELEASED_BEHAVIOUR: dict[str, Any] = {
    "audio_prefix_frames": 73, "audio_history_frames": 0, "motion_latents": 19, "ref_base": 30,
    "ref_distance": (4, 30), "anchor_motion": False,
}  # fmt: skip


class FixtureFile:
    """One safetensors file, read when needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, "pt") as f:
                self.metadata: dict[str, str] = f.metadata() or {}
                self.tensors: dict[str, Tensor] = {key: _widened(f.get_tensor(key)) for key in f.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as e:
            raise InputError(
                f"parity fixture {path.name} cannot be read ({e}); it is damaged, copy it from its source again"
            ) from e

    def __getitem__(self, key: str) -> Tensor:
        """The tensor `key`.

        Raises:
            InputError: when the file lacks it.
        """
        if key not in self.tensors:
            raise InputError(f"parity fixture {self.path.name} lacks the tensor {key}; copy it from its source again")
        return self.tensors[key]

    def meta(self, key: str) -> Any:
        """Metadata `key`, parsed as JSON.

        Raises:
            InputError: when it is missing or no JSON.
        """
        try:
            return json.loads(self.metadata[key])
        except (KeyError, ValueError) as e:
            raise InputError(
                f"parity fixture {self.path.name} lacks readable metadata {key!r} ({type(e).__name__}: {e}); "
                "copy it from its source again"
            ) from e

    def below(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose key starts with `prefix`, by the rest of the key."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def _widened(tensor: Tensor) -> Tensor:
    """Convert fp16, which only makes a stored set smaller, to the reference's fp32."""
    return tensor.float() if tensor.dtype == torch.float16 else tensor


class Fixtures:
    """A fixture directory."""

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise InputError(f"{directory} is no directory; give one laid out as the public parity set")
        self.directory = directory
        self._files: dict[str, FixtureFile] = {}

    def missing(self, names: tuple[str, ...]) -> list[str]:
        """List the files that the set lacks; `names` without a suffix are safetensors."""
        return [n for n in names if not self._path(n).is_file()]

    def path(self, name: str) -> Path:
        """Path of a file of the set."""
        return self._path(name)

    def _path(self, name: str) -> Path:
        return self.directory / (name if "." in name else f"{name}.safetensors")

    def file(self, name: str) -> FixtureFile:
        """A safetensors file of the set, read once."""
        if name not in self._files:
            self._files[name] = FixtureFile(self._path(name))
        return self._files[name]

    @cached_property
    def latent_hw(self) -> tuple[int, int]:
        """Latent height and width of the transformer's fixtures."""
        h, w = self.file("dit_inputs")["noise"].shape[-2:]
        return h, w

    @cached_property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels of the transformer's fixtures, the terminal 0 excluded."""
        return tuple(t / 1000 for t in self.file("dit_inputs").meta("timesteps4"))

    def dit_config(self, rope_half: bool) -> DiTConfig:
        """The config of `dit_weights`.

        Raises:
            InputError: when the set was made with options the engine does not have.
        """
        weights = self.file("dit_weights")
        raw = weights.meta("config")
        windows = self.file("dit_inputs").meta("window_latents") if not self.missing(("dit_inputs",)) else 12
        frames_per_block = (
            self.file("dit_inputs").meta("frames_per_block") if not self.missing(("dit_inputs",)) else BLOCK_LATENTS
        )
        if frames_per_block != BLOCK_LATENTS:
            raise InputError(
                f"parity fixture dit_weights was made with {frames_per_block} latents a block, the engine has "
                f"{BLOCK_LATENTS}; make the set with the released options"
            )
        return replace(
            dit_config(raw),
            audio_layers=weights["casual_audio_encoder.weights"].shape[1],
            window_latents=windows,
            rope_half=rope_half,
            **RELEASED_BEHAVIOUR,
        )

    def vae_config(self) -> VAEConfig:
        """The config of `vae_weights`."""
        raw, io = self.file("vae_weights").meta("config"), self.file("vae_io")
        if raw.get("attn_scales"):
            raise InputError(
                f"parity fixture vae_weights was made with attn_scales {raw['attn_scales']}, which the released "
                "autoencoder does not use and the engine does not have; make the set with the released options"
            )
        widths = tuple(raw["dim"] * m for m in raw["dim_mult"])
        return VAEConfig(
            kind="wan",
            z_dim=raw["z_dim"],
            spatial_stride=2 ** (len(widths) - 1),
            encoder_widths=widths,
            decoder_widths=widths[::-1],
            mean=tuple(io["mean"].tolist()),
            std=tuple(io["std"].tolist()),
            num_res_blocks=raw["num_res_blocks"],
            temporal_downsample=tuple(raw["temperal_downsample"]),
        )
