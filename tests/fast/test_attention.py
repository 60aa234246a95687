"""Backends of attention: the choice is reproducible, and one for all ranks of a group."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from liveavatar.distributed.group import Group
from liveavatar.errors import CapacityError
from liveavatar.fast.attention import (
    CUDNN,
    EFFICIENT,
    FLASH,
    MATH,
    PYTORCH,
    Agree,
    AttentionKernel,
    FastAttention,
    choose,
)
from liveavatar.fast.flash3 import FlashAttention3

CPU = torch.device("cpu")
QUERIES, KEYS = (1, 2, 4, 8), (1, 2, 6, 8)
LONG_QUERIES, LONG_KEYS = (1, 2, 4, 64), (1, 2, 1024, 64)


def times(cudnn: float | None, flash: float | None, efficient: float | None) -> dict[str, float]:
    """Seconds by backend, without those that cannot do the shape."""
    named = {CUDNN.name: cudnn, FLASH.name: flash, EFFICIENT.name: efficient}
    return {name: seconds for name, seconds in named.items() if seconds is not None}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param(times(1.0, 1.4, 2.0), CUDNN, id="the first is the fastest"),
        pytest.param(times(1.4, 1.0, 2.0), CUDNN, id="a later one is faster by chance"),
        pytest.param(times(1.6, 1.0, 2.0), FLASH, id="a later one is clearly faster"),
        pytest.param(times(1.6, 1.0, 0.9), FLASH, id="the last one is little faster than the second"),
        pytest.param(times(1.6, 1.0, 0.5), EFFICIENT, id="the last one is clearly faster than both"),
        pytest.param(times(None, None, 9.0), EFFICIENT, id="only one can do the shape"),
        pytest.param({}, MATH, id="none can do the shape"),
    ],
)
def test_choice(seconds: Mapping[str, float], expected: AttentionKernel) -> None:
    assert choose(PYTORCH, seconds) == expected


class Stopwatch:
    """Times of backends as they are given, and how often they were asked for."""

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self.seconds, self.calls = seconds, 0

    def __call__(self, backend: AttentionKernel, q: Tensor, k: Tensor, v: Tensor) -> float | None:
        assert (tuple(q.shape), tuple(k.shape), tuple(v.shape)) in (
            (QUERIES, KEYS, KEYS),
            (LONG_QUERIES, LONG_KEYS, LONG_KEYS),
        )
        self.calls += 1
        return self.seconds.get(backend.name)


def backend(stopwatch: Stopwatch, agree: Agree | None = None) -> AttentionKernel:
    return FastAttention(agree, stopwatch).backend(QUERIES, KEYS, torch.float32, CPU)


@pytest.mark.parametrize(("first", "second"), [(1.0, 1.3), (1.3, 1.0), (1.0, None)])
def test_processes_whose_timings_differ_choose_alike(first: float, second: float | None) -> None:
    once = backend(Stopwatch(times(1.0, 1.1, 2.0)))
    assert backend(Stopwatch(times(first, second, 2.0))) == once


def test_a_shape_is_timed_once() -> None:
    stopwatch = Stopwatch(times(None, 1.0, 2.0))
    attention = FastAttention(None, stopwatch)
    for _ in range(2):
        assert attention.backend(QUERIES, KEYS, torch.float32, CPU) == FLASH
    assert stopwatch.calls == len(PYTORCH)


def test_ranks_take_the_first_answer() -> None:
    answers: dict[str, str] = {}
    slow, fast = Stopwatch(times(9.0, 1.0, 9.0)), Stopwatch(times(1.0, 9.0, 9.0))
    assert backend(fast) == CUDNN
    assert [backend(stopwatch, answers.setdefault) for stopwatch in (slow, fast)] == [FLASH, FLASH]


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, **options: Tensor) -> Tensor:
    """What `fa3_fwd_interface.flash_attn_func` computes, of [B, L, N, H], without options."""
    assert not options
    heads = torch.nn.functional.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
    return heads.transpose(1, 2).contiguous()


@pytest.mark.parametrize(
    ("queries", "keys", "dtype", "seconds", "chosen"),
    [
        pytest.param(LONG_QUERIES, LONG_KEYS, torch.bfloat16, 1.2, True, id="long enough"),
        pytest.param(LONG_QUERIES, LONG_KEYS, torch.bfloat16, 1.6, False, id="clearly slower here"),
        pytest.param(LONG_QUERIES, LONG_KEYS, torch.float32, 0.1, False, id="another dtype"),
        pytest.param(QUERIES, KEYS, torch.bfloat16, 0.1, False, id="few keys, and heads it does not have"),
    ],
)
def test_flash_attention_3_comes_first_for_its_work(
    queries: tuple[int, ...], keys: tuple[int, ...], dtype: torch.dtype, seconds: float, chosen: bool
) -> None:
    flash3 = FlashAttention3(softmax_attention)
    attention = FastAttention(None, Stopwatch({flash3.name: seconds, **times(1.0, 2.0, 3.0)}), lambda _: flash3)
    found = attention.backend(queries, keys, dtype, CPU)
    assert found == (flash3 if chosen else CUDNN)


def test_a_rank_without_the_backend_of_the_others_is_refused() -> None:
    attention = FastAttention(
        lambda question, own: "FLASH_ATTENTION_3", Stopwatch(times(1.0, 2.0, 3.0)), lambda _: None
    )
    with pytest.raises(CapacityError, match="another rank chose FLASH_ATTENTION_3, which this one does not have"):
        attention.backend(QUERIES, KEYS, torch.float32, CPU)


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
