"""Copies and host memory on a machine without a GPU: made at once, and not pinned. The rest is in `tests/gpu`."""

import logging

import pytest
import torch

from liveavatar.fast.copies import Copies, HostMemory

CPU = torch.device("cpu")


def test_a_copy_on_a_cpu_is_made_at_once() -> None:
    copies, target = Copies(CPU, "test"), torch.zeros(3)

    def copy() -> None:
        target.fill_(7)

    mark = copies.begin(copy, [copies.mark(), None])
    assert target.tolist() == [7, 7, 7]
    copies.wait(mark)
    copies.keep(target)
    copies.settle()


def test_host_memory_begins_empty_and_is_not_pinned_for_a_cpu(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        memory = HostMemory(1000, CPU)
    assert (memory.bytes.numel(), memory.bytes.dtype, int(memory.bytes.sum())) == (1000, torch.uint8, 0)
    assert not memory.pinned
    assert not caplog.records
