"""Keys and values of one denoise step in 8 bits: half the memory, for one pass over them at every layer.

A ring holds e4m3 with one scale for every token and head. Sinks are not repeated for every step: they and the ring
are laid out in one workspace, shared by all steps and layers, right before attention reads it.

Shapes: Y layers, N heads, M slots, H head width, L tokens of a block.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from liveavatar.cache import Sink, StepCache
from liveavatar.fast import ops
from liveavatar.fast.reference import FP8, Slots

Rotation = tuple[Tensor, Tensor]
Writer = Callable[[Slots], Tensor]  # puts a block's keys and values in slots, gives its queries


class Bf16Ring(StepCache):
    """The plain cache, fed by the fused kernel."""

    def attend_layout(self, layer: int, slot: Tensor, visible: int, write: Writer) -> tuple[Tensor, Tensor, Tensor]:
        """Write a block and give (queries, keys [1, N, M, H], values) of what it sees.

        Args:
            layer: of the transformer.
            slot: int32 [1], first token of the block within the ring.
            visible: tokens of the ring that are filled, the block included.
            write: the fused kernel.
        """
        k, v = self.k[layer, 0], self.v[layer, 0]
        q = write(Slots(k[:, self.num_sink :], v[:, self.num_sink :], slot))
        stop = self.num_sink + visible
        return q, k[None, :, :stop], v[None, :, :stop]

    def place(self, sink: Sink, rotation: Rotation, tokens: int) -> None:
        """Rotate the first `tokens` sink keys to where the coming block sees them."""
        cos, sin = rotation[0][:tokens], rotation[1][:tokens]
        for layer, k in enumerate(sink.k):
            ops.rope_copy(k[0, :, :tokens], (cos, sin), self.k[layer, 0, :, :tokens])


class Workspace:
    """Where an 8-bit ring is laid out for attention: [sink | ring] keys and values [N, M, H]."""

    def __init__(self, sink: Sink, window_tokens: int) -> None:
        like = sink.k[0][0]
        N, L, H = like.shape
        self.k, self.v = (like.new_zeros(N, L + window_tokens, H) for _ in range(2))


class Fp8Ring:
    """A step's ring in e4m3; sinks stay in the model's dtype, one copy for all steps."""

    def __init__(self, sink: Sink, window_tokens: int, workspace: Workspace) -> None:
        N, L, H = sink.k[0].shape[1:]
        Y, device = len(sink.k), sink.k[0].device
        self.num_sink, self.window, self.workspace = L, window_tokens, workspace
        self.k, self.v = (torch.zeros(Y, N, window_tokens, H, dtype=FP8, device=device) for _ in range(2))
        self.k_scale, self.v_scale = (torch.zeros(Y, N, window_tokens, device=device) for _ in range(2))
        self.sink = sink
        # One pair for the life of the ring: recorded graphs read it.
        self._rotation = (torch.zeros(L, H // 2, device=device), torch.zeros(L, H // 2, device=device))

    def set_sink(self, sink: Sink) -> None:
        """Take over a (re)computed sink."""
        self.sink = sink

    def place(self, sink: Sink, rotation: Rotation, tokens: int) -> None:
        """Remember where the coming block sees the sinks; they are rotated while they are laid out."""
        self.sink = sink
        for kept, new in zip(self._rotation, rotation, strict=True):
            kept[:tokens].copy_(new[:tokens])

    def attend_layout(self, layer: int, slot: Tensor, visible: int, write: Writer) -> tuple[Tensor, Tensor, Tensor]:
        """As `Bf16Ring.attend_layout`; the block itself is seen unrounded."""
        sink, stop = slice(self.num_sink), self.num_sink + visible
        k, v = self.workspace.k, self.workspace.v
        ops.rope_copy(self.sink.k[layer][0], self._rotation, k[:, sink])
        _words(v[:, sink]).copy_(_words(self.sink.v[layer][0]))
        ring_k, ring_v = k[:, self.num_sink :], v[:, self.num_sink :]
        q = write(Slots(ring_k, ring_v, slot))
        block = (slot, q.shape[0])
        for stored, scale, ring in ((self.k, self.k_scale, ring_k), (self.v, self.v_scale, ring_v)):
            ops.dequantise_slots(stored[layer, :, :visible], scale[layer, :, :visible], ring[:, :visible], block)
            ops.quantise_slots(ring, stored[layer], scale[layer], block)
        return q, k[None, :, :stop], v[None, :, :stop]

    def tensors(self) -> dict[str, Tensor]:
        """The ring's content, for a snapshot."""
        return {"k": self.k, "v": self.v, "k_scale": self.k_scale, "v_scale": self.v_scale}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned."""
        for name, kept in self.tensors().items():
            kept.copy_(tensors[name])


def _words(t: Tensor) -> Tensor:
    """The same memory in words of 8 bytes: PyTorch copies slices element by element."""
    return t.view(torch.int64)


Ring = Bf16Ring | Fp8Ring
