"""Point-to-point channels between two ranks: each message is a header plus fixed-shape tensors.

`ControlSender` and `ControlReceiver` carry small messages over the control group. `LatentSender` and `LatentReceiver`
carry latents: a thread waits until a GPU has made them and the peer is ready, so neither the host nor the GPU of
either rank waits in a transfer. On the receiving GPU a stream of its own takes them in while it computes. Where the
group's latents pass through host memory, they rest there on both sides, and the receiving host waits for them.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from liveavatar.distributed.group import (
    HEADER,
    PAYLOAD,
    READY,
    Group,
    GroupError,
    Layout,
    Message,
    Op,
    group_errors,
    irecv,
    isend,
)
from liveavatar.engine.clock import side_stream
from liveavatar.engine.placement import SLOTS


class _Wire:
    """Buffers for messages between two ranks."""

    def __init__(self, group: Group, peer: int, layout: Layout, slots: int, device: torch.device) -> None:
        self.group, self.peer, self.layout, self.device = group, peer, layout, device
        width = len(Message.of(Op.END, group.world).to_tensor())
        with torch.inference_mode(False):
            self.headers = [torch.zeros(width, dtype=torch.float64) for _ in range(slots)]
            self.buffers = [torch.zeros(layout.num_bytes, dtype=torch.uint8, device=device) for _ in range(slots)]
        self.works: list[list[Any]] = [[] for _ in range(slots)]
        self.at = 0

    def _next(self) -> int:
        slot, self.at = self.at, (self.at + 1) % len(self.headers)
        return slot

    def _lost(self) -> Any:
        return group_errors(f"rank {self.peer} was lost")

    def _settle(self, slot: int) -> None:
        with self._lost():
            for work in self.works[slot]:
                work.wait()
        self.works[slot] = []


class ControlSender(_Wire):
    """Messages to a rank from the CPU: at most `slots` under way."""

    def __init__(self, group: Group, peer: int, layout: Layout, slots: int) -> None:
        super().__init__(group, peer, layout, slots, torch.device("cpu"))

    def send(self, message: Message, parts: Sequence[Tensor]) -> None:
        """Begin to send; waits only while all slots are under way. Parts are left out where nobody will read them."""
        slot = self._next()
        self._settle(slot)
        header, buffer = self.headers[slot], self.buffers[slot]
        header.copy_(message.to_tensor())
        for view, part in zip(self.layout.views(buffer), parts, strict=False):
            view.copy_(part)
        with self._lost():
            self.works[slot] = [isend(header, self.peer, HEADER), isend(buffer, self.peer, PAYLOAD)]

    def close(self) -> None:
        """Wait until all has gone."""
        for slot in range(len(self.works)):
            self._settle(slot)


class ControlReceiver(_Wire):
    """Messages from a rank to the CPU; the next one is received while the last one is worked on."""

    def __init__(self, group: Group, peer: int, layout: Layout) -> None:
        super().__init__(group, peer, layout, 2, torch.device("cpu"))
        self._post(0)

    def _post(self, slot: int) -> None:
        with self._lost():
            receive = ((self.headers[slot], HEADER), (self.buffers[slot], PAYLOAD))
            self.works[slot] = [irecv(tensor, self.peer, tag) for tensor, tag in receive]

    def take(self) -> tuple[Message, list[Tensor]]:
        """Wait for the next message; its parts are good until the one after it is taken."""
        slot = self._next()
        self._settle(slot)
        message = Message.from_tensor(self.headers[slot])
        if message.op is not Op.END:
            self._post(self.at)
        return message, self.layout.views(self.buffers[slot])


class LatentSender(_Wire):
    """Latents to the next rank, sent by a thread once they are made."""

    def __init__(self, group: Group, peer: int, layout: Layout) -> None:
        super().__init__(group, peer, layout, SLOTS, group.device)
        self._host = group.staging(layout.num_bytes)  # one at a time is under way
        self.limit_s = group.limit.total_seconds()
        self._free: queue.Queue[int] = queue.Queue()
        for slot in range(SLOTS):
            self._free.put(slot)
        self._waiting: queue.Queue[tuple[int, Message, Any, Callable[[Message], None] | None] | None] = queue.Queue()
        self._failure: GroupError | None = None
        self._sent_s = 0.0
        self._thread = threading.Thread(target=self._run, name=f"sender-{group.rank}", daemon=True)
        self._thread.start()

    def send(
        self, message: Message, parts: Sequence[Tensor | None], complete: Callable[[Message], None] | None = None
    ) -> None:
        """Send a message as soon as the kernels queued so far have run; waits only while all slots are under way.

        Args:
            message: its header.
            parts: left out, or None, where nobody will read them; copied now.
            complete: writes into the header what is known only when the kernels have run.
        """
        slot = self._slot()
        for view, part in zip(self.layout.views(self.buffers[slot]), parts, strict=False):
            if part is not None:
                view.copy_(part)
        made = None
        if self.device.type == "cuda":
            made = torch.cuda.Event()
            made.record()
        self._waiting.put((slot, message, made, complete))

    def _slot(self) -> int:
        try:
            slot = self._free.get(timeout=2 * self.limit_s)
        except queue.Empty:
            raise GroupError(f"rank {self.peer} was lost: it takes nothing") from None
        if self._failure is not None:
            raise self._failure
        return slot

    def _run(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # every thread has a device of its own
        stream = side_stream(self.device, "send")
        while (item := self._waiting.get()) is not None:
            try:
                with self._lost(), torch.cuda.stream(stream):
                    self._deliver(*item)
            except GroupError as e:
                self._failure = e
                for slot in range(SLOTS):  # a thread that waits for one notices the failure
                    self._free.put(slot)
                return
            self._free.put(item[0])

    def _deliver(self, slot: int, message: Message, made: Any, complete: Callable[[Message], None] | None) -> None:
        if made is not None:
            made.synchronize()
        if complete is not None:
            complete(message)
        message.sent_s[self.group.rank] = self._sent_s
        header, ready = self.headers[slot], torch.zeros(1, dtype=torch.uint8)
        header.copy_(message.to_tensor())
        listening = irecv(ready, self.peer, READY)
        isend(header, self.peer, HEADER).wait()
        listening.wait()
        began = time.perf_counter()
        buffer = self.buffers[slot]
        payload = buffer if self._host is None else self._host.copy_(buffer)  # which waits for the copy
        isend(payload, self.peer, PAYLOAD, self.group.data(self.group.rank)).wait()
        if made is not None:
            made.record()
            made.synchronize()
        self._sent_s = time.perf_counter() - began

    def close(self) -> None:
        """Wait until all has gone."""
        self._waiting.put(None)
        self._thread.join(2 * self.limit_s)
        if self._failure is not None:
            raise self._failure


class LatentReceiver(_Wire):
    """Latents from the rank before."""

    def __init__(self, group: Group, peer: int, layout: Layout) -> None:
        super().__init__(group, peer, layout, SLOTS, group.device)
        self._host = group.staging(layout.num_bytes)
        self._stream = side_stream(self.device, "receive")
        self._used: list[Any] = [None] * SLOTS  # when the kernels that read a slot were queued
        self._word = torch.zeros(1, dtype=torch.uint8)
        self._said: Any = None
        self._post()

    def _post(self) -> None:
        with self._lost():
            self.works[self.at] = [irecv(self.headers[self.at], self.peer, HEADER)]

    def take(self) -> tuple[Message, list[Tensor]]:
        """Wait for the next message; kernels queued from now on see its parts, which are good until the next but one.

        Host and GPU do not wait for the tensors themselves: the current stream does. Through host memory the host does.
        """
        if self._stream is not None:
            event = torch.cuda.Event()
            event.record()
            self._used[(self.at - 1) % SLOTS] = event
        slot = self._next()
        self._settle(slot)
        message = Message.from_tensor(self.headers[slot])
        if message.op is not Op.END:
            self._post()
        with self._lost():
            # The peer's GPU would wait in the transfer for as long as this one could not begin with it.
            if self._used[slot] is not None:
                self._used[slot].synchronize()
            if self._said is not None:
                self._said.wait()
            self._said = isend(self._word, self.peer, READY)
            with torch.cuda.stream(self._stream):
                self._receive(self.buffers[slot])
            if self._stream is not None:
                torch.cuda.current_stream(self.device).wait_stream(self._stream)
        return message, self.layout.views(self.buffers[slot])

    def _receive(self, buffer: Tensor) -> None:
        if self._host is not None and self._stream is not None:
            self._stream.synchronize()  # what came before has left the host
        payload = buffer if self._host is None else self._host
        irecv(payload, self.peer, PAYLOAD, self.group.data(self.peer)).wait()
        if self._host is not None:
            buffer.copy_(self._host, non_blocking=True)
