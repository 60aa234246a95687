"""One video size on one GPU: the buffers of a stream at fixed addresses, and its steps recorded as CUDA graphs.

A graph belongs to one denoise step and one filling of the ring (a quarter, a half, three quarters, full), so a stream
of any length replays the last of them for ever. Where graphs cannot be recorded (the CPU, offloaded layers, a driver
that refuses) the same function is called directly.

Shapes: L tokens of a block, P rotated pairs, C latent channels, h/w latent height and width.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from liveavatar.cache import Sink
from liveavatar.fast.dit import AudioKV, FastDiT
from liveavatar.fast.rings import Bf16Ring, Fp8Ring, Ring, Workspace
from liveavatar.model.dit import Conditions, TextKV
from liveavatar.model.rope import Rotation
from liveavatar.sampling import euler_step
from liveavatar.timing import BLOCK_LATENTS

log = logging.getLogger(__name__)


class Recorded:
    """A function without arguments whose kernels are recorded at its second call and replayed from then on."""

    def __init__(self, work: Callable[[], object], enabled: bool, pool: Any = None) -> None:
        self.work, self.enabled, self.pool = work, enabled, pool
        self.graph: torch.cuda.CUDAGraph | None = None
        self._warm = False

    def __call__(self) -> None:
        """Run it on the current stream."""
        if self.graph is not None:
            self.graph.replay()
        elif self.enabled and self._warm:
            self._record()
        else:
            self.work()
            self._warm = True

    def _record(self) -> None:
        stream = torch.cuda.current_stream()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.pool):
                self.work()
        except RuntimeError as e:
            log.warning("CUDA graphs are off, kernels are launched one by one: %s", str(e).splitlines()[0])
            self.enabled = False
            self.work()
            return
        self.graph = graph
        graph.replay()


class StepRunner:
    """The denoise steps of one video size: buffers, rings, and a graph for each step and filling."""

    def __init__(
        self, dit: FastDiT, sigmas: tuple[float, ...], size: tuple[int, int], sink: Sink, fp8_rings: bool = False
    ) -> None:
        """Allocate everything.

        Args:
            dit: the fast transformer.
            sigmas: noise levels, the terminal 0 included.
            size: latent height and width.
            sink: of the first stream; those of later streams are computed into the same memory.
            fp8_rings: keys and values in 8 bits.
        """
        self.dit, self.sigmas, (self.h, self.w) = dit, sigmas, size
        cfg, device = dit.cfg, dit.device
        area = (self.h // 2) * (self.w // 2)
        self.window, self.span = cfg.window_latents * area, BLOCK_LATENTS * area
        self.x = torch.zeros(1, cfg.in_dim, BLOCK_LATENTS, self.h, self.w, dtype=dit.dtype, device=device)
        pairs = cfg.head_dim // 2
        self.block_turn, self.sink_turn = (
            (torch.zeros(n, pairs, device=device), torch.zeros(n, pairs, device=device))
            for n in (self.span, sink.num_tokens)
        )
        self.slot = torch.zeros(1, dtype=torch.int32, device=device)
        self.levels = [dit.noise_level(torch.full((1, 1), s, device=device)) for s in sigmas[:-1]]
        self.sink = sink
        workspace = Workspace(self.sink, self.window) if fp8_rings else None
        self.rings: list[Ring] = [
            Bf16Ring(self.sink, self.window) if workspace is None else Fp8Ring(self.sink, self.window, workspace)
            for _ in self.levels
        ]
        # Only the reference moves along with the block, unless the model says that all sinks do.
        self.warmed = False
        self._moving = sink.num_tokens if cfg.anchor_motion else sink.num_reference
        self.cond: Conditions | None = None
        self._graphs = device.type == "cuda" and not dit.offload
        self._pool = torch.cuda.graph_pool_handle() if self._graphs else None
        self._recorded: dict[tuple[int, int], Recorded] = {}

    def begin(self, text_kv: TextKV) -> None:
        """Take over the text of a stream, at the same addresses as before, and the sinks, which lie in `sink`."""
        if self.cond is None:
            self.cond = Conditions([(k.clone(), v.clone()) for k, v in text_kv], [])
        else:
            for (k, v), (new_k, new_v) in zip(self.cond.text_kv, text_kv, strict=True):
                k.copy_(new_k)
                v.copy_(new_v)
        for ring in self.rings:
            ring.set_sink(self.sink)

    def prepare(self, x_BCThw: Tensor, audio: AudioKV, frame: int, turns: tuple[Rotation, Rotation]) -> None:
        """Fill the buffers for a block.

        Args:
            x_BCThw: its noise.
            audio: of the block, for every injector.
            frame: index of its first latent in the whole stream.
            turns: rotation of the block's tokens, and of the sinks as the block sees them.
        """
        assert self.cond is not None, "begin() comes first"
        self.x.copy_(x_BCThw)
        if not self.cond.audio_kv:
            self.cond.audio_kv.extend(tuple(t.clone() for t in entry) for entry in audio)
        for kept, entry in zip(self.cond.audio_kv, audio, strict=True):
            for old, value in zip(kept, entry, strict=True):
                old.copy_(value)
        for buffers, turn in zip((self.block_turn, self.sink_turn), turns, strict=True):
            buffers[0].copy_(turn.cos)
            buffers[1].copy_(turn.sin)
        tokens = frame * (self.span // BLOCK_LATENTS)
        self.slot.fill_(tokens % self.window)
        self.visible = min(tokens + self.span, self.window)

    def place_all(self) -> None:
        """Rotate every sink key to where the coming block sees it; `run` then moves only those that move."""
        for ring in self.rings:
            ring.place(self.sink, self.sink_turn, self.sink.num_tokens)

    def run(self, step: int) -> None:
        """One denoise step of the prepared block: x becomes less noisy, the step's ring takes the block in."""
        key = (step, self.visible)
        if key not in self._recorded:
            visible = self.visible
            self._recorded[key] = Recorded(lambda: self._step(step, visible), self._graphs, self._pool)
        self._recorded[key]()

    def _step(self, step: int, visible: int) -> None:
        assert self.cond is not None
        ring = self.rings[step]
        ring.place(self.sink, self.sink_turn, self._moving)
        flow = self.dit.flow(self.x, self.levels[step], self.cond, ring, (self.slot, visible), self.block_turn)
        self.x.copy_(euler_step(self.x, flow, self.sigmas[step], self.sigmas[step + 1]))

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
                for step in range(len(self.levels)):
                    self.run(step)
        torch.cuda.synchronize()

    def forget_graphs(self) -> None:
        """Launch kernels one by one from now on."""
        self._graphs = False
        self._recorded.clear()
