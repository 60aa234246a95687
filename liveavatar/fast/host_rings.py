"""Rings that wait in host memory: the layer that computes has its ring on the device, the next one arrives meanwhile.

A layer of a ring is brought to a *stage*, a ring of one layer that all steps and layers use in turn, and attends there
by the kernels of rings that stay on the device, so both make the same bits. Sinks stay on the device and are laid out
on the stage. Only the slots that a block has written go back, and slots that it is about to overwrite do not come.

On the host a ring lies token by token, so what arrives and what leaves are contiguous pieces.

Shapes: Y layers, M slots of a ring, R bytes of a token in one layer.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from liveavatar.fast.copies import Copies, HostMemory, Mark
from liveavatar.fast.rings import DeviceRing, Projected, Rotation, Where, ring_part, words
from liveavatar.model.kv_ring import Sink

_ALIGN = 16  # bytes, of a token


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """Keys, values and scales of a token, one after the other in R bytes."""

    dtypes: tuple[torch.dtype, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, parts: list[Tensor]) -> "TokenLayout":
        """Describe parts whose first dimension is the token."""
        return cls(tuple(p.dtype for p in parts), tuple(tuple(p.shape[1:]) for p in parts))

    @property
    def offsets(self) -> list[int]:
        """First byte of each part, and the end of the last."""
        ends = [0]
        for dtype, shape in zip(self.dtypes, self.shapes, strict=True):
            ends.append(ends[-1] + prod(shape) * dtype.itemsize)
        return ends

    @property
    def num_bytes(self) -> int:
        """R."""
        return -(-self.offsets[-1] // _ALIGN) * _ALIGN

    def cut(self, rows: Tensor) -> list[Tensor]:
        """View bytes [..., R] as parts [..., shape of the part]."""
        parts = zip(pairwise(self.offsets), self.dtypes, self.shapes, strict=True)
        return [rows[..., start:stop].view(dtype).unflatten(-1, shape) for (start, stop), dtype, shape in parts]


@dataclass(frozen=True, slots=True)
class Arriving:
    """A layer of a ring under way to the device."""

    ring: "weakref.ref[HostRing]"  # it refers to its stage, and its memory must go with its last user
    layer: int
    landing: int
    arrived: Mark


class Stage:
    """One layer's ring on the device, where the rings of all steps attend in turn, and the copies to and from it."""

    def __init__(
        self,
        ring: DeviceRing,
        span: int,
        device: torch.device,
        copies: Callable[[torch.device, str], Copies] = Copies,
    ) -> None:
        """Allocate buffers.

        Args:
            ring: of one layer, on the device.
            span: tokens of a block.
            device: where it computes.
            copies: makes the streams of the two directions.
        """
        self.ring, self.span, self.device = ring, span, device
        self.layout = TokenLayout.of(ring.by_token(0))
        self.inward, self.outward = copies(device, "rings in"), copies(device, "rings out")
        width = self.layout.num_bytes
        self._landing, self._leaving = (
            [torch.zeros(tokens, width, dtype=torch.uint8, device=device) for _ in range(2)]
            for tokens in (ring.window, span)
        )
        self.inward.keep(*self._landing)
        self.outward.keep(*self._leaving)
        free = self.inward.mark()  # their memory may still be in use by what ran before
        self._free: list[Mark] = [free, free]  # a landing's bytes are on the stage
        self._left: list[Mark] = [None, None]  # a leaving buffer's bytes are on the host
        self._arriving: Arriving | None = None
        self._next_landing = self._next_leaving = 0
        self._slot, self._needed = 0, [(0, 0)]

    @property
    def window(self) -> int:
        """Tokens of a ring."""
        return self.ring.window

    def prepare(self, slot: int, visible: int) -> None:
        """Take over where the coming block lies: its first slot, and the filled slots, its own included."""
        self._slot = slot
        ranges = [(0, slot), (slot + self.span, visible)]
        self._needed = [(start, stop) for start, stop in ranges if start < stop]

    def bring(self, ring: "HostRing", layer: int) -> None:
        """Put a layer of a ring on the stage; the one that is used after it begins to arrive."""
        arriving = self._arriving
        if arriving is None or arriving.ring() is not ring or arriving.layer != layer:
            arriving = self._send(ring, layer)
        landing = arriving.landing
        self.inward.wait(arriving.arrived)
        sources = self.layout.cut(self._landing[landing])
        for target, source in zip(self.ring.by_token(0), sources, strict=True):
            for start, stop in self._needed:
                _copy(target[start:stop], source[start:stop])
        self._free[landing] = self.inward.mark()
        following = ring.after(layer)
        self._arriving = None if following is None else self._send(*following)

    def send_back(self, ring: "HostRing", layer: int) -> None:
        """Send what the block has written on the stage to where the ring waits."""
        at, slots = self._next_leaving, slice(self._slot, self._slot + self.span)
        self._next_leaving = 1 - at
        leaving, home = self._leaving[at], ring.memory[layer, slots]
        self.outward.wait(self._left[at])
        for target, source in zip(self.layout.cut(leaving), self.ring.by_token(0), strict=True):
            _copy(target, source[slots])
        written = self.outward.mark()
        self._left[at] = ring.home[layer] = self.outward.begin(lambda: _move(home, leaving), [written])

    def _send(self, ring: "HostRing", layer: int) -> "Arriving":
        landing, needed = self._next_landing, self._needed
        self._next_landing = 1 - landing
        target, source = self._landing[landing], ring.memory[layer]

        def copy() -> None:
            for start, stop in needed:
                _move(target[start:stop], source[start:stop])

        arrived = self.inward.begin(copy, [self._free[landing], ring.home[layer]])
        return Arriving(weakref.ref(ring), layer, landing, arrived)


