"""One video size on one GPU: the buffers of a stream at fixed addresses, and its steps recorded as CUDA graphs.

A graph belongs to one denoise step (or some layers of it, what a rank of a group does) and one filling of the ring (a
quarter, a half, three quarters, full), so a stream of any length replays the last of them for ever. Where graphs
cannot be recorded (the CPU, offloaded layers or rings, a driver that refuses) the same function is called directly.

Shapes: L tokens of a block, P rotated pairs, C latent channels, h/w latent height and width.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from liveavatar.engine.placement import Span
from liveavatar.engine.sampling import euler_step
from liveavatar.fast.dit import AudioKV, FastDiT
from liveavatar.fast.gpu_graph import RecordedGraph
from liveavatar.fast.host_rings import HostRing, Stage
from liveavatar.fast.rings import Bf16Ring, DeviceRing, E4m3Ring, Fp8Ring, Ring, Ring8, Workspace
from liveavatar.model.dit import Conditions, TextKV
from liveavatar.model.kv_ring import Sink
from liveavatar.model.rope import Rotation
from liveavatar.timing import BLOCK_LATENTS


class StepRunner:
    """The denoise steps of one video size: buffers, rings, and a graph for each step and filling."""

    def __init__(
        self,
        dit: FastDiT,
        sigmas: tuple[float, ...],
        size: tuple[int, int],
        sink: Sink,
        spans: tuple[Span, ...],
        kv_cache_dtype: str = "bf16",
        has_pose: bool = False,
        rings_on_host: bool = False,
    ) -> None:
        """Allocate buffers and rings.

        Args:
            dit: the fast transformer.
            sigmas: noise levels, the terminal 0 included.
            size: latent height and width.
            sink: of the first stream; those of later streams are computed into the same memory.
            spans: what is done here, in order.
            kv_cache_dtype: "bf16": keys and values in the model's dtype; "fp8": in 8 bits; "int8": self-attention in
                8 bits, and with it keys and values; "e4m3": the same by FlashAttention-3.
            has_pose: whether blocks have pose latents.
            rings_on_host: rings wait in host memory, and layers arrive one ahead of their use.
        """
        self.dit, self.sigmas, (self.h, self.w), self.spans = dit, sigmas, size, spans
        cfg, device = dit.cfg, dit.device
        area = (self.h // 2) * (self.w // 2)
        self.window, self.span = cfg.window_latents * area, BLOCK_LATENTS * area
        self.x = torch.zeros(1, cfg.in_dim, BLOCK_LATENTS, self.h, self.w, dtype=dit.dtype, device=device)
        shape = (1, cfg.cond_dim, BLOCK_LATENTS, self.h, self.w)
        self.pose = torch.zeros(shape, dtype=dit.dtype, device=device) if has_pose else None
        pairs = cfg.head_dim // 2
        self.block_rotation, self.sink_rotation = (
            (torch.zeros(n, pairs, device=device), torch.zeros(n, pairs, device=device))
            for n in (self.span, sink.num_tokens)
        )
        self.slot = torch.zeros(1, dtype=torch.int32, device=device)
        self.levels = [dit.noise_level(torch.full((1, 1), sigmas[s.step], device=device)) for s in spans]
        self.sink = sink
        # The memory is that of `sink`, which stays where it is.
        first = dit.kept.start
        parts = [slice(s.layers.start - first, s.layers.stop - first) for s in spans]
        self.sinks = [Sink(sink.k[part], sink.v[part], sink.num_reference) for part in parts]
        self.stage: Stage | None = None
        self.rings: list[Ring] = []
        make = _ring_maker(dit, kv_cache_dtype, sink, self.window)
        if rings_on_host:
            self.stage = Stage(make(Sink(sink.k[:1], sink.v[:1], sink.num_reference)), self.span, device)
            waiting = [HostRing(part, self.stage) for part in self.sinks]
            for ring, following in pairwise(waiting):
                ring.next = following
            self.rings += waiting
        else:
            self.rings += [make(part) for part in self.sinks]
        self.entering = self._hidden(spans[0].layers.start)
        self.leaving = self._hidden(spans[-1].layers.stop)
        self.warmed = False
        # Only the reference moves along with the block, unless the model says that all sinks do.
        self._moving = sink.num_tokens if cfg.anchor_motion else sink.num_reference
        self.cond: Conditions | None = None
        self._graphs = device.type == "cuda" and not dit.offload and not rings_on_host
        self._pool = torch.cuda.graph_pool_handle() if self._graphs else None
        self._recorded: dict[tuple[int, int], RecordedGraph] = {}

    def _hidden(self, layer: int) -> tuple[Tensor, ...]:
        """Allocate activations between the layer before and this one; none where a step begins or ends."""
        if layer in (0, self.dit.num_layers):
            return ()
        shape, device = (self.span, self.dit.cfg.dim), self.dit.device
        return tuple(torch.zeros(shape, dtype=t, device=device) for t in self.dit.hidden_dtypes(layer))

    def begin(self, text_kv: TextKV) -> TextKV:
        """Take over the text of a stream, at the same addresses as before, and the sinks, which lie in `sink`.

        Returns:
            The text where it lies now.
        """
        if self.cond is None:
            self.cond = Conditions([tuple(t.clone() for t in own) for own in text_kv], [], self.pose)
        else:
            for own, new in zip(self.cond.text_kv, text_kv, strict=True):
                for t, of_stream in zip(own, new, strict=True):
                    t.copy_(of_stream)
        for ring, sink in zip(self.rings, self.sinks, strict=True):
            ring.begin(sink)
        return self.cond.text_kv

    def reanchor(self) -> None:
        """Take over the sinks, which were computed anew in mid-stream."""
        for ring, sink in zip(self.rings, self.sinks, strict=True):
            ring.set_sink(sink)

    def prepare(
        self,
        x_BCThw: Tensor,
        audio: AudioKV,
        frame: int,
        rotations: tuple[Rotation, Rotation],
        hidden: Sequence[Tensor] = (),
        pose: Tensor | None = None,
    ) -> None:
        """Fill the buffers for a block.

        Args:
            x_BCThw: its noise.
            audio: of the block, for every injector.
            frame: index of its first latent in the whole stream.
            rotations: of the block's tokens, and of the sinks as the block sees them.
            hidden: what the layer before the first one here made, unless that begins a step.
            pose: its pose latents, where blocks have them.
        """
        assert self.cond is not None, "begin() comes first"
        self.x.copy_(x_BCThw)
        if self.pose is not None and pose is not None:
            self.pose.copy_(pose)
        if not self.cond.audio_kv:
            self.cond.audio_kv.extend(tuple(t.clone() for t in entry) for entry in audio)
        for kept, entry in zip(self.cond.audio_kv, audio, strict=True):
            for old, value in zip(kept, entry, strict=True):
                old.copy_(value)
        for room, value in zip(self.entering, hidden, strict=False):
            room.copy_(value)
        for buffers, rotation in zip((self.block_rotation, self.sink_rotation), rotations, strict=True):
            buffers[0].copy_(rotation.cos)
            buffers[1].copy_(rotation.sin)
        tokens = frame * (self.span // BLOCK_LATENTS)
        self.slot.fill_(tokens % self.window)
        self.visible = min(tokens + self.span, self.window)
        if self.stage is not None:
            self.stage.prepare(tokens % self.window, self.visible)

    def place_all(self) -> None:
        """Rotate every sink key to where the coming block sees it; `run` then moves only those that move."""
        for ring, sink in zip(self.rings, self.sinks, strict=True):
            ring.place(sink, self.sink_rotation, sink.num_tokens)

    def run(self, at: int) -> None:
        """Run one span of the prepared block: x becomes less noisy with its last layer, its ring takes the block in."""
        key = (at, self.visible)
        if key not in self._recorded:
            visible = self.visible
            self._recorded[key] = RecordedGraph(lambda: self._span(at, visible), self._graphs, self._pool)
        self._recorded[key]()

    def _span(self, at: int, visible: int) -> None:
        assert self.cond is not None
        dit, span, ring, level = self.dit, self.spans[at], self.rings[at], self.levels[at]
        ring.place(self.sinks[at], self.sink_rotation, self._moving)
        hidden = dit.enter(self.x, self.cond) if span.layers.start == 0 else (self.entering[0], self.entering[1])
        where = (self.slot, visible)
        x, y = dit.through(hidden, span.layers, level, self.cond, ring, where, self.block_rotation)
        if span.layers.stop < dit.num_layers:
            assert y is not None
            self.leaving[0].copy_(x)
            self.leaving[1].copy_(y)
            return
        flow = dit.leave((x, y), level, (self.h, self.w))
        self.x.copy_(euler_step(self.x, flow, self.sigmas[span.step], self.sigmas[span.step + 1]))

    @property
    def num_recorded(self) -> int:
        """Return the number of recorded graphs."""
        return sum(r.graph is not None for r in self._recorded.values())

    def warm(self) -> None:
        """Run and record every step at every filling, so that nothing is compiled or recorded in mid-stream.

        The rings hold rubbish afterwards; `begin` and the first blocks overwrite what a stream can see.
        """
        self.warmed = True
        if not self._graphs:
            return
        self.slot.zero_()
        for visible in range(self.span, self.window + 1, self.span):
            self.visible = visible
            for _ in range(2):
                for at in range(len(self.spans)):
                    self.run(at)
        torch.cuda.synchronize()

    def forget_graphs(self) -> None:
        """Launch kernels one by one from now on, and give the memory of graphs back."""
        self._graphs = False
        for recorded in self._recorded.values():
            recorded.forget()
        self._recorded.clear()


def _ring_maker(dit: FastDiT, kv_cache_dtype: str, sink: Sink, window: int) -> Callable[[Sink], DeviceRing]:
    """Return what makes a ring of some layers on the device, given their sinks."""
    if kv_cache_dtype == "int8":
        return lambda part: Ring8(part, window)
    if kv_cache_dtype == "e4m3":
        kernel = dit.attention.load_flash3(dit.device)
        return lambda part: E4m3Ring(part, window, kernel)
    if kv_cache_dtype == "fp8":
        workspace = Workspace(sink, window)
        return lambda part: Fp8Ring(part, window, workspace, dit.attention)
    return lambda part: Bf16Ring(part, window, dit.attention)
