"""Weights as the fast path holds them: fused, in e4m3 if asked, and, when offloaded, in pinned host memory.

Shapes: K inputs, O outputs of a linear layer, L rows, D model width.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveavatar.engine.clock import side_stream
from liveavatar.fast import ops
from liveavatar.fast.reference import Quantised, Rows, quantise_rows
from liveavatar.model.dit import CausalDiT

log = logging.getLogger(__name__)

_ALIGN = 256  # bytes, of a tensor within an offloaded layer
_PIECES = 4  # of an offloaded layer, at most
_HEADROOM = 16  # e4m3 matrix products want both sides in multiples of this


@dataclass(frozen=True, slots=True)
class Linear:
    """One or several linear layers side by side: y = x W^T + b, W [O, K] in the model's dtype or e4m3."""

    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None = None  # [1, O] fp32 of an e4m3 weight, one for each output

    @property
    def quantised(self) -> bool:
        """Return whether inputs are taken in e4m3."""
        return self.scale is not None

    def to(self, device: torch.device) -> "Linear":
        """The same layer on a device."""
        return Linear(*(None if t is None else t.to(device) for t in (self.weight, self.bias, self.scale)))

    def __call__(self, x: Rows) -> Tensor:
        """Outputs [L, O] in the bias's dtype; a plain x is quantised here if need be."""
        if self.scale is None:
            assert isinstance(x, Tensor)
            return F.linear(x, self.weight, self.bias)
        rows = x if isinstance(x, Quantised) else ops.quantise_rows(x.contiguous())
        assert self.bias is not None
        if rows.values.device.type != "cuda":
            product = rows.dequantise() @ (self.weight.float() * self.scale.mT).mT
            return (product + self.bias.float()).to(self.bias.dtype)
        return torch._scaled_mm(
            rows.values, self.weight.mT, scale_a=rows.scale, scale_b=self.scale, bias=self.bias,
            out_dtype=self.bias.dtype, use_fast_accum=True,
        )  # fmt: skip


