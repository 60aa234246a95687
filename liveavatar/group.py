"""A group of processes that render one job together: how they find one another and how tensors travel.

Ranks form a ring: work goes from the last rank to rank 0, and latents from rank to rank back to the last. Small
things and snapshots go over gloo (*control*); latents between GPUs over NCCL (*data*), which on CPUs is gloo too. Sends
and receives are posted ahead into buffers of their own, so that no rank computes less because another one listens late.
Everything that waits has a time limit: a rank that died or hangs ends in `GroupError` on the others, never in silence.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

LIMIT_SECONDS = 120.0  # for anything to arrive: longer than a stopped process usually stays stopped
MAX_STEPS = 8
HEADER, PAYLOAD, RING, FIRST = 1, 2, 3, 4  # tags
ALIGN = 16  # bytes

Address = tuple[str, int]
Shape = tuple[tuple[int, ...], torch.dtype]


class GroupError(RuntimeError):
    """A rank died, hangs, or speaks out of turn; the group is of no further use."""


class Op(IntEnum):
    """What a message asks for."""

    BLOCK = 0  # denoise a block
    RESTORE = 1  # take rings of a snapshot
    END = 2  # the job is over


@dataclass(slots=True)
class Message:
    """What goes along with every payload."""

    op: Op
    index: int = 0  # of a block
    snapshot: bool = False  # send the rings after this block
    reanchor: bool = False  # a new reference latent comes first
    threads: int = 0  # that torch computes with, on CPUs
    step_s: list[float] = field(default_factory=lambda: [0.0] * MAX_STEPS)
    wait_s: list[float] = field(default_factory=list)  # a number per rank

    def to_tensor(self) -> Tensor:
        """One row of float64."""
        facts = [self.op, self.index, self.snapshot, self.reanchor, self.threads]
        return torch.tensor([*facts, *self.step_s, *self.wait_s], dtype=torch.float64)

    @classmethod
    def from_tensor(cls, row: Tensor) -> "Message":
        """Read what `to_tensor` wrote."""
        op, index, snapshot, reanchor, threads, *times = row.tolist()
        return cls(
            op=Op(int(op)),
            index=int(index),
            snapshot=bool(snapshot),
            reanchor=bool(reanchor),
            threads=int(threads),
            step_s=times[:MAX_STEPS],
            wait_s=times[MAX_STEPS:],
        )


@contextmanager
def group_errors(doing: str) -> Iterator[None]:
    """Turn an error of torch.distributed into ours."""
    try:
        yield
    except RuntimeError as e:
        if isinstance(e, (GroupError, torch.OutOfMemoryError)):
            raise
        raise GroupError(f"{doing}: {str(e).strip().splitlines()[0]}") from e


class Group:
    """This process among the ranks. A process is in one group at a time."""

    def __init__(self, rank: int, world: int, device: torch.device, limit_s: float = LIMIT_SECONDS) -> None:
        self.rank, self.world, self.device = rank, world, device
        self.last = world - 1
        self.limit = timedelta(seconds=limit_s)
        self._store: dist.TCPStore | None = None
        self.data: Any = None

    def host(self, host: str) -> Address:
        """Open the meeting point at this machine's address `host`; one rank does it before all join."""
        self._store = dist.TCPStore(host, 0, self.world, is_master=True, timeout=self.limit, wait_for_workers=False)
        return host, self._store.port

    def join(self, address: Address) -> None:
        """Meet the other ranks.

        Raises:
            GroupError: they do not come within the time limit.
        """
        host, port = address
        if host in ("127.0.0.1", "localhost"):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        with group_errors(f"rank {self.rank} cannot join the group at {host}"):
            if self._store is None:
                self._store = dist.TCPStore(host, port, self.world, is_master=False, timeout=self.limit)
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            dist.init_process_group(
                "gloo", store=self._store, rank=self.rank, world_size=self.world, timeout=self.limit
            )
            self.data = dist.new_group(backend="nccl", timeout=self.limit) if self.device.type == "cuda" else None

    def leave(self) -> None:
        """End the group for this process."""
        if dist.is_initialized():
            dist.destroy_process_group()
        self._store = None

    def broadcast(self, value: Any) -> Any:
        """A value of the last rank, on every rank."""
        box = [value]
        with group_errors("a rank was lost before the job began"):
            dist.broadcast_object_list(box, src=self.last)
        return box[0]

    def send(self, tensor: Tensor, rank: int, tag: int) -> Any:
        """Begin to send a tensor over the control group; the handle keeps it until it has gone."""
        copy = tensor.detach().to("cpu", copy=True).contiguous()
        with group_errors(f"rank {rank} was lost"):
            return dist.isend(copy, rank, tag=tag), copy

    def receive(self, shape: Sequence[int], dtype: torch.dtype, rank: int, tag: int) -> Tensor:
        """Wait for a tensor that `send` sent."""
        tensor = torch.empty(tuple(shape), dtype=dtype)
        with group_errors(f"rank {rank} was lost"):
            _irecv(tensor, rank, tag).wait()
        return tensor


