"""Threads of a block: a function of its index, whichever part computes first."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from liveavatar.engine.threads import Threads, begin_with, computing_with


@pytest.mark.parametrize(
    ("threads", "overlap", "first", "later"),
    [
        pytest.param(Threads(1, shared=True), False, (1, 1), (1, 1), id="one"),
        pytest.param(Threads(2, shared=True), True, (2, 2), (1, 1), id="two"),
        pytest.param(Threads(7, shared=True), True, (7, 7), (4, 3), id="odd: denoising has the larger part"),
        pytest.param(Threads(8, shared=False), False, (8, 8), (8, 8), id="on a GPU"),
    ],
)
def test_a_block_has_its_threads(
    threads: Threads, overlap: bool, first: tuple[int, int], later: tuple[int, int]
) -> None:
    assert threads.overlap == overlap
    assert (threads.denoise(0), threads.decode(0)) == first
    for index in (1, 2, 1000):
        assert (threads.denoise(index), threads.decode(index)) == later


def test_the_number_is_as_before_also_after_an_error() -> None:
    before = torch.get_num_threads()
    with contextlib.suppress(ValueError), computing_with(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ValueError
    assert torch.get_num_threads() == before


def test_a_thread_begins_with_its_own_number() -> None:
    before = torch.get_num_threads()
    with ThreadPoolExecutor(1, initializer=begin_with, initargs=(before + 2,)) as pool:
        assert pool.submit(torch.get_num_threads).result() == before + 2
    torch.set_num_threads(before)
