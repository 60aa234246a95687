"""Denoise steps spread over the ranks of a group: while one rank takes a block through its steps, the rank before it
works on the next block, and the last rank decodes.

The last rank owns the job: it reads the features, asks rank 0 for blocks a few ahead, gets them back denoised, and
decodes, writes and snapshots them as a single process would. It encodes picture and prompt once and sends the result;
the other ranks hold the transformer and nothing else. Snapshots and a change of the reference travel in order with
the blocks, so neither stops the pipeline, save that a block which needs the first one waits for it.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from liveavatar.config import ModelConfig
from liveavatar.distributed.balance import Balance
from liveavatar.distributed.channels import ControlReceiver, ControlSender, LatentReceiver, LatentSender
from liveavatar.distributed.group import FIRST, Group, GroupError, Layout, Message, Op, Shape, settle
from liveavatar.engine.backend import Backend
from liveavatar.engine.clock import mark, on_device, seconds
from liveavatar.engine.denoiser import (
    Conditioning,
    DenoiseSpec,
    Relay,
    is_reanchored,
    load_rings,
    reanchors_at,
    ring_tensors,
)
from liveavatar.engine.job import Block
from liveavatar.engine.memory import MemoryReading, read_memory
from liveavatar.engine.placement import FeaturesOf, Queued, RankWork, Ready, Times
from liveavatar.engine.pose_latents import SkeletonLatents
from liveavatar.engine.threads import Threads
from liveavatar.model.audio_encoder import AudioTokens
from liveavatar.timing import BLOCK_FRAMES, BLOCK_LATENTS

IDLE_SHARE = 0.25  # of the group's time limit: after that without a message, one goes round
AHEAD = 2  # blocks asked for beyond one per rank
GATHER_SHARE = 0.03  # most of the running time that gathering rings for snapshots may take


@dataclass(frozen=True, slots=True)
class Opening:
    """Description of a job that the last rank broadcasts."""

    spec: DenoiseSpec
    conditioning: Conditioning  # on the CPU
    works: tuple[RankWork, ...]
    threads: int


def packet(backend: Backend, spec: DenoiseSpec, work: RankWork) -> Layout:
    """Shapes that a rank sends to the next: a block's latents, audio tokens, drawn pose, activations between layers."""
    dit, dtype = backend.config.dit, backend.dtype
    shapes: list[Shape] = [
        ((1, dit.in_dim, BLOCK_LATENTS, spec.h, spec.w), dtype),
        ((1, BLOCK_LATENTS, dit.num_audio_token + 1, dit.dim), dtype),
        ((1, BLOCK_LATENTS, 1, dit.dim), dtype),
        *pose_shapes(backend.config, dtype, spec),
    ]
    if work.stop_layer is not None:
        tokens = BLOCK_LATENTS * (spec.h // 2) * (spec.w // 2)
        shapes += [((tokens, dit.dim), t) for t in backend.dit.hidden_dtypes(work.stop_layer)]
    return Layout(*shapes)


def request(config: ModelConfig, dtype: torch.dtype, spec: DenoiseSpec) -> Layout:
    """Shapes that the last rank sends to rank 0: speech features of a block, and its pose latents if they are drawn."""
    dit = config.dit
    features = ((1, dit.audio_layers, dit.audio_dim, dit.audio_history_frames + BLOCK_FRAMES), dtype)
    return Layout(features, *pose_shapes(config, dtype, spec))


def pose_shapes(config: ModelConfig, dtype: torch.dtype, spec: DenoiseSpec) -> list[Shape]:
    """Shape of the pose latents of a drawn skeleton, which only the rank with the autoencoder can make."""
    return [((1, config.dit.cond_dim, BLOCK_LATENTS, spec.h, spec.w), dtype)] if spec.skeleton else []


def split_pose(parts: list[Tensor], spec: DenoiseSpec) -> tuple[Tensor | None, list[Tensor]]:
    """Part the pose latents of a drawn skeleton, where there is one, from the activations behind them."""
    return (parts[0], parts[1:]) if spec.skeleton else (None, parts)


class RankClock:
    """Times of a rank's work on a block, and of its wait for it."""

    def __init__(self, rank: int, device: torch.device) -> None:
        self.rank, self.device = rank, device
        self.ended = mark(device)

    def begin(self) -> Any:
        """The next block is here."""
        return mark(self.device)

    def end(self, began: Any, steps: Sequence[int], marks: list[Any]) -> "Spent":
        """All kernels of these steps of a block are queued."""
        before, self.ended = self.ended, mark(self.device)
        return Spent(self.rank, steps, marks, (before, began, self.ended), read_memory(self.device))


@dataclass(frozen=True, slots=True)
class Spent:
    """Marks of steps of one block on one rank."""

    rank: int
    steps: Sequence[int]
    marks: list[Any]  # around its steps
    around: tuple[Any, Any, Any]  # end of the block before, begin, end
    memory: MemoryReading

    def write(self, message: Message) -> None:
        """Add seconds and memory to a header once the kernels have run."""
        message.note_memory(self.rank, self.memory)
        waited, worked = seconds(list(self.around))
        message.wait_s[self.rank] += waited
        message.busy_s[self.rank] += worked
        for step, spent in zip(self.steps, seconds(self.marks) if self.steps else (), strict=True):
            message.step_s[step] += spent


class Tpp:
    """The placement of a job, on the last rank."""

    def __init__(
        self,
        group: Group,
        backend: Backend,
        opening: Opening,
        features: FeaturesOf,
        skeleton: SkeletonLatents | None = None,
        balance: Balance | None = None,
    ) -> None:
        spec = opening.spec
        self.skeleton, self.balance = skeleton, balance
        self.group, self.backend, self.spec = group, backend, spec
        self.features, self.works = features, opening.works
        self.first_latent: Tensor | None = None
        self.work = opening.works[group.last]
        self._conditioning = opening.conditioning
        self.sender = self._link()
        self.receiver = LatentReceiver(group, group.last - 1, packet(backend, spec, opening.works[group.last - 1]))
        self.clock = RankClock(group.last, group.device)
        self.threads = Threads(opening.threads, backend.shares_threads)
        self.issued = self.asked = 0  # block that is sent next; block that is wanted now
        self.every = 0
        self.gather_s = 0.0
        self.began = self.last_sent = time.perf_counter()
        self.ready: Ready | None = None  # of sound that still arrives
        self.has_state = False
        self._under_way: list[Any] = []
        self.relay: Relay | None = None  # where no rank has all layers
        self._open = True

    def _link(self) -> ControlSender | LatentSender:
        """Make the way to rank 0."""
        group = self.group
        layout = request(self.backend.config, self.backend.dtype, self.spec)
        return ControlSender(group, 0, layout, group.world + AHEAD + 1)

    @cached_property
    def denoiser(self) -> Any:
        """The denoiser of this rank's steps; None without any. Made while rank 0 works on its first block."""
        if not self.work.steps:
            return None
        return self.backend.denoiser(self.spec, self._conditioning.to(self.group.device), self.work, self.relay)

    def snapshots_every(self, blocks: int) -> None:
        """Set the number of blocks between two snapshots; 0 for none."""
        self.every = blocks

    @torch.inference_mode()
    def queue(self, index: int) -> Queued:
        """Begin with a block, whose kernels run when it has come; returns when it is known that it will."""
        self._drop_state()
        self.asked = index
        self._ask_ahead(index)
        denoiser = self.denoiser
        message, (x, local, global_, *rest) = self.receiver.take()
        pose, hidden = split_pose(rest, self.spec)
        if (message.op, message.index) != (Op.BLOCK, index):
            raise GroupError(f"block {index} was expected, {message.op.name} {message.index} came")
        began = self.clock.begin()
        marks: list[Any] = []
        if denoiser is not None:
            if message.reanchor:
                assert self.first_latent is not None
                denoiser.reanchor(self.first_latent)
            x, marks = denoiser.queue(index, x, AudioTokens(local, global_), hidden, pose)
        if index == 0:
            self.first_latent = x[:, :, :1].clone()
        self.has_state = message.snapshot
        self._ask_ahead(index + 1)
        spent = self.clock.end(began, self.work.steps, marks)
        return self._queued(x, message, spent)

    def _queued(self, x: Tensor, message: Message, spent: Spent) -> Queued:
        """Return a block whose last step is queued here, with the times of all ranks."""

        def times() -> Times:
            spent.write(message)
            steps = message.step_s[: self.spec.num_steps]
            wait, busy, sent = (tuple(t) for t in (message.wait_s, message.busy_s, message.sent_s))
            return Times(tuple(steps), wait, busy, sent, message.readings())

        return Queued(x, times)

    def hear(self, ready: Ready) -> Ready:
        """Ask ahead only for blocks whose sound is there; while none comes, keep the other ranks from giving up."""
        self.ready = ready

        def awaited(index: int) -> bool | None:
            known = ready(index)
            if known is None and time.perf_counter() - self.last_sent > IDLE_SHARE * self.group.limit.total_seconds():
                self._go_round()
            return known

        return awaited

    def _go_round(self) -> None:
        """Send a message through all ranks, while no block is under way: what waits for one gives up in the end."""
        self._drop_state()
        self._send(self._message(Op.IDLE), [])
        message, _ = self.receiver.take()
        if message.op is not Op.IDLE:
            raise GroupError(f"nothing was under way, {message.op.name} {message.index} came")

    def _send(self, message: Message, parts: list[Tensor]) -> None:
        self.last_sent = time.perf_counter()
        self.sender.send(message, parts)

    def note(self, block: Block) -> None:
        """Take the times of a finished block, by which a later job is divided."""
        if self.balance is not None:
            self.balance.note(block)

    def _ask_ahead(self, index: int) -> None:
        spec = self.spec
        while self.issued < min(spec.num_blocks, index + self.group.world + AHEAD):
            if self.ready is not None and self.issued > self.asked and not self.ready(self.issued):
                return
            reanchor = reanchors_at(self.backend.config, spec, self.issued)
            if reanchor and self.first_latent is None:
                return
            self._issue(reanchor)

    def _issue(self, reanchor: bool) -> None:
        """Ask rank 0 for the next block."""
        due = bool(self.every) and (self.issued + 1) % self.every == 0 and self._affordable()
        message = self._message(Op.BLOCK, self.issued, snapshot=due, reanchor=reanchor)
        drawn = [] if self.skeleton is None else [self.skeleton.latents(self.issued).to("cpu", self.backend.dtype)]
        self._send(message, [self.features(self.issued), *drawn])
        if reanchor:
            self._keep(self._send_first())
        self.issued += 1

    def _affordable(self) -> bool:
        """Return whether gathering rings has taken no more than its share of the time."""
        return self.gather_s <= GATHER_SHARE * (time.perf_counter() - self.began)

    def _message(self, op: Op, index: int = 0, snapshot: bool = False, reanchor: bool = False) -> Message:
        facts = {"index": index, "snapshot": snapshot, "reanchor": reanchor, "threads": self.threads.denoise(index)}
        return Message.of(op, self.group.world, **facts)

    def _send_first(self) -> list[Any]:
        assert self.first_latent is not None
        return [self.group.send(self.first_latent, rank, FIRST) for rank in range(self.group.last)]

    def _keep(self, handles: list[Any]) -> None:
        """Keep a tensor alive while it is sent; it has long gone when the next one leaves."""
        settle(self._under_way)
        self._under_way = handles

    @torch.inference_mode()
    def tensors(self) -> dict[str, Tensor]:
        """Gather the rings of all ranks after the last block; live until the next one."""
        if not self.has_state:
            raise ValueError("no snapshot was announced for this block; see `snapshots_every`")
        self.has_state = False
        started = time.perf_counter()
        parts: dict[str, list[Tensor]] = {}
        for work in self.works[: self.group.last]:
            for name, ring in self.group.receive_rings(work.rank).items():
                parts.setdefault(name, []).append(ring)
        self.gather_s += time.perf_counter() - started
        for name, ring in (ring_tensors(self.denoiser.rings) if self.denoiser is not None else {}).items():
            parts.setdefault(name, []).append(ring)
        # A step that is begun on one rank and ended on another: its layers follow on one another.
        return {name: p[0] if len(p) == 1 else torch.cat([t.cpu() for t in p]) for name, p in parts.items()}

    def _drop_state(self) -> None:
        """Receive and discard a snapshot that was announced but not requested."""
        if self.has_state:
            self.tensors()

    @torch.inference_mode()
    def load(self, position: int, tensors: dict[str, Tensor], first_latent: Tensor | None) -> None:
        """Continue at block `position` of a snapshot: send each rank its rings."""
        self.first_latent, self.issued = first_latent, position
        reanchor = is_reanchored(self.backend.config, self.spec, position)
        self._send(self._message(Op.RESTORE, position, reanchor=reanchor), [])
        handles = self._send_first() if reanchor else []
        for work in self.works[: self.group.last]:
            handles += self.group.send_rings(self._share(work, tensors), work.rank)
        self._keep(handles)
        if self.denoiser is not None:
            load_rings(self.denoiser.rings, self._share(self.work, tensors))
            if reanchor:
                assert first_latent is not None
                self.denoiser.reanchor(first_latent)
        message, _ = self.receiver.take()
        if message.op is not Op.RESTORE:
            raise GroupError(f"rings were sent, {message.op.name} came back")

    def _share(self, work: RankWork, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Select a rank's part of all rings."""
        layers = {f"cache{s.step}": s.layers for s in work.spans(self.backend.config.dit.num_layers)}
        wanted = {name: layers.get(name.split(".")[0]) for name in tensors}
        return {name: tensors[name][own.start : own.stop] for name, own in wanted.items() if own is not None}

    def close(self) -> None:
        """End the job: blocks under way are discarded, and the other ranks are free for the next job."""
        if not self._open:
            return
        self._open = False
        with suppress(GroupError):  # the job is over either way; the next one will notice
            self.sender.send(self._message(Op.END), [])
            message = self._message(Op.BLOCK)
            while message.op is not Op.END:
                self._drop_state()
                message, _ = self.receiver.take()
                self.has_state = message.snapshot
            self.sender.close()
            self._keep([])


class Worker:
    """A rank that is not the last, during one job."""

    def __init__(self, group: Group, backend: Backend, opening: Opening, relay: Relay | None = None) -> None:
        spec, rank = opening.spec, group.rank
        self.group, self.backend, self.spec, self.work = group, backend, spec, opening.works[rank]
        self.reference_shape = tuple(opening.conditioning.reference.shape)
        self.denoiser = backend.denoiser(spec, opening.conditioning.to(group.device), self.work, relay)
        self.receiver: LatentReceiver | ControlReceiver
        if rank == 0:
            self.receiver = self._link()
        else:
            self.receiver = LatentReceiver(group, rank - 1, packet(backend, spec, opening.works[rank - 1]))
        self.sender = LatentSender(group, rank + 1, packet(backend, spec, self.work))
        self.clock = RankClock(rank, group.device)
        self.rings: list[Any] = []  # of a snapshot, on their way

    def _link(self) -> ControlReceiver | LatentReceiver:
        """Make the way from the last rank to rank 0."""
        layout = request(self.backend.config, self.backend.dtype, self.spec)
        return ControlReceiver(self.group, self.group.last, layout)

    @torch.inference_mode()
    def serve(self) -> None:
        """Serve blocks until the job ends."""
        while True:
            message, parts = self.receiver.take()
            if message.threads != torch.get_num_threads():
                torch.set_num_threads(message.threads)
            if message.op is Op.BLOCK:
                self._block(message, parts)
                continue
            if message.op is Op.RESTORE:
                self._restore(message)
            self.sender.send(message, [])
            if message.op is Op.END:
                self.sender.close()
                return settle(self.rings)

    def _block(self, message: Message, parts: list[Tensor]) -> None:
        denoiser, index, began = self.denoiser, message.index, self.clock.begin()
        if message.reanchor:
            denoiser.reanchor(self._first())
        if self.group.rank == 0:
            audio = self.backend.dit.encode_audio(on_device(parts[0], self.group.device))
            drawn = on_device(parts[1], self.group.device) if self.spec.skeleton else None
            x, marks = denoiser.queue(index, denoiser.noise(index), audio, (), drawn)
        else:
            audio = AudioTokens(parts[1], parts[2])
            drawn, hidden = split_pose(parts[3:], self.spec)
            x, marks = denoiser.queue(index, parts[0], audio, hidden, drawn)
        spent = self.clock.end(began, self.work.steps, marks)
        pose = [] if drawn is None else [drawn]
        self.sender.send(message, [x, audio.local, audio.global_, *pose, *denoiser.hidden], spent.write)
        if message.snapshot:
            settle(self.rings)
            self.rings = self.group.send_rings(ring_tensors(denoiser.rings), self.group.last)

    def _restore(self, message: Message) -> None:
        load_rings(self.denoiser.rings, self.group.receive_rings(self.group.last))
        if message.reanchor:
            self.denoiser.reanchor(self._first())

    def _first(self) -> Tensor:
        shape, dtype = self.reference_shape, self.backend.dtype
        return on_device(self.group.receive(shape, dtype, self.group.last, FIRST), self.group.device)
