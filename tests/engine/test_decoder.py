"""Decoding on the host: in order, in a thread of its own where there are threads for it, states copied."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from liveavatar.engine.decoder import HostDecoder
from liveavatar.engine.threads import Threads, computing_with
from liveavatar.model.stream_state import StreamState

PATIENCE = 30.0  # seconds until a thread that was not let on gives up


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Frames:
    """A decoder of latents to frames of their value; it counts blocks in its state and waits on demand."""

    def __init__(self) -> None:
        self.state = StreamState(1, 2, 2)
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()
        self.ran_in: list[str] = []
        self.computed_with: list[int] = []

    def decode(self, x: torch.Tensor) -> np.ndarray:
        self.begun.set()
        assert self.may_go_on.wait(PATIENCE)
        self.ran_in.append(threading.current_thread().name)
        self.computed_with.append(torch.get_num_threads())
        self.state.position += 3
        self.state.keep("newest", x[:, :, -1:])
        return np.full((12, 2, 2, 3), int(x.flatten()[0]), np.uint8)


def block(value: float) -> torch.Tensor:
    return torch.full((1, 1, 3, 2, 2), value)


def test_with_threads_for_either_part_a_block_is_decoded_beside_the_caller() -> None:
    frames, x = Frames(), block(7)
    decoder = HostDecoder(frames.decode, frames.state, Threads(2, shared=True))
    assert decoder.overlaps
    frames.may_go_on.clear()
    decoding = decoder.start(x, 1)
    assert frames.begun.wait(PATIENCE)
    assert not decoding.done()
    x.zero_()  # the caller's buffer takes the next block
    frames.may_go_on.set()
    made = decoding.result()
    assert (made.frames == 7).all()
    assert made.seconds > 0
    assert made.state is None
    assert frames.ran_in != [threading.current_thread().name]
    decoder.settle()


@pytest.mark.parametrize(
    "threads",
    [pytest.param(Threads(1, shared=True), id="one thread"), pytest.param(Threads(2, shared=False), id="on a GPU")],
)
def test_without_threads_to_spare_a_block_is_decoded_at_once(threads: Threads) -> None:
    frames = Frames()
    decoder = HostDecoder(frames.decode, frames.state, threads)
    assert not decoder.overlaps
    decoding = decoder.start(block(5), 1)
    assert decoding.done()
    assert frames.ran_in == [threading.current_thread().name]
    assert (decoding.result().frames == 5).all()


@pytest.mark.parametrize("total", [1, 2], ids=["sequential", "overlapped"])
def test_blocks_are_decoded_in_order_and_a_state_is_that_after_its_block(total: int) -> None:
    frames = Frames()
    decoder = HostDecoder(frames.decode, frames.state, Threads(total, shared=True))
    started = [decoder.start(block(index), index, with_state=index == 1) for index in range(3)]
    decoder.settle()
    made = [decoding.result() for decoding in started]
    assert [int(m.frames[0, 0, 0, 0]) for m in made] == [0, 1, 2]
    assert [m.state is None for m in made] == [True, False, True]
    assert made[1].state is not None
    assert int(made[1].state["position"]) == 6, "not that of the last block"
    assert (made[1].state["newest"] == 1).all()
    assert (decoder.run(block(9), 3).frames == 9).all()
    assert frames.ran_in[-1] == threading.current_thread().name


def test_the_first_block_has_all_threads_and_later_ones_their_share() -> None:
    frames = Frames()
    decoder = HostDecoder(frames.decode, frames.state, Threads(3, shared=True))
    for index in range(3):
        decoder.run(block(index), index)
    assert frames.computed_with == [3, 1, 1], "denoising has the other two"
    assert torch.get_num_threads() == 2


def test_threads_that_come_later_find_the_number_that_was_set() -> None:
    """Even if the decoder's thread meets torch for the first time while the next block is denoised with fewer."""
    frames = Frames()
    decoder = HostDecoder(frames.decode, frames.state, Threads(2, shared=True))
    frames.may_go_on.clear()
    with computing_with(1):
        decoding = decoder.start(block(0), 1)
        assert frames.begun.wait(PATIENCE)
    frames.may_go_on.set()
    decoding.result()
    decoder.settle()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2
