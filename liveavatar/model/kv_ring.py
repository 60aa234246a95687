"""Keys and values of a stream: the sinks, and one ring buffer per denoise step.

The *sinks* are the reference and motion tokens: computed once at noise level 0, shared by all steps, their keys
stored unrotated because their positions move along with the stream. A *ring* holds the keys and values one denoise
step wrote for the last few blocks, so a query attends only to history of its own noise level. Sink and ring lie in one
buffer, [sink | ring], so attention reads a single slice and nothing is ever concatenated. Order within the buffer does
not matter to attention.

Shapes: Y layers, B batch, N heads, L tokens, H head width.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sink:
    """Unrotated keys and values of the reference (first) and motion tokens, one pair per layer [B, N, L, H]."""

    k: list[Tensor]
    v: list[Tensor]
    num_reference: int  # tokens of the reference, which stand first

    @property
    def num_tokens(self) -> int:
        """Number of reference and motion tokens together."""
        return self.k[0].shape[2]


class KVRing:
    """Keys and values of one denoise step: [sink | ring] for every layer, allocated once."""

    def __init__(self, sink: Sink, window_tokens: int) -> None:
        first = sink.k[0]
        B, N, L, H = first.shape
        shape = (len(sink.k), B, N, L + window_tokens, H)
        self.k, self.v = first.new_zeros(shape), first.new_zeros(shape)
        self.num_sink, self.window = L, window_tokens
        self.set_sink(sink)

    def set_sink(self, sink: Sink) -> None:
        """Copy the values of a (re)computed sink; keys follow with `write_sink_keys`."""
        for layer, v in enumerate(sink.v):
            self.v[layer, :, :, : self.num_sink] = v

    def write_sink_keys(self, layer: int, k_BNLH: Tensor) -> None:
        """Write the rotated sink keys of a layer."""
        self.k[layer, :, :, : self.num_sink] = k_BNLH

    def write(self, layer: int, start: int, k_BNLH: Tensor, v_BNLH: Tensor) -> None:
        """Write a block whose first token has index `start` in the whole stream, over the oldest block."""
        first = self.num_sink + start % self.window
        stop = first + k_BNLH.shape[2]
        self.k[layer, :, :, first:stop] = k_BNLH
        self.v[layer, :, :, first:stop] = v_BNLH

    def view(self, layer: int, end: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values visible once the stream holds `end` tokens, the newest block included."""
        stop = self.num_sink + min(end, self.window)
        return self.k[layer, :, :, :stop], self.v[layer, :, :, :stop]

    def tensors(self) -> dict[str, Tensor]:
        """Return the ring's content for a snapshot."""
        return {"k": self.k, "v": self.v}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore a result of `tensors`."""
        self.k.copy_(tensors["k"])
        self.v.copy_(tensors["v"])
