"""State of a stream that a snapshot holds."""

from typing import Protocol

from torch import Tensor


class Resumable(Protocol):
    """Rings of keys and values, or the memory of a decoder."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the live tensors by name."""

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Load what `tensors` returned."""
