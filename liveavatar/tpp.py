"""Denoise steps spread over the ranks of a group: while one rank takes a block through its steps, the rank before it
works on the next block, and the last rank decodes.

The last rank owns the job: it reads the features, asks rank 0 for blocks a few ahead, gets them back denoised, and
decodes, writes and snapshots them as a single process would. It encodes picture and prompt once and sends the result;
the other ranks hold the transformer and nothing else. Snapshots and a change of the reference travel in order with
the blocks, so neither stops the pipeline, save that a block which needs the first one waits for it.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from liveavatar.checkpoint import LoadedModel
from liveavatar.config import ModelConfig
from liveavatar.denoiser import Conditioning, Course, Denoiser
from liveavatar.engine import Engine
from liveavatar.group import (
    FIRST,
    RING,
    Group,
    GroupError,
    Inbox,
    Layout,
    Message,
    Op,
    Outbox,
    settle,
)
from liveavatar.model.audio_encoder import AudioTokens
from liveavatar.placement import Denoised, FeaturesOf, Stage
from liveavatar.timing import BLOCK_FRAMES, BLOCK_LATENTS

AHEAD = 2  # blocks asked for beyond one per rank
GATHER_SHARE = 0.03  # most of the running time that gathering rings for snapshots may take
RING_DIMS = 5


@dataclass(frozen=True, slots=True)
class Opening:
    """What the last rank tells the others about a job."""

    course: Course
    given: Conditioning  # on the CPU
    stages: tuple[Stage, ...]
    threads: int


def packet(config: ModelConfig, course: Course, dtype: torch.dtype) -> Layout:
    """What travels from rank to rank: latents and audio tokens of a block."""
    dit = config.dit
    return Layout(
        ((1, dit.in_dim, BLOCK_LATENTS, course.h, course.w), dtype),
        ((1, BLOCK_LATENTS, dit.num_audio_token + 1, dit.dim), dtype),
        ((1, BLOCK_LATENTS, 1, dit.dim), dtype),
    )


def request(config: ModelConfig, dtype: torch.dtype) -> Layout:
    """What the last rank sends to rank 0: speech features of a block."""
    dit = config.dit
    return Layout(((1, dit.audio_layers, dit.audio_dim, dit.audio_history_frames + BLOCK_FRAMES), dtype))


class Tpp:
    """The placement of a job, on the last rank."""

    def __init__(self, group: Group, model: Engine, course: Course, opening: Opening, features: FeaturesOf) -> None:
        config, given = model.config, opening.given
        self.group, self.course, self.features, self.stages = group, course, features, opening.stages
        self.reanchors = config.reanchor
        self.first_latent: Tensor | None = None
        own = opening.stages[group.last].steps
        given = on_device(given, group.device)
        self.denoiser = Denoiser(model.dit, config, course, given, own) if own else None
        self.outbox = Outbox(group, 0, request(config, model.dtype), group.world + AHEAD + 1, over_data=False)
        self.inbox = Inbox(group, group.last - 1, packet(config, course, model.dtype), over_data=True)
        self.dtype = model.dtype
        self.issued = 0
        self.every = 0
        self.gather_s = 0.0
        self.began = time.perf_counter()
        self.has_state = False
        self._under_way: list[Any] = []
        self._open = True

    def snapshots_every(self, blocks: int) -> None:
        """See `Placement`."""
        self.every = blocks

    @torch.inference_mode()
    def run(self, index: int) -> Denoised:
        """See `Placement`."""
        self._drop_state()
        self._ask_ahead(index)
        started = time.perf_counter()
        message, (x, local, global_) = self.inbox.take()
        if (message.op, message.index) != (Op.BLOCK, index):
            raise GroupError(f"block {index} was expected, {message.op.name} {message.index} came")
        message.wait_s[self.group.last] = time.perf_counter() - started
        step_s = message.step_s[: self.course.num_steps]
        if self.denoiser is not None:
            if message.reanchor:
                assert self.first_latent is not None
                self.denoiser.reanchor(self.first_latent)
            x, own_s = _timed(self.denoiser, index, x, AudioTokens(local, global_))
            step_s[len(step_s) - len(own_s) :] = own_s
        else:
            x = x.clone()  # the buffer is for the block after the next
        if index == 0:
            self.first_latent = x[:, :, :1].clone()
        self.has_state = message.snapshot
        self._ask_ahead(index + 1)
        return Denoised(x, tuple(step_s), tuple(message.wait_s))

    def _ask_ahead(self, index: int) -> None:
        course = self.course
        while self.issued < min(course.num_blocks, index + self.group.world + AHEAD):
            reanchor = self.reanchors and self.issued == course.clip_blocks
            if reanchor and self.first_latent is None:
                return
            due = bool(self.every) and (self.issued + 1) % self.every == 0 and self._affordable()
            message = self._message(Op.BLOCK, self.issued, snapshot=due, reanchor=reanchor)
            self.outbox.send(message, [self.features(self.issued)])
            if reanchor:
                self._keep(self._send_first())
            self.issued += 1

    def _affordable(self) -> bool:
        """Whether gathering rings has taken no more than its share of the time."""
        return self.gather_s <= GATHER_SHARE * (time.perf_counter() - self.began)

    def _message(self, op: Op, index: int = 0, snapshot: bool = False, reanchor: bool = False) -> Message:
        wait_s = [0.0] * self.group.world
        return Message(op, index, snapshot, reanchor, torch.get_num_threads(), wait_s=wait_s)

    def _send_first(self) -> list[Any]:
        assert self.first_latent is not None
        return [self.group.send(self.first_latent, rank, FIRST) for rank in range(self.group.last)]

    def _keep(self, handles: list[Any]) -> None:
        """Hold on to what is on its way; it has long gone when the next such thing leaves."""
        settle(self._under_way)
        self._under_way = handles

    @torch.inference_mode()
    def tensors(self) -> dict[str, Tensor]:
        """See `Placement`."""
        if not self.has_state:
            raise ValueError("no snapshot was announced for this block; see `snapshots_every`")
        self.has_state = False
        started = time.perf_counter()
        rings: dict[str, Tensor] = {}
        for stage in self.stages[: self.group.last]:
            shape = self.group.receive((RING_DIMS,), torch.int64, stage.rank, RING).tolist()
            for step in stage.steps:
                for name in ("k", "v"):
                    rings[f"cache{step}.{name}"] = self.group.receive(shape, self.dtype, stage.rank, RING)
        self.gather_s += time.perf_counter() - started
        return rings | (self.denoiser.tensors() if self.denoiser is not None else {})

    def _drop_state(self) -> None:
        """Take rings off the wire that nobody asked for."""
        if self.has_state:
            self.tensors()

    @torch.inference_mode()
    def load(self, position: int, tensors: dict[str, Tensor], first_latent: Tensor | None) -> None:
        """See `Placement`."""
        self.first_latent, self.issued = first_latent, position
        reanchor = self.reanchors and position > self.course.clip_blocks
        self.outbox.send(self._message(Op.RESTORE, position, reanchor=reanchor), [])
        handles = self._send_first() if reanchor else []
        for stage in self.stages[: self.group.last]:
            own = [tensors[f"cache{step}.{name}"] for step in stage.steps for name in ("k", "v")]
            handles.append(self.group.send(torch.tensor(own[0].shape), stage.rank, RING))
            handles += [self.group.send(t.to(self.dtype), stage.rank, RING) for t in own]
        self._keep(handles)
        if self.denoiser is not None:
            self.denoiser.load(tensors)
            if reanchor:
                assert first_latent is not None
                self.denoiser.reanchor(first_latent)
        message, _ = self.inbox.take()
        if message.op is not Op.RESTORE:
            raise GroupError(f"rings were sent, {message.op.name} came back")

    def close(self) -> None:
        """See `Placement`; blocks under way are thrown away."""
        if not self._open:
            return
        self._open = False
        with suppress(GroupError):  # the job is over either way; the next one will notice
            self.outbox.send(self._message(Op.END), [])
            message = self._message(Op.BLOCK)
            while message.op is not Op.END:
                self._drop_state()
                message, _ = self.inbox.take()
                self.has_state = message.snapshot
            self.outbox.close()
            self._keep([])


class Worker:
    """A rank that is not the last, during one job."""

    def __init__(self, group: Group, model: LoadedModel, opening: Opening) -> None:
        config, course, dtype = model.config, opening.course, model.dit.dtype
        self.group, self.course, self.dit, self.dtype = group, course, model.dit, dtype
        self.reference_shape = tuple(opening.given.reference.shape)
        self.denoiser = Denoiser(
            model.dit, config, course, on_device(opening.given, group.device), opening.stages[group.rank].steps
        )
        rank, shapes = group.rank, packet(config, course, dtype)
        if rank == 0:
            self.inbox = Inbox(group, group.last, request(config, dtype), over_data=False)
        else:
            self.inbox = Inbox(group, rank - 1, shapes, over_data=True)
        self.outbox = Outbox(group, rank + 1, shapes, 2, over_data=True)
        self.rings: list[Any] = []  # of a snapshot, on their way

    @torch.inference_mode()
    def work(self) -> None:
        """Until the job ends."""
        while True:
            started = time.perf_counter()
            message, parts = self.inbox.take()
            message.wait_s[self.group.rank] = time.perf_counter() - started
            if message.threads != torch.get_num_threads():
                torch.set_num_threads(message.threads)
            if message.op is Op.BLOCK:
                self._block(message, parts)
                continue
            if message.op is Op.RESTORE:
                self._restore(message)
            self.outbox.send(message, [])
            if message.op is Op.END:
                self.outbox.close()
                return settle(self.rings)

    def _block(self, message: Message, parts: list[Tensor]) -> None:
        denoiser, index = self.denoiser, message.index
        if message.reanchor:
            denoiser.reanchor(self._first())
        if self.group.rank == 0:
            audio = self.dit.encode_audio(parts[0].to(self.group.device))
            x = denoiser.noise(index)
        else:
            x, audio = parts[0], AudioTokens(parts[1], parts[2])
        x, step_s = _timed(denoiser, index, x, audio)
        first = next(iter(denoiser.caches))
        message.step_s[first : first + len(step_s)] = step_s
        self.outbox.send(message, [x, audio.local, audio.global_])
        if message.snapshot:
            settle(self.rings)
            rings = list(denoiser.tensors().values())
            self.rings = [self.group.send(torch.tensor(rings[0].shape), self.group.last, RING)]
            self.rings += [self.group.send(ring, self.group.last, RING) for ring in rings]

    def _restore(self, message: Message) -> None:
        shape = self.group.receive((RING_DIMS,), torch.int64, self.group.last, RING).tolist()
        names = self.denoiser.tensors()
        self.denoiser.load({name: self.group.receive(shape, self.dtype, self.group.last, RING) for name in names})
        if message.reanchor:
            self.denoiser.reanchor(self._first())

    def _first(self) -> Tensor:
        return self.group.receive(self.reference_shape, self.dtype, self.group.last, FIRST).to(self.group.device)


def on_device(given: Conditioning, device: torch.device) -> Conditioning:
    """Conditioning on a device."""
    pose = None if given.pose is None else given.pose.to(device)
    return Conditioning(given.text.to(device), given.reference.to(device), given.motion.to(device), pose)


def _timed(denoiser: Denoiser, index: int, x: Tensor, audio: AudioTokens) -> tuple[Tensor, tuple[float, ...]]:
    """Run a block's steps; on a GPU the last of them takes until the result is there."""
    started = time.perf_counter()
    x, step_s = denoiser.run(index, x, audio)
    if x.is_cuda:
        torch.cuda.current_stream(x.device).synchronize()
        step_s = (*step_s[:-1], time.perf_counter() - started - sum(step_s[:-1]))
    return x, step_s
