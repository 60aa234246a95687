"""Meeting of ranks, and what travels outside of the channels: values, tensors, rings of a snapshot."""

import pytest
import torch

from liveavatar.distributed import group as group_module
from liveavatar.distributed.group import (
    ALIGN,
    FIRST,
    MAX_STEPS,
    Group,
    GroupError,
    Layout,
    Message,
    Op,
    group_errors,
    settle,
)
from liveavatar.engine.memory import MemoryReading
from tests.distributed.pairs import CPU, HERE, pair, process

RINGS = {
    "cache0.k": torch.arange(500.0).view(2, 250).to(torch.bfloat16),
    "cache0.v": (torch.arange(300.0) - 150).to(torch.float8_e4m3fn).view(3, 100),
    "cache1.k_scale": torch.rand(7),
    "cache1.k": torch.arange(77, dtype=torch.int8),
}
PIECE = 64  # bytes sent at once: no ring fits, and some pieces are shorter than others


def test_a_message_is_the_same_on_the_other_side() -> None:
    message = Message.of(Op.RESTORE, 3, index=2**40, snapshot=True, reanchor=False, threads=5)
    message.step_s[MAX_STEPS - 1], message.wait_s[0], message.busy_s[1], message.sent_s[2] = 0.1, 0.2, 0.3, 0.4
    readings = [MemoryReading(0.5 + rank, 2.0, 16.0, 7.0, 24.0, 3.0) for rank in range(3)]
    for rank in (2, 0, 1):
        message.note_memory(rank, readings[rank])
    assert Message.from_tensor(message.to_tensor()) == message
    assert Message.from_tensor(message.to_tensor()).readings() == tuple(readings)
    other = Message.of(Op.BLOCK, 3, reanchor=True)
    assert Message.from_tensor(other.to_tensor()) == other
    assert len(other.to_tensor()) == len(message.to_tensor()), "a header of a group has one size"


def test_tensors_of_a_layout_do_not_overlap() -> None:
    layout = Layout(((3,), torch.uint8), ((2, 2), torch.float64), ((1, 5), torch.bfloat16))
    buffer = torch.zeros(layout.num_bytes, dtype=torch.uint8)
    views = layout.views(buffer)
    assert [(tuple(v.shape), v.dtype) for v in views] == list(layout.shapes)
    assert all(offset % ALIGN == 0 for offset in layout.offsets)
    for number, view in enumerate(views, 1):
        view.fill_(number)
    assert [view.unique().tolist() for view in views] == [[1], [2], [3]]
    assert layout.num_bytes == 16 + 32 + 16


def test_errors_of_the_network_become_ours_and_others_stay() -> None:
    def fail(error: Exception) -> None:
        with group_errors("rank 3 was lost"):
            raise error

    with pytest.raises(GroupError, match=r"^rank 3 was lost: Connection closed by peer$"):
        fail(RuntimeError("Connection closed by peer\nC++ stack"))
    with pytest.raises(GroupError, match=r"^rank 3 was lost: this process has left its group$"):
        fail(ValueError("Default process group has not been initialized, please make sure"))
    for kept in (GroupError("it hangs"), torch.OutOfMemoryError("4 GB"), ValueError("x")):
        with pytest.raises(type(kept), match=str(kept)):
            fail(kept)


def meet_nobody() -> None:
    alone = Group(0, 2, CPU, limit_s=1.5)
    address = alone.host(HERE)
    with pytest.raises(GroupError, match=f"rank 0 cannot join the group at {HERE}"):
        alone.join(address)
    alone.leave()


def test_a_group_that_does_not_come_together_ends_in_time() -> None:
    waiting = process(meet_nobody)  # of its own: where a group failed, another one does not meet
    waiting.join(15)
    assert waiting.exitcode == 0
    waiting.kill()


def answer(group: Group) -> None:
    assert group.broadcast("of rank 0, which is not the last") == {"of": "the last"}
    assert group.agree("kernel", "fast") == "fast"
    group.broadcast(None)
    assert group.agree("another", "slow") == "late", "of the rank that asked first"


def test_the_last_rank_s_value_and_the_first_answer_count() -> None:
    assert Group(0, 2, CPU).agree("kernel", "own") == "own", "outside a group"
    with pair(answer) as group:
        assert group.broadcast({"of": "the last"}) == {"of": "the last"}
        assert group.agree("another", "late") == "late"
        group.broadcast(None)
        assert group.agree("kernel", "exact") == "fast"


def send_back(group: Group) -> None:
    group_module.PIECE = PIECE
    first = group.receive((2, 3), torch.bfloat16, 1, FIRST)
    handles = [group.send(first + 1, 1, FIRST)]
    first.zero_()
    rings = group.receive_rings(1)
    handles += group.send_rings(rings, 1)
    for ring in rings.values():
        ring.view(torch.uint8).zero_()
    settle(handles)
    assert not handles


def test_tensors_and_rings_travel_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_module, "PIECE", PIECE)
    with pair(send_back) as group:
        tensor = torch.arange(6, dtype=torch.bfloat16).view(3, 2).mT  # not contiguous
        handles = [group.send(tensor, 0, FIRST)]
        handles += group.send_rings({name: t.clone() for name, t in RINGS.items()}, 0)
        assert torch.equal(group.receive((2, 3), torch.bfloat16, 0, FIRST), tensor + 1)
        back = group.receive_rings(0)
        settle(handles)
    assert list(back) == list(RINGS)
    for name, ring in RINGS.items():
        assert back[name].dtype == ring.dtype
        assert torch.equal(back[name].view(torch.uint8), ring.view(torch.uint8))


def test_host_memory_is_taken_only_where_latents_pass_through_it() -> None:
    assert Group(0, 2, CPU).staging(24) is None
    room = Group(0, 2, CPU, through_host=True).staging(24)
    assert room is not None
    assert (room.shape, room.dtype) == ((24,), torch.uint8)
