"""A group of processes that render one job together: how they find one another and how tensors travel.

Ranks form a ring: work goes from the last rank to rank 0, and latents from rank to rank back to the last. Small
things and snapshots go over gloo (*control*); latents between GPUs over NCCL (*data*), which on CPUs is gloo too, and
where ranks share a GPU, which NCCL refuses: there latents pass through host memory. What travels has buffers of its
own, so that no rank computes less because another one listens late; latents travel through `channels`.
Everything that waits has a time limit: a rank that died or hangs ends in `GroupError` on the others, never in silence.
"""

import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, fields
from datetime import timedelta
from enum import IntEnum
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from liveavatar.engine.device import with_index
from liveavatar.engine.memory import MemoryReading

LIMIT_SECONDS = 120.0  # for anything to arrive: longer than a stopped process usually stays stopped
MAX_STEPS = 8
READING = len(fields(MemoryReading))  # values
HEADER, PAYLOAD, RING, FIRST, READY, FACTS = range(1, 7)  # tags
ALIGN = 16  # bytes
PIECE = 2**28  # bytes that are sent at once

Address = tuple[str, int]
Shape = tuple[tuple[int, ...], torch.dtype]


class GroupError(RuntimeError):
    """A rank died, hangs, or sends a message that was not due; the group is of no further use."""


class Op(IntEnum):
    """Request of a message."""

    BLOCK = 0  # denoise a block
    RESTORE = 1  # take rings of a snapshot
    END = 2  # the job is over
    IDLE = 3  # the job goes on, but its sound has not arrived


@dataclass(slots=True)
class Message:
    """Header of every payload."""

    op: Op
    index: int = 0  # of a block
    snapshot: bool = False  # send the rings after this block
    reanchor: bool = False  # a new reference latent comes first
    threads: int = 0  # that torch computes with, on CPUs
    step: int = 0  # that is taken next, where a block goes round once a step
    step_s: list[float] = field(default_factory=lambda: [0.0] * MAX_STEPS)
    wait_s: list[float] = field(default_factory=list)  # a number per rank, as those below
    busy_s: list[float] = field(default_factory=list)
    sent_s: list[float] = field(default_factory=list)  # of the message before
    memory: list[float] = field(default_factory=list)  # values of a `MemoryReading` per rank

    def to_tensor(self) -> Tensor:
        """Encode as one row of float64."""
        facts = [self.op, self.index, self.snapshot, self.reanchor, self.threads, self.step]
        times = (*self.step_s, *self.wait_s, *self.busy_s, *self.sent_s)
        return torch.tensor([*facts, *times, *self.memory], dtype=torch.float64)

    @classmethod
    def from_tensor(cls, row: Tensor) -> "Message":
        """Read what `to_tensor` wrote."""
        op, index, snapshot, reanchor, threads, step, *times = row.tolist()
        world = (len(times) - MAX_STEPS) // (3 + READING)
        wait_s, busy_s, sent_s = (times[MAX_STEPS + i * world :][:world] for i in range(3))
        return cls(
            op=Op(int(op)),
            index=int(index),
            snapshot=bool(snapshot),
            reanchor=bool(reanchor),
            threads=int(threads),
            step=int(step),
            step_s=times[:MAX_STEPS],
            wait_s=wait_s,
            busy_s=busy_s,
            sent_s=sent_s,
            memory=times[MAX_STEPS + 3 * world :],
        )

    @classmethod
    def of(cls, op: Op, world: int, **facts: Any) -> "Message":
        """Make a message in a group of `world` ranks."""
        wait_s, busy_s, sent_s = ([0.0] * world for _ in range(3))
        memory = [0.0] * (READING * world)
        return cls(op, wait_s=wait_s, busy_s=busy_s, sent_s=sent_s, memory=memory, **facts)

    def note_memory(self, rank: int, reading: MemoryReading) -> None:
        """Put a rank's reading into the header."""
        self.memory[rank * READING : (rank + 1) * READING] = astuple(reading)

    def readings(self) -> tuple[MemoryReading, ...]:
        """Return the reading of every rank."""
        return tuple(MemoryReading(*self.memory[at : at + READING]) for at in range(0, len(self.memory), READING))


_NO_GROUP = "process group has not been initialized"  # of torch.distributed, to a thread that comes too late


@contextmanager
def group_errors(doing: str) -> Iterator[None]:
    """Turn an error of torch.distributed into ours."""
    try:
        yield
    except RuntimeError as e:
        if isinstance(e, (GroupError, torch.OutOfMemoryError)):
            raise
        raise GroupError(f"{doing}: {str(e).strip().splitlines()[0]}") from e
    except ValueError as e:
        if _NO_GROUP not in str(e):
            raise
        raise GroupError(f"{doing}: this process has left its group") from e


