"""Keys and values of one denoise step: plain, in 8 bits for half the memory, or in 8 bits for attention in 8 bits.

`Fp8Ring` holds e4m3 with one scale for every token and head. Sinks are not repeated for every step: they and the ring
are laid out in one workspace, shared by all steps and layers, right before attention reads it in the model's dtype.
`Ring8` and `E4m3Ring` hold what attention in 8 bits reads as it is.

Shapes: Y layers, N heads, M slots, H head width, L tokens of a block, D width.
"""

from typing import Protocol

import torch
from torch import Tensor

from liveavatar.fast import ops
from liveavatar.fast.attention import FastAttention
from liveavatar.fast.flash3 import FlashAttention3
from liveavatar.fast.reference import (
    FP8,
    FP8_MAX,
    VALUES_ALIGN,
    KeyValues8,
    KeyValuesE4m3,
    Slots,
    values_e4m3,
)
from liveavatar.model.kv_ring import KVRing, Sink

Rotation = tuple[Tensor, Tensor]
Where = tuple[
    Tensor, int
]  # first slot of a block in the ring, int32 [1]; filled tokens of the ring, the block included
# Queries, keys and values of a block [L, 3 * D]; norms of queries and keys and their eps; rotation of its tokens.
Projected = tuple[Tensor, tuple[Tensor, Tensor, float], Rotation]

_HEADROOM = 8.0  # of values over the largest of the sinks


class Bf16Ring(KVRing):
    """The plain ring, written by the fused kernel."""

    def __init__(self, sink: Sink, window_tokens: int, attention: FastAttention) -> None:
        super().__init__(sink, window_tokens)
        self.attention = attention

    def attend(self, layer: int, where: Where, block: Projected) -> Tensor:
        """Write a block and let it attend to all it sees: [L, D]."""
        k, v = self.k[layer, 0], self.v[layer, 0]
        q = ops.rms_rope_write(*block, Slots(k[:, self.num_sink :], v[:, self.num_sink :], where[0]))
        stop = self.num_sink + where[1]
        return self.attention(q.transpose(0, 1)[None], k[None, :, :stop], v[None, :, :stop])

    def begin(self, sink: Sink) -> None:
        """Take over the sinks of another stream."""
        self.set_sink(sink)

    def place(self, sink: Sink, rotation: Rotation, tokens: int) -> None:
        """Rotate the first `tokens` sink keys to where the coming block sees them."""
        cos, sin = rotation[0][:tokens], rotation[1][:tokens]
        for layer, k in enumerate(sink.k):
            ops.rope_copy(k[0, :, :tokens], (cos, sin), self.k[layer, 0, :, :tokens])

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned, or the ring without its sinks."""
        _restore(self.tensors(), tensors, self.num_sink)

    @property
    def ranges(self) -> Tensor | None:
        """Scales of values that a layer has for good; there are none."""
        return None

    def by_token(self, layer: int) -> list[Tensor]:
        """View what a layer holds of the ring's tokens, [M, N, H] each."""
        return [t[layer, 0, :, self.num_sink :].transpose(0, 1) for t in (self.k, self.v)]

    @staticmethod
    def named(parts: list[Tensor]) -> dict[str, Tensor]:
        """Name parts [Y, M, N, H] as `tensors` names the ring."""
        return {name: t.transpose(1, 2)[:, None] for name, t in zip(("k", "v"), parts, strict=True)}


class Workspace:
    """Buffers where an 8-bit ring is laid out for attention: [sink | ring] keys and values [N, M, H]."""

    def __init__(self, sink: Sink, window_tokens: int) -> None:
        like = sink.k[0][0]
        N, L, H = like.shape
        self.k, self.v = (like.new_zeros(N, L + window_tokens, H) for _ in range(2))


