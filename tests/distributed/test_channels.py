"""Channels between two ranks: every message whole and in order, buffers good for as long as said, no endless wait."""

import os
import signal
import time
from collections.abc import Callable

import pytest
import torch

from liveavatar.distributed.channels import ControlReceiver, ControlSender, LatentReceiver, LatentSender
from liveavatar.distributed.group import HEADER, READY, Group, GroupError, Layout, Message, Op, irecv, isend
from liveavatar.engine.placement import SLOTS
from tests.distributed.pairs import pair

LAYOUT = Layout(((2, 3), torch.float32), ((5,), torch.bfloat16))
SILENCE = 100.0  # seconds; longer than a test waits
COUNT = 2 * SLOTS + 1  # every slot is used anew


def parts(index: int) -> list[torch.Tensor]:
    return [torch.full((2, 3), index + 0.5), torch.full((5,), -index, dtype=torch.bfloat16)]


def is_block(message: Message, views: list[torch.Tensor], index: int) -> None:
    assert (message.op, message.index, message.snapshot) == (Op.BLOCK, index, index % 2 == 1)
    assert all(torch.equal(view, part) for view, part in zip(views, parts(index), strict=True))


def send_control(group: Group) -> None:
    sender = ControlSender(group, 1, LAYOUT, slots=2)
    for index in range(COUNT):
        own = parts(index)
        sender.send(Message.of(Op.BLOCK, 2, index=index, snapshot=index % 2 == 1, threads=3), own)
        for part in own:
            part.zero_()  # a copy is on its way
    sender.send(Message.of(Op.END, 2), [])
    sender.close()


def test_control_messages_arrive_whole_and_in_order() -> None:
    with pair(send_control) as group:
        receiver = ControlReceiver(group, 0, LAYOUT)
        for index in range(COUNT):
            message, views = receiver.take()
            is_block(message, views, index)
            assert message.threads == 3
        assert receiver.take()[0].op is Op.END


def send_latents(group: Group) -> None:
    sender = LatentSender(group, 1, LAYOUT)
    for index in range(COUNT):
        own = parts(index)

        def complete(message: Message) -> None:
            message.step_s[0] = message.index / 8

        sender.send(Message.of(Op.BLOCK, 2, index=index, snapshot=index % 2 == 1), own, complete)
        for part in own:
            part.zero_()
    sender.send(Message.of(Op.END, 2), [])
    sender.close()


@pytest.mark.parametrize("through_host", [False, True], ids=["directly", "through host memory"])
def test_latents_arrive_whole_and_last_until_the_next_but_one(through_host: bool) -> None:
    with pair(send_latents, through_host=through_host) as group:
        receiver = LatentReceiver(group, 0, LAYOUT)
        before: tuple[Message, list[torch.Tensor]] | None = None
        for index in range(COUNT):
            message, views = receiver.take()
            is_block(message, views, index)
            assert message.step_s[0] == index / 8, "a header is written when its kernels have run"
            assert (message.sent_s[0] > 0) == (index > 0), "seconds of the message before"
            if before is not None:
                is_block(*before, index - 1)
            before = message, views
        assert receiver.take()[0].op is Op.END


def say_nothing(_: Group) -> None:
    time.sleep(SILENCE)


def send_a_header_alone(group: Group) -> None:
    header = Message.of(Op.BLOCK, 2).to_tensor()
    isend(header, 1, HEADER).wait()
    irecv(torch.zeros(1, dtype=torch.uint8), 1, READY).wait()
    say_nothing(group)


@pytest.mark.parametrize(
    ("work", "make"),
    [
        pytest.param(say_nothing, ControlReceiver, id="no request"),
        pytest.param(say_nothing, LatentReceiver, id="no header"),
        pytest.param(send_a_header_alone, LatentReceiver, id="no latents after their header"),
    ],
)
@pytest.mark.timeout(60)
def test_a_silent_rank_is_given_up_after_the_limit(
    work: Callable[[Group], None], make: type[ControlReceiver] | type[LatentReceiver]
) -> None:
    with pair(work, limit_s=1.5, lost=True) as group:
        receiver = make(group, 0, LAYOUT)
        started = time.monotonic()
        with pytest.raises(GroupError, match="rank 0 was lost"):
            receiver.take()
        assert 1 < time.monotonic() - started < 10


@pytest.mark.timeout(60)
def test_a_rank_that_takes_nothing_is_given_up() -> None:
    with pair(say_nothing, limit_s=1.5, lost=True) as group:
        sender = LatentSender(group, 0, LAYOUT)
        for index in range(SLOTS):
            sender.send(Message.of(Op.BLOCK, 2, index=index), parts(index))
        with pytest.raises(GroupError, match="rank 0 was lost"):
            sender.send(Message.of(Op.BLOCK, 2, index=SLOTS), parts(SLOTS))
        with pytest.raises(GroupError, match="rank 0 was lost"):
            sender.close()


def die_after_a_block(group: Group) -> None:
    sender = LatentSender(group, 1, LAYOUT)
    sender.send(Message.of(Op.BLOCK, 2, snapshot=False), parts(0))
    sender.close()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_rank_that_died_is_noticed_long_before_the_limit() -> None:
    with pair(die_after_a_block, lost=True) as group:
        receiver = LatentReceiver(group, 0, LAYOUT)
        is_block(*receiver.take(), 0)
        started = time.monotonic()
        with pytest.raises(GroupError, match="rank 0 was lost"):
            receiver.take()
        assert time.monotonic() - started < 10