def pack(layers: Sequence[nn.Linear], fp8: bool, device: torch.device) -> Linear:
    """Fuse linear layers with the same input, on the device, and take their weights away from them.

    The host would quantise to other bits: it divides where a GPU multiplies by the reciprocal.
    """
    weight = torch.cat([layer.weight.to(device) for layer in layers])
    bias = torch.cat([layer.bias.to(device) for layer in layers])
    for layer in layers:
        layer.weight.data = layer.weight.data.new_empty(0)
    if not fp8 or weight.shape[0] % _HEADROOM or weight.shape[1] % _HEADROOM:
        return Linear(weight.contiguous(), bias)
    rows = quantise_rows(weight)
    return Linear(rows.values, bias, rows.scale.mT.contiguous())


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerWeights:
    """The linear layers of a block and of its audio injector, those that every denoise step needs."""

    qkv: Linear
    o: Linear
    cross_q: Linear
    cross_o: Linear
    up: Linear
    down: Linear
    audio_q: Linear | None = None
    audio_o: Linear | None = None

    def linears(self) -> dict[str, Linear]:
        """Return the layers that exist, by name."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: linear for name, linear in found.items() if linear is not None}

    def with_weights(self, weights: dict[str, Tensor]) -> "LayerWeights":
        """The same layer with its weights elsewhere; biases and scales stay."""
        return replace(self, **{name: replace(self.linears()[name], weight=w) for name, w in weights.items()})


def pack_layer(dit: CausalDiT, index: int, fp8: bool, device: torch.device) -> LayerWeights:
    """Fuse and quantise one layer of a transformer, which loses it."""
    block = dit.blocks[index]
    own, cross = block.self_attn, block.cross_attn
    number = dit.injector_of.get(index)
    audio = None if number is None else dit.audio_injector.injector[number]
    return LayerWeights(
        qkv=pack([own.q, own.k, own.v], fp8, device),
        o=pack([own.o], fp8, device),
        cross_q=pack([cross.q], fp8, device),
        cross_o=pack([cross.o], fp8, device),
        up=pack([block.ffn[0]], fp8, device),
        down=pack([block.ffn[2]], fp8, device),
        audio_q=None if audio is None else pack([audio.q], fp8, device),
        audio_o=None if audio is None else pack([audio.o], fp8, device),
    )


class Resident:
    """Layers on the device: all, or a run of them."""

    def __init__(self, layers: list[LayerWeights], first: int = 0) -> None:
        self._layers, self._first = layers, first

    def __len__(self) -> int:
        return len(self._layers)

    def use(self, index: int) -> LayerWeights:
        """A layer, ready to compute with."""
        return self._layers[index - self._first]

    def done(self) -> None:
        """The layer last asked for is not needed any more."""


class Streamed:
    """Layers in pinned host memory; while one computes, the next one arrives in the other of two slots."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._layers: list[LayerWeights] = []  # weights without memory
        self._host: list[list[Tensor]] = []  # their bytes, in pieces
        self._slots: tuple[Tensor, Tensor] | None = None
        self._next_slot = 0  # slot the next copy goes to
        self._arriving: tuple[int, int] | None = None  # (layer, slot) under way
        self._computing = 0  # slot in use
        cuda = device.type == "cuda"
        self._copies = side_stream(device, "weights")
        self._arrived = [torch.cuda.Event() for _ in range(2)] if cuda else []
        self._free = [torch.cuda.Event() for _ in range(2)] if cuda else []

    def __len__(self) -> int:
        return len(self._layers)

    @property
    def host_bytes(self) -> int:
        """Pinned memory in use."""
        return sum(map(_num_bytes, self._host))

    def append(self, layer: LayerWeights) -> None:
        """Move a layer to host memory."""
        views = {name: linear.weight for name, linear in layer.linears().items()}
        size = sum(_padded(w) for w in views.values())
        flat = torch.empty(size, dtype=torch.uint8)
        for name, view in _views(flat, views).items():
            view.copy_(views[name])
        pieces = flat.split(piece_sizes(size))
        self._host.append([p.clone() if self._copies is None else p.pin_memory() for p in pieces])
        self._layers.append(layer.with_weights({name: w.to("meta") for name, w in views.items()}))
        self._slots = None

    def use(self, index: int) -> LayerWeights:
        """A layer on the device; the layer after it begins to arrive."""
        if self._arriving is None or self._arriving[0] != index:
            self._send(index)
        assert self._arriving is not None
        slot = self._computing = self._arriving[1]
        if self._copies is not None:
            torch.cuda.current_stream(self.device).wait_event(self._arrived[slot])
        self._send((index + 1) % len(self))
        layer = self._layers[index]
        assert self._slots is not None
        return layer.with_weights(_views(self._slots[slot], {n: x.weight for n, x in layer.linears().items()}))

    def done(self) -> None:
        """The layer last asked for is not needed any more: its slot may be overwritten."""
        if self._copies is not None:
            self._free[self._computing].record(torch.cuda.current_stream(self.device))

    def _send(self, index: int) -> None:
        if self._slots is None:
            largest = max(map(_num_bytes, self._host))
            first, second = (torch.empty(largest, dtype=torch.uint8, device=self.device) for _ in range(2))
            self._slots = (first, second)
            if self._copies is not None:  # their memory may still be in use by what ran before
                self._copies.wait_stream(torch.cuda.current_stream(self.device))
                for room in self._slots:  # nor may it be given away while a copy that nobody will use arrives
                    room.record_stream(self._copies)
        slot, sources = self._next_slot, self._host[index]
        self._next_slot = 1 - slot
        targets = self._slots[slot][: _num_bytes(sources)].split([s.numel() for s in sources])
        if self._copies is not None:
            self._copies.wait_event(self._free[slot])
        with torch.cuda.stream(self._copies):
            for target, source in zip(targets, sources, strict=True):
                target.copy_(source, non_blocking=True)
            if self._copies is not None:
                self._arrived[slot].record(self._copies)
        self._arriving = (index, slot)


def _num_bytes(pieces: list[Tensor]) -> int:
    return sum(p.numel() for p in pieces)


def piece_sizes(size: int) -> list[int]:
    """Return sizes of pieces, all but the last powers of two: pinned memory is rounded up to one."""
    sizes: list[int] = []
    while size and len(sizes) < _PIECES - 1:
        sizes.append(1 << (size.bit_length() - 1))
        size -= sizes[-1]
    return [*sizes, size] if size else sizes


def _padded(t: Tensor) -> int:
    return -(-t.numel() * t.element_size() // _ALIGN) * _ALIGN


def _views(flat: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cut tensors of the same dtypes and shapes as `like`, one after the other in `flat`."""
    at, views = 0, {}
    for name, t in like.items():
        views[name] = flat[at : at + t.numel() * t.element_size()].view(t.dtype).view(t.shape)
        at += _padded(t)
    return views


Layers = Resident | Streamed


def pack_layers(dit: CausalDiT, fp8: bool, offload: bool, device: torch.device) -> Layers:
    """Pack all layers of a transformer, which loses them one by one, so that no second copy is ever whole."""
    if not offload:
        return Resident([pack_layer(dit, i, fp8, device) for i in dit.kept], dit.kept.start)
    streamed = Streamed(device)
    for i in range(len(dit.blocks)):
        streamed.append(pack_layer(dit, i, fp8, device))
    log.info("%.1f GB of weights wait in pinned host memory", streamed.host_bytes / 2**30)
    return streamed
