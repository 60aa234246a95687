"""Layers spread over the ranks of a group: each has some layers of every denoise step, and a block goes round once a
step.

A rank holds the weights of its layers only, and their rings of all steps: a group of small GPUs holds what none of
them could, nor all of them if each kept a whole transformer. A step of a block needs the same step of the block before
and nothing else, so several blocks are on their way at once, each at another step; blocks enter at a distance at which
no two of them want a rank at the same time (`lap_tasks`).

Messages keep their order all the way round: every rank takes what comes, and the last one decides when a block enters.
So no rank ever waits for one message while another is at its door, and the few blocks on their way always find room in
the senders' slots. The sinks pass through the layers in the same order, once a job and once more when the reference
changes. They are those of all steps, so the blocks before that change finish first.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from liveavatar.distributed.balance import Balance
from liveavatar.distributed.channels import LatentReceiver, LatentSender
from liveavatar.distributed.group import Group, GroupError, Layout, Message, Op, settle
from liveavatar.distributed.tpp import Opening, Tpp, Worker, request, split_pose
from liveavatar.engine.backend import Backend
from liveavatar.engine.clock import on_device
from liveavatar.engine.denoiser import DenoiseSpec, reanchors_at, ring_tensors
from liveavatar.engine.placement import FeaturesOf, Queued, lap_tasks
from liveavatar.engine.pose_latents import SkeletonLatents
from liveavatar.model.audio_encoder import AudioTokens
from liveavatar.timing import BLOCK_LATENTS


def circle(backend: Backend, spec: DenoiseSpec) -> Layout:
    """Shapes that the last rank sends to rank 0.

    Of a new block these are speech features, and pose latents if they are drawn. Of one that goes on, its latents and
    audio tokens, and its pose.
    """
    dit, dtype = backend.config.dit, backend.dtype
    entering = request(backend.config, dtype, spec)
    return Layout(
        *entering.shapes,
        ((1, dit.in_dim, BLOCK_LATENTS, spec.h, spec.w), dtype),
        ((1, BLOCK_LATENTS, dit.num_audio_token + 1, dit.dim), dtype),
        ((1, BLOCK_LATENTS, 1, dit.dim), dtype),
    )


class SinkRelay:
    """Takes the sinks from the rank before and to the next, through host memory: it happens once or twice a job."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.has_received = False  # the first of a job
        self._under_way: list[Any] = []

    def receive(self) -> tuple[Tensor, Tensor]:
        """Wait for what the rank before made."""
        self.has_received = True
        made = self.group.receive_rings(self.group.rank - 1)
        return on_device(made["x"], self.group.device), on_device(made["y"], self.group.device)

    def send(self, x: Tensor, y: Tensor) -> None:
        """Begin to send to the next rank."""
        settle(self._under_way)
        self._under_way = self.group.send_rings({"x": x, "y": y}, self.group.rank + 1)