def settle(handles: list[Any]) -> None:
    """Wait until everything `Group.send` began to send has gone."""
    with group_errors("a rank was lost"):
        for work, _ in handles:
            work.wait()
    handles.clear()


def _irecv(tensor: Tensor, rank: int, tag: int, group: Any = None) -> dist.Work:
    work = dist.irecv(tensor, rank, group=group, tag=tag)
    assert work is not None  # only a process outside the group gets none
    return work


class Layout:
    """Tensors of fixed shapes in one buffer of bytes."""

    def __init__(self, *shapes: Shape) -> None:
        self.shapes = shapes
        self.offsets, end = [], 0
        for shape, dtype in shapes:
            self.offsets.append(end)
            size = torch.Size(shape).numel() * dtype.itemsize
            end += -(-size // ALIGN) * ALIGN
        self.num_bytes = end

    def views(self, buffer: Tensor) -> list[Tensor]:
        """The tensors within a buffer."""
        return [
            buffer[at : at + torch.Size(shape).numel() * dtype.itemsize].view(dtype).view(shape)
            for at, (shape, dtype) in zip(self.offsets, self.shapes, strict=True)
        ]


class _Wire:
    """Buffers for messages between two ranks."""

    def __init__(self, group: Group, peer: int, layout: Layout, slots: int, over_data: bool) -> None:
        self.group, self.peer, self.layout = group, peer, layout
        self.over = group.data if over_data else None
        device = group.device if self.over is not None else torch.device("cpu")
        width = len(Message(Op.END, wait_s=[0.0] * group.world).to_tensor())
        with torch.inference_mode(False):
            self.headers = [torch.zeros(width, dtype=torch.float64) for _ in range(slots)]
            self.buffers = [torch.zeros(layout.num_bytes, dtype=torch.uint8, device=device) for _ in range(slots)]
        self.works: list[list[Any]] = [[] for _ in range(slots)]
        self.at = 0

    def _settle(self, slot: int) -> None:
        with group_errors(f"rank {self.peer} was lost"):
            for work in self.works[slot]:
                work.wait()
        self.works[slot] = []


class Outbox(_Wire):
    """Messages to a rank: at most `slots` under way."""

    def send(self, message: Message, parts: Sequence[Tensor]) -> None:
        """Begin to send; waits only while all slots are under way. Parts are left out where nobody will read them."""
        slot, self.at = self.at, (self.at + 1) % len(self.headers)
        self._settle(slot)
        header, buffer = self.headers[slot], self.buffers[slot]
        header.copy_(message.to_tensor())
        for view, part in zip(self.layout.views(buffer), parts, strict=False):
            view.copy_(part)
        with group_errors(f"rank {self.peer} was lost"):
            self.works[slot] = [
                dist.isend(header, self.peer, tag=HEADER),
                dist.isend(buffer, self.peer, group=self.over, tag=PAYLOAD),
            ]

    def close(self) -> None:
        """Wait until all has gone."""
        for slot in range(len(self.works)):
            self._settle(slot)


class Inbox(_Wire):
    """Messages from a rank; the next one is received while the last one is worked on."""

    def __init__(self, group: Group, peer: int, layout: Layout, over_data: bool) -> None:
        super().__init__(group, peer, layout, 2, over_data)
        self._post(0)

    def _post(self, slot: int) -> None:
        with group_errors(f"rank {self.peer} was lost"):
            self.works[slot] = [_irecv(self.headers[slot], self.peer, HEADER)]
            if self.over is None:  # a receive posted early would keep part of a GPU waiting
                self.works[slot].append(_irecv(self.buffers[slot], self.peer, PAYLOAD))

    def take(self) -> tuple[Message, list[Tensor]]:
        """Wait for the next message; its parts are good until the one after it is taken."""
        slot, self.at = self.at, 1 - self.at
        self._settle(slot)
        message = Message.from_tensor(self.headers[slot])
        if self.over is not None:
            with group_errors(f"rank {self.peer} was lost"):
                _irecv(self.buffers[slot], self.peer, PAYLOAD, self.over).wait()
        if message.op is not Op.END:
            self._post(self.at)
        return message, self.layout.views(self.buffers[slot])