class HostRing:
    """A step's ring in host memory; it attends on a stage."""

    def __init__(self, sink: Sink, stage: Stage) -> None:
        """Allocate.

        Args:
            sink: of the ring's layers, on the device.
            stage: shared by the rings of all steps.
        """
        self.stage, self.sink = stage, sink
        self.num_sink, self.window = sink.num_tokens, stage.window
        Y, R, H = len(sink.k), stage.layout.num_bytes, sink.k[0].shape[-1]
        self.host = HostMemory(Y * self.window * R, stage.device)
        self.memory = self.host.bytes.view(Y, self.window, R)
        self.home: list[Mark] = [None] * Y  # what a layer has written is there
        self.next: HostRing | None = None  # of the step after this one
        ranges = stage.ring.ranges
        self._ranges = None if ranges is None else ranges.new_ones(Y, *ranges.shape[1:])
        self._rotation = tuple(torch.zeros(self.num_sink, H // 2, device=stage.device) for _ in range(2))
        self.begin(sink)

    def after(self, layer: int) -> "tuple[HostRing, int] | None":
        """Return the ring and layer that are used after a layer; None where a block ends."""
        if layer + 1 < len(self.home):
            return self, layer + 1
        return None if self.next is None else (self.next, 0)

    def begin(self, sink: Sink) -> None:
        """Take over the sinks of another stream, and the range of its values."""
        self.set_sink(sink)
        if self._ranges is not None:
            for layer, kept in enumerate(self._ranges):
                self.stage.ring.begin(self._sink_of(layer))
                assert self.stage.ring.ranges is not None
                kept.copy_(self.stage.ring.ranges[0])

    def set_sink(self, sink: Sink) -> None:
        """Take over a (re)computed sink."""
        self.sink = sink

    def place(self, sink: Sink, rotation: Rotation, tokens: int) -> None:
        """Store the rotation of the sinks; they are rotated while they are laid out."""
        self.sink = sink
        for kept, new in zip(self._rotation, rotation, strict=True):
            kept[:tokens].copy_(new[:tokens])

    def attend(self, layer: int, where: Where, block: Projected) -> Tensor:
        """Write a block and let it attend to all it sees: [L, D]."""
        stage, sink, ring = self.stage, self._sink_of(layer), self.stage.ring
        stage.bring(self, layer)
        if self._ranges is not None:
            assert ring.ranges is not None
            ring.ranges[0].copy_(self._ranges[layer])
        ring.set_sink(sink)
        ring.place(sink, (self._rotation[0], self._rotation[1]), self.num_sink)
        attended = ring.attend(0, where, block)
        stage.send_back(self, layer)
        return attended

    def tensors(self) -> dict[str, Tensor]:
        """Return the content for a snapshot, without sinks; views of the host memory."""
        self.stage.outward.settle()
        found = self.stage.ring.named(self.stage.layout.cut(self.memory))
        return found if self._ranges is None else found | {"v_scale": self._ranges}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned, or that of a ring on the device."""
        for name, held in self.tensors().items():
            held.copy_(ring_part(tensors[name], held.shape, self.num_sink))

    def _sink_of(self, layer: int) -> Sink:
        return Sink([self.sink.k[layer]], [self.sink.v[layer]], self.sink.num_reference)


def _move(target: Tensor, source: Tensor) -> None:
    """Copy between host and device, without waiting where the host's memory is pinned."""
    target.copy_(source, non_blocking=True)


def _copy(target: Tensor, source: Tensor) -> None:
    """Copy on the device, in words where rows are made of them, else in bytes where elements are bytes."""
    if all(t.stride(-1) == 1 and t.shape[-1] * t.itemsize % 8 == 0 for t in (target, source)):
        target, source = words(target), words(source)
    elif target.itemsize == 1:
        target, source = target.view(torch.uint8), source.view(torch.uint8)
    target.copy_(source)