class CircularTpp(Tpp):
    """The placement of a job whose blocks go round, on the last rank."""

    def __init__(
        self,
        group: Group,
        backend: Backend,
        opening: Opening,
        features: FeaturesOf,
        skeleton: SkeletonLatents | None = None,
        balance: Balance | None = None,
    ) -> None:
        super().__init__(group, backend, opening, features, skeleton, balance)
        self.relay = self._sinks = SinkRelay(group)
        self.lap = lap_tasks(self.spec.num_steps, group.world)
        self.finished = 0  # blocks
        self._silent = False  # the sound of the next block was not there when it was last asked for
        self._states: dict[int, dict[str, list[Tensor]]] = {}  # rings after a block, its later steps still to come

    def _link(self) -> LatentSender:
        self._circle = LatentSender(self.group, 0, circle(self.backend, self.spec))
        return self._circle

    @torch.inference_mode()
    def queue(self, index: int) -> Queued:
        """Take what comes round until the last step of a block; returns when its kernels are queued."""
        self._drop_state()
        self.asked, self._silent = index, False
        steps = self.spec.num_steps
        self._enter(index * steps + (1 if steps > 1 else self.lap))  # blocks of one step let no other in as they go on
        denoiser = self.denoiser
        while True:
            message, (x, local, global_, *rest) = self.receiver.take()
            if message.op is not Op.BLOCK:
                raise GroupError(f"block {index} was expected, {message.op.name} came")
            if message.threads != torch.get_num_threads():
                torch.set_num_threads(message.threads)
            pose, hidden = split_pose(rest, self.spec)
            began = self.clock.begin()
            if message.reanchor:
                assert self.first_latent is not None
                denoiser.reanchor(self.first_latent)
            audio = AudioTokens(local, global_)
            x, marks = denoiser.queue(message.index, x, audio, hidden, pose, message.step)
            spent = self.clock.end(began, (message.step,), marks)
            if message.snapshot:
                self._gather(message)
            if message.step == steps - 1:
                break
            message.step, message.reanchor = message.step + 1, False
            self._enter(message.index * steps + message.step * self.lap)
            drawn = [] if pose is None else [pose]
            self._circle.send(message, [None, *drawn, x, local, global_], spent.write)
        if message.index != index:
            raise GroupError(f"block {index} was expected, {message.index} came")
        self.finished = index + 1
        if index == 0:
            self.first_latent = x[:, :, :1].clone()
        self.has_state = message.snapshot
        return self._queued(x, message, spent)

    def _enter(self, task: int) -> None:
        """Let in the blocks that are due before a task, counted from the first of all, as rank 0 would best do them."""
        config, spec = self.backend.config, self.spec
        while self.issued < spec.num_blocks and self.issued * spec.num_steps < task and not self._silent:
            reanchor = reanchors_at(config, spec, self.issued)
            if reanchor and self.finished < self.issued:
                return
            if self.ready is not None and self.issued > self.asked and not self.ready(self.issued):
                self._silent = True
                return
            self._issue(reanchor)

    def _send(self, message: Message, parts: Sequence[Tensor]) -> None:
        self.last_sent = time.perf_counter()
        self._circle.send(message, [on_device(part, self.group.device) for part in parts])

    def _gather(self, message: Message) -> None:
        """Take the rings of a step from all ranks as they are after a block, before the next block changes them."""
        started = time.perf_counter()
        state = self._states.setdefault(message.index, {})
        own = ring_tensors({message.step: self.denoiser.rings[message.step]})
        for named in (*self._rings_of_others(), {name: ring.to("cpu", copy=True) for name, ring in own.items()}):
            for name, ring in named.items():
                state.setdefault(name, []).append(ring)
        self.gather_s += time.perf_counter() - started

    def _rings_of_others(self) -> list[dict[str, Tensor]]:
        """Receive what the others send after a step of a block with a snapshot."""
        return [self.group.receive_rings(rank) for rank in range(self.group.last)]

    @torch.inference_mode()
    def tensors(self) -> dict[str, Tensor]:
        """Return the rings of all ranks after the last block."""
        if not self.has_state:
            raise ValueError("no snapshot was announced for this block; see `snapshots_every`")
        self.has_state = False
        state = self._states.pop(self.finished - 1)
        return {name: torch.cat(parts) for name, parts in state.items()}

    def _drop_state(self) -> None:
        if self.has_state:
            self.has_state = False
            self._states.pop(self.finished - 1)

    def load(self, position: int, tensors: dict[str, Tensor], first_latent: Tensor | None) -> None:
        """Continue at block `position` of a snapshot: send each rank its rings."""
        self.finished = position
        super().load(position, tensors, first_latent)

    def close(self) -> None:
        """End the job: blocks under way go no further, and the other ranks are free for the next job."""
        if not self._open:
            return
        self._open = False
        with suppress(GroupError):  # the job is over either way; the next one will notice
            if not self._sinks.has_received:
                self._sinks.receive()
            self.sender.send(self._message(Op.END), [])
            message = self._message(Op.BLOCK)
            while message.op is not Op.END:
                message, _ = self.receiver.take()
                if message.op is Op.BLOCK and message.reanchor:
                    self._sinks.receive()
                if message.op is Op.BLOCK and message.snapshot:
                    self._rings_of_others()
            self.sender.close()
            self._keep([])
        self._states.clear()


class CircularWorker(Worker):
    """A rank that is not the last, during one job whose blocks go round."""

    def __init__(self, group: Group, backend: Backend, opening: Opening) -> None:
        super().__init__(group, backend, opening, SinkRelay(group))

    def _link(self) -> LatentReceiver:
        return LatentReceiver(self.group, self.group.last, circle(self.backend, self.spec))

    def _block(self, message: Message, parts: list[Tensor]) -> None:
        denoiser, index, step = self.denoiser, message.index, message.step
        began = self.clock.begin()
        if message.reanchor:
            denoiser.reanchor(self._first())
        hidden: Sequence[Tensor] = ()
        if self.group.rank:
            x, local, global_, *rest = parts
            drawn, hidden = split_pose(rest, self.spec)
        else:
            features, *rest = parts
            drawn, (x, local, global_) = split_pose(rest, self.spec)
        audio = AudioTokens(local, global_)
        if not self.group.rank and not step:
            x, audio = denoiser.noise(index), self.backend.dit.encode_audio(features)
        x, marks = denoiser.queue(index, x, audio, hidden, drawn, step)
        spent = self.clock.end(began, (step,), marks)
        pose = [] if drawn is None else [drawn]
        self.sender.send(message, [x, audio.local, audio.global_, *pose, *denoiser.hidden], spent.write)
        if message.snapshot:
            settle(self.rings)
            self.rings = self.group.send_rings(ring_tensors({step: denoiser.rings[step]}), self.group.last)
