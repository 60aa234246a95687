"""Backends of attention: the choice is reproducible, and one for all ranks of a group."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from liveavatar.distributed.group import Group
from liveavatar.fast.attention import PREFERENCE, Agree, FastAttention, choose

CPU = torch.device("cpu")
CUDNN, FLASH, EFFICIENT = PREFERENCE
QUERIES, KEYS = (1, 2, 4, 8), (1, 2, 6, 8)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param({CUDNN: 1.0, FLASH: 1.4, EFFICIENT: 2.0}, CUDNN, id="the first is the fastest"),
        pytest.param({CUDNN: 1.4, FLASH: 1.0, EFFICIENT: 2.0}, CUDNN, id="a later one is faster by chance"),
        pytest.param({CUDNN: 1.6, FLASH: 1.0, EFFICIENT: 2.0}, FLASH, id="a later one is clearly faster"),
        pytest.param(
            {CUDNN: 1.6, FLASH: 1.0, EFFICIENT: 0.9}, FLASH, id="the last one is little faster than the second"
        ),
        pytest.param(
            {CUDNN: 1.6, FLASH: 1.0, EFFICIENT: 0.5}, EFFICIENT, id="the last one is clearly faster than both"
        ),
        pytest.param({EFFICIENT: 9.0}, EFFICIENT, id="only one can do the shape"),
        pytest.param({}, SDPBackend.MATH, id="none can do the shape"),
    ],
)
def test_choice(seconds: Mapping[SDPBackend, float], expected: SDPBackend) -> None:
    assert choose(seconds) == expected


class Stopwatch:
    """Times of backends as they are given, and how often they were asked for."""

    def __init__(self, seconds: Mapping[SDPBackend, float | None]) -> None:
        self.seconds, self.calls = seconds, 0

    def __call__(self, backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> float | None:
        assert (tuple(q.shape), tuple(k.shape), tuple(v.shape)) == (QUERIES, KEYS, KEYS)
        self.calls += 1
        return self.seconds[backend]


def backend(stopwatch: Stopwatch, agree: Agree | None = None) -> SDPBackend:
    return FastAttention(agree, stopwatch).backend(QUERIES, KEYS, torch.float32, CPU)


@pytest.mark.parametrize(("first", "second"), [(1.0, 1.3), (1.3, 1.0), (1.0, None)])
def test_processes_whose_timings_differ_choose_alike(first: float, second: float | None) -> None:
    once = backend(Stopwatch({CUDNN: 1.0, FLASH: 1.1, EFFICIENT: 2.0}))
    assert backend(Stopwatch({CUDNN: first, FLASH: second, EFFICIENT: 2.0})) == once


def test_a_shape_is_timed_once() -> None:
    stopwatch = Stopwatch({CUDNN: None, FLASH: 1.0, EFFICIENT: 2.0})
    attention = FastAttention(None, stopwatch)
    for _ in range(2):
        assert attention.backend(QUERIES, KEYS, torch.float32, CPU) == FLASH
    assert stopwatch.calls == len(PREFERENCE)


def test_ranks_take_the_first_answer() -> None:
    answers: dict[str, str] = {}
    slow, fast = (
        Stopwatch({CUDNN: 9.0, FLASH: 1.0, EFFICIENT: 9.0}),
        Stopwatch({CUDNN: 1.0, FLASH: 9.0, EFFICIENT: 9.0}),
    )
    assert backend(fast) == CUDNN
    assert [backend(stopwatch, answers.setdefault) for stopwatch in (slow, fast)] == [FLASH, FLASH]


def test_ranks_of_a_group_agree_over_its_store() -> None:
    group = Group(0, 1, CPU)
    assert group.agree("question", "own") == "own"
    group.join(group.host("127.0.0.1"))
    try:
        assert [group.agree("question", answer) for answer in ("own", "another")] == ["own", "own"]
    finally:
        group.leave()
    assert group.agree("question", "another") == "another"


def test_rows_are_softmax_attention() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(QUERIES), torch.randn(KEYS), torch.randn(KEYS)
    rows = FastAttention()(q, k, v)
    expected = torch.softmax(q @ k.mT / 8**0.5, -1) @ v
    assert rows.is_contiguous()
    torch.testing.assert_close(rows, expected.transpose(1, 2).reshape(4, 16))