class Group:
    """This process among the ranks. A process is in one group at a time."""

    def __init__(
        self,
        rank: int,
        world: int,
        device: torch.device,
        limit_s: float = LIMIT_SECONDS,
        through_host: bool = False,
    ) -> None:
        """Take a place in a group that is joined later.

        Args:
            rank, world: of this process; of all.
            device: that it computes on.
            limit_s: for anything to arrive, in seconds.
            through_host: latents take the way through host memory, on every rank: slower, but ranks may share a GPU.
        """
        self.rank, self.world, self.device, self.through_host = rank, world, with_index(device), through_host
        self.last = world - 1
        self.limit = timedelta(seconds=limit_s)
        self._store: dist.TCPStore | None = None
        self._data: list[Any] = []

    def host(self, host: str, port: int = 0) -> Address:
        """Open the meeting point at this machine's address `host`; one rank does it before all join. 0: any port."""
        self._store = dist.TCPStore(host, port, self.world, is_master=True, timeout=self.limit, wait_for_workers=False)
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
            # On CPUs gloo groups of their own: what goes over them takes the same path as on GPUs.
            backend = "nccl" if self.device.type == "cuda" and not self.through_host else "gloo"
            self._data = [dist.new_group(backend=backend, timeout=self.limit) for _ in range(3)]
            self._greet()

    def data(self, sender: int) -> Any:
        """Return the process group for latents from rank `sender` to the next, after the last one to rank 0.

        One thread sends and another one receives, each with a group of its own.
        """
        return self._data[2 if sender == self.last else sender % 2]

    def staging(self, num_bytes: int) -> Tensor | None:
        """Allocate host memory [num_bytes] that latents pass through; None where they go from device to device."""
        if not self.through_host:
            return None
        with torch.inference_mode(False):
            return torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=self.device.type == "cuda")

    def agree(self, question: str, answer: str) -> str:
        """Compare and set on the store: every rank gets the first rank's answer; outside a group, the own one."""
        if self._store is None:
            return answer
        with group_errors("the meeting point of the group was lost"):
            first: bytes = self._store.compare_set(question, "", answer)
            return first.decode()

    def _greet(self) -> None:
        """Send a number from rank to rank, because NCCL connects two of them at their first message, which is slow."""
        word = torch.zeros(1, device="cpu" if self.through_host else self.device)
        if self.rank:
            irecv(word, self.rank - 1, PAYLOAD, self.data(self.rank - 1)).wait()
        if self.rank < self.last:
            isend(word, self.rank + 1, PAYLOAD, self.data(self.rank)).wait()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def leave(self) -> None:
        """End the group for this process."""
        if dist.is_initialized():
            dist.destroy_process_group()
        self._data.clear()  # and with them their threads, which must not outlive the interpreter
        self._store = None

    def broadcast(self, value: Any) -> Any:
        """Send a value of the last rank to every rank, and return it."""
        box = [value]
        with group_errors("a rank was lost before the job began"):
            dist.broadcast_object_list(box, src=self.last)
        return box[0]

    def send(self, tensor: Tensor, rank: int, tag: int) -> Any:
        """Begin to send a tensor over the control group; the handle keeps it until it has gone."""
        copy = tensor.detach().to("cpu", copy=True).contiguous()
        with group_errors(f"rank {rank} was lost"):
            return isend(copy, rank, tag), copy

    def receive(self, shape: Sequence[int], dtype: torch.dtype, rank: int, tag: int) -> Tensor:
        """Wait for a tensor that `send` sent."""
        tensor = torch.empty(tuple(shape), dtype=dtype)
        with group_errors(f"rank {rank} was lost"):
            irecv(tensor, rank, tag).wait()
        return tensor

    def send_rings(self, rings: dict[str, Tensor], rank: int) -> list[Any]:
        """Begin to send named tensors of any format over the control group."""
        facts = pickle.dumps([(name, tuple(t.shape), t.dtype) for name, t in rings.items()])
        described = torch.frombuffer(bytearray(facts), dtype=torch.uint8)
        handles = [self.send(torch.tensor([len(facts)]), rank, FACTS), self.send(described, rank, FACTS)]
        for t in rings.values():
            for piece in t.detach().contiguous().flatten().view(torch.uint8).split(PIECE):
                handles.append(self.send(piece, rank, RING))
        return handles

    def receive_rings(self, rank: int) -> dict[str, Tensor]:
        """Wait for what `send_rings` sent."""
        size = int(self.receive((1,), torch.int64, rank, FACTS))
        facts = pickle.loads(self.receive((size,), torch.uint8, rank, FACTS).numpy().tobytes())
        rings = {}
        for name, shape, dtype in facts:
            rings[name] = torch.empty(shape, dtype=dtype)
            with group_errors(f"rank {rank} was lost"):
                for piece in rings[name].flatten().view(torch.uint8).split(PIECE):
                    irecv(piece, rank, RING).wait()
        return rings


def settle(handles: list[Any]) -> None:
    """Wait until everything `Group.send` began to send has gone."""
    with group_errors("a rank was lost"):
        for work, _ in handles:
            work.wait()
    handles.clear()


def isend(tensor: Tensor, rank: int, tag: int, group: Any = None) -> dist.Work:
    """Begin to send a tensor as it is, which must stay so until the work is done."""
    work = dist.isend(tensor, rank, group=group, tag=tag)
    assert work is not None  # only a process outside the group gets none
    return work


def irecv(tensor: Tensor, rank: int, tag: int, group: Any = None) -> dist.Work:
    """Begin to receive what `isend` sends."""
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
        """Return the tensors as views of a buffer."""
        return [
            buffer[at : at + torch.Size(shape).numel() * dtype.itemsize].view(dtype).view(shape)
            for at, (shape, dtype) in zip(self.offsets, self.shapes, strict=True)
        ]
