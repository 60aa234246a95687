"""Marks of time and copies to a device, as a CPU has them."""

import time

import pytest
import torch

from liveavatar.engine.clock import mark, on_device, seconds, side_stream

CPU = torch.device("cpu")


def test_seconds_lie_between_marks() -> None:
    assert seconds([1.0, 1.5, 4.0]) == (0.5, 2.5)
    assert seconds([1.0]) == ()


def test_marks_follow_the_clock() -> None:
    marks = [mark(CPU)]
    time.sleep(0.02)
    marks.append(mark(CPU))
    (spent,) = seconds(marks)
    assert spent == pytest.approx(0.02, abs=0.015)


def test_a_copy_keeps_values_and_the_cpu_has_no_streams() -> None:
    assert torch.equal(on_device(torch.arange(3), CPU), torch.arange(3))
    assert side_stream(CPU, "decode") is None
