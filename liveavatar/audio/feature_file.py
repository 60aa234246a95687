"""Features file: driving features on disk, read a few blocks at a time so that memory does not grow with length.

The file is a torch archive (`liveavatar.tools.audio_preprocess` writes it) whose "features" entry is [hidden states,
channels, frames] at 25 fps, stored time-major.
"""

from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from liveavatar.checkpoints.weight_files import load_archive
from liveavatar.errors import InputError

CHUNK_FRAMES = 600


def save_features(path: Path | BinaryIO, features_LCT: Tensor, **facts: str | int | float) -> None:
    """Write features with time as the slowest axis on disk, so that a slice of frames is one run of bytes."""
    time_major = features_LCT.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    torch.save({"features": time_major, **facts}, path)


class FeatureFile:
    """Features [L, C, T] of a file, sliced as `file[a:b]` over frames; one chunk is in memory."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            InputError: no such file, or no features file.
        """
        self.path = path
        self.shape = tuple(self._open().shape)
        self._start, self._chunk = 0, torch.empty(*self.shape[:2], 0)

    def _open(self) -> Tensor:
        try:
            features = load_archive(self.path)["features"]
        except (LookupError, TypeError) as e:
            raise self._refusal("it has no entry `features`") from e
        except ValueError as e:
            raise self._refusal(str(e)) from e
        if not isinstance(features, Tensor):
            raise self._refusal(f"its features are of type {type(features).__name__}, not a tensor")
        if features.ndim != 3 or not features.is_floating_point() or not features.numel():
            raise self._refusal(
                f"its features are {features.dtype} {list(features.shape)}, not floats [states, channels, frames]"
            )
        return features

    def _refusal(self, reason: str) -> InputError:
        return InputError(
            f"{self.path} is no features file ({reason}); make one with "
            "`python -m liveavatar.tools.audio_preprocess --input cleaned.wav --output features.pt`"
        )

    def __getitem__(self, frames: slice) -> Tensor:
        start, stop, _ = frames.indices(self.shape[2])
        if not (self._start <= start and stop <= self._start + self._chunk.shape[2]):
            length = max(CHUNK_FRAMES, stop - start)
            self._start, self._chunk = start, self._open()[:, :, start : start + length].clone()
        return self._chunk[:, :, start - self._start : stop - self._start]