class Fp8Ring:
    """A step's ring in e4m3; sinks stay in the model's dtype, one copy for all steps."""

    def __init__(self, sink: Sink, window_tokens: int, workspace: Workspace, attention: FastAttention) -> None:
        N, L, H = sink.k[0].shape[1:]
        Y, device = len(sink.k), sink.k[0].device
        self.num_sink, self.window, self.workspace, self.attention = L, window_tokens, workspace, attention
        self.k, self.v = (torch.zeros(Y, N, window_tokens, H, dtype=FP8, device=device) for _ in range(2))
        self.k_scale, self.v_scale = (torch.zeros(Y, N, window_tokens, device=device) for _ in range(2))
        self.sink = sink
        # One pair for the life of the ring: recorded graphs read it.
        self._rotation = (torch.zeros(L, H // 2, device=device), torch.zeros(L, H // 2, device=device))

    def set_sink(self, sink: Sink) -> None:
        """Take over a (re)computed sink."""
        self.sink = sink

    def begin(self, sink: Sink) -> None:
        """Take over the sinks of another stream."""
        self.set_sink(sink)

    def place(self, sink: Sink, rotation: Rotation, tokens: int) -> None:
        """Store the rotation of the sinks; they are rotated while they are laid out."""
        self.sink = sink
        for kept, new in zip(self._rotation, rotation, strict=True):
            kept[:tokens].copy_(new[:tokens])

    def attend(self, layer: int, where: Where, block: Projected) -> Tensor:
        """Write a block and let it attend: [L, D]; its own keys and values are read unrounded."""
        slot, visible = where
        sink, stop = slice(self.num_sink), self.num_sink + visible
        k, v = self.workspace.k, self.workspace.v
        ops.rope_copy(self.sink.k[layer][0], self._rotation, k[:, sink])
        words(v[:, sink]).copy_(words(self.sink.v[layer][0]))
        ring_k, ring_v = k[:, self.num_sink :], v[:, self.num_sink :]
        q = ops.rms_rope_write(*block, Slots(ring_k, ring_v, slot))
        new = (slot, q.shape[0])
        for stored, scale, ring in ((self.k, self.k_scale, ring_k), (self.v, self.v_scale, ring_v)):
            ops.dequantise_slots(stored[layer, :, :visible], scale[layer, :, :visible], ring[:, :visible], new)
            ops.quantise_slots(ring, stored[layer], scale[layer], new)
        return self.attention(q.transpose(0, 1)[None], k[None, :, :stop], v[None, :, :stop])

    def tensors(self) -> dict[str, Tensor]:
        """The ring's content, for a snapshot."""
        return {"k": self.k, "v": self.v, "k_scale": self.k_scale, "v_scale": self.v_scale}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned."""
        _restore(self.tensors(), tensors)

    @property
    def ranges(self) -> Tensor | None:
        """Scales of values that a layer has for good; there are none."""
        return None

    def by_token(self, layer: int) -> list[Tensor]:
        """View what a layer holds of the ring's tokens: [M, N, H] and scales [M, N]."""
        return [t[layer].transpose(0, 1) for t in self.tensors().values()]

    @staticmethod
    def named(parts: list[Tensor]) -> dict[str, Tensor]:
        """Name parts [Y, M, ...] as `tensors` names the ring."""
        names = ("k", "v", "k_scale", "v_scale")
        return {name: t.transpose(1, 2) for name, t in zip(names, parts, strict=True)}


class Ring8:
    """[sink | ring] of a step in 8 bits, read by attention as it is.

    Keys have a scale for every token and head. Values share one within a layer, taken from the sinks when a stream
    begins, with headroom: e4m3 is as fine for small values as for large ones.
    """

    def __init__(self, sink: Sink, window_tokens: int) -> None:
        N, L, H = sink.k[0].shape[1:]
        Y, device = len(sink.k), sink.k[0].device
        self.num_sink, self.window = L, window_tokens
        M = -(-(L + window_tokens) // VALUES_ALIGN) * VALUES_ALIGN
        self.k = torch.zeros(Y, N, M, H, dtype=torch.int8, device=device)
        self.v = torch.zeros(Y, N, H, M, dtype=FP8, device=device)
        self.k_scale, self.v_scale = torch.zeros(Y, N, M, device=device), torch.ones(Y, 1, device=device)
        self._first = torch.zeros(1, dtype=torch.int32, device=device)
        self.begin(sink)

    def begin(self, sink: Sink) -> None:
        """Take over the sinks of another stream, and the range of its values."""
        self.v_scale.copy_(_scale(torch.stack([v.abs().amax() for v in sink.v]))[:, None])
        self.set_sink(sink)

    def set_sink(self, sink: Sink) -> None:
        """Take over the values of a (re)computed sink; what the ring holds keeps its range."""
        for layer, v in enumerate(sink.v):
            ops.write_values8(v[0], self._of(layer).cut(0, self.num_sink), self._first)

    def place(self, sink: Sink, rotation: Rotation, tokens: int) -> None:
        """Rotate the first `tokens` sink keys to where the coming block sees them."""
        moved = (rotation[0][:tokens], rotation[1][:tokens])
        for layer, k in enumerate(sink.k):
            ops.rope_copy8(k[0, :, :tokens], moved, self._of(layer).cut(0, tokens))

    def attend(self, layer: int, where: Where, block: Projected) -> Tensor:
        """Write a block and let it attend: [L, D]; its own keys and values are read rounded, as by later blocks."""
        held, (slot, visible) = self._of(layer), where
        queries = ops.rms_rope_write8(*block, held.cut(self.num_sink, self.num_sink + self.window), slot)
        return ops.attend8(queries, held.cut(0, self.num_sink + visible), block[0].dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Return the content for a snapshot: sinks and ring."""
        return {"k": self.k, "v": self.v, "k_scale": self.k_scale, "v_scale": self.v_scale}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned, or the ring without its sinks."""
        _restore(self.tensors(), tensors, self.num_sink)

    @property
    def ranges(self) -> Tensor | None:
        """Scales of values that a layer has for good, [Y, 1]."""
        return self.v_scale

    def by_token(self, layer: int) -> list[Tensor]:
        """View what a layer holds of the ring's tokens: [M, N, H] and scales of keys [M, N]."""
        held = self._of(layer).cut(self.num_sink, self.num_sink + self.window)
        return [held.k.transpose(0, 1), held.v.permute(2, 0, 1), held.k_scale.mT]

    @staticmethod
    def named(parts: list[Tensor]) -> dict[str, Tensor]:
        """Name parts [Y, M, ...] as `tensors` names the ring."""
        k, v, k_scale = parts
        return {"k": k.transpose(1, 2), "v": v.permute(0, 2, 3, 1), "k_scale": k_scale.mT}

    def _of(self, layer: int) -> KeyValues8:
        return KeyValues8(self.k[layer], self.k_scale[layer], self.v[layer], self.v_scale[layer])


class E4m3Ring:
    """[sink | ring] of a step in e4m3, read by FlashAttention-3 as it is.

    Values have a scale for every head, taken from the sinks when a stream begins, with headroom.
    """

    def __init__(self, sink: Sink, window_tokens: int, kernel: FlashAttention3 | None) -> None:
        """Allocate and take over sinks.

        Args:
            sink: keys [1, N, L, H] and values of each layer.
            window_tokens: of the ring.
            kernel: reads the ring; None for the torch reference.
        """
        N, L, H = sink.k[0].shape[1:]
        Y, device = len(sink.k), sink.k[0].device
        self.num_sink, self.window, self.kernel = L, window_tokens, kernel
        self.k, self.v = (torch.zeros(Y, N, L + window_tokens, H, dtype=FP8, device=device) for _ in range(2))
        self.v_scale = torch.ones(Y, N, device=device)
        self.begin(sink)

    def begin(self, sink: Sink) -> None:
        """Take over the sinks of another stream, and the range of its values."""
        self.v_scale.copy_(_scale(torch.stack([v.abs().amax(dim=(0, 2, 3)) for v in sink.v])))
        self.set_sink(sink)

    def set_sink(self, sink: Sink) -> None:
        """Take over the values of a (re)computed sink; what the ring holds keeps its range."""
        for layer, v in enumerate(sink.v):
            self.v[layer, :, : self.num_sink].copy_(values_e4m3(v[0], self.v_scale[layer]))

    def place(self, sink: Sink, rotation: Rotation, tokens: int) -> None:
        """Rotate the first `tokens` sink keys to where the coming block sees them."""
        moved = (rotation[0][:tokens], rotation[1][:tokens])
        for layer, k in enumerate(sink.k):
            ops.rope_copy(k[0, :, :tokens], moved, self.k[layer, :, :tokens])

    def attend(self, layer: int, where: Where, block: Projected) -> Tensor:
        """Write a block and let it attend: [L, D]; its own keys and values are read rounded, as by later blocks."""
        held, (slot, visible) = self._of(layer), where
        q = ops.rms_rope_write(*block, held.cut(self.num_sink, self.num_sink + self.window).slots(slot))
        return ops.attend_e4m3(q, held.cut(0, self.num_sink + visible), block[0].dtype, self.kernel)

    def tensors(self) -> dict[str, Tensor]:
        """Return the content for a snapshot: sinks and ring."""
        return {"k": self.k, "v": self.v, "v_scale": self.v_scale}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned, or the ring without its sinks."""
        _restore(self.tensors(), tensors, self.num_sink)

    @property
    def ranges(self) -> Tensor | None:
        """Scales of values that a layer has for good, [Y, N]."""
        return self.v_scale

    def by_token(self, layer: int) -> list[Tensor]:
        """View what a layer holds of the ring's tokens, [M, N, H] each."""
        return [t[layer][:, self.num_sink :].transpose(0, 1) for t in (self.k, self.v)]

    @staticmethod
    def named(parts: list[Tensor]) -> dict[str, Tensor]:
        """Name parts [Y, M, N, H] as `tensors` names the ring."""
        return {name: t.transpose(1, 2) for name, t in zip(("k", "v"), parts, strict=True)}

    def _of(self, layer: int) -> KeyValuesE4m3:
        return KeyValuesE4m3(self.k[layer], self.v[layer], self.v_scale[layer])


def _scale(largest: Tensor) -> Tensor:
    """Compute scales that bring the largest values of sinks, with headroom, into the range of e4m3.

    They are powers of two: nothing is lost but digits.
    """
    return (largest.float() * (_HEADROOM / FP8_MAX)).clamp_min(torch.finfo(torch.float32).tiny).log2().ceil().exp2()


def _restore(live: dict[str, Tensor], stored: dict[str, Tensor], num_sink: int = 0) -> None:
    """Copy stored tensors into the memory of those of the same names; where they have no sinks, behind the sinks."""
    for name, tensor in live.items():
        source = stored[name]
        ring_part(tensor, source.shape, num_sink).copy_(source)


def ring_part(t: Tensor, shape: torch.Size, num_sink: int) -> Tensor:
    """Cut a tensor to a shape that may lack the sinks and what pads the slots: one dimension is the slot."""
    for dim, (own, wanted) in enumerate(zip(t.shape, shape, strict=True)):
        if own > wanted:
            t = t.narrow(dim, num_sink, wanted)
    return t


def words(t: Tensor) -> Tensor:
    """View memory in words of 8 bytes: PyTorch copies slices element by element."""
    return t.view(torch.int64)


class Ring(Protocol):
    """Keys and values of one denoise step, as the transformer uses them."""

    num_sink: int
    window: int

    def begin(self, sink: Sink) -> None:
        """Take over the sinks of another stream."""

    def set_sink(self, sink: Sink) -> None:
        """Take over a (re)computed sink."""

    def place(self, sink: Sink, rotation: Rotation, tokens: int) -> None:
        """Take over where the coming block sees the first `tokens` sink keys."""

    def attend(self, layer: int, where: Where, block: Projected) -> Tensor:
        """Write a block and let it attend to all it sees: [L, D]."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the content for a snapshot."""

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned."""


DeviceRing = Bf16Ring | Fp8Ring | Ring8 | E4m3Ring
