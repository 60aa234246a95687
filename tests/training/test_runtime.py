"""Work made ahead by threads: in order, beside the taker, and never more of it than asked for."""

import threading
import time

import pytest

from liveavatar.training.runtime import map_ahead


def test_values_come_in_order_and_few_are_ahead() -> None:
    begun: list[int] = []
    taken = 0

    def make(item: int) -> int:
        begun.append(item)
        assert max(begun) < taken + 1 + 4, "one that is being taken, and four ahead"
        time.sleep(0.01 if item % 3 == 0 else 0)
        return item * item

    values = []
    for value in map_ahead(make, range(20), threads=3, most=4):
        values.append(value)
        taken += 1
    assert values == [i * i for i in range(20)]
    assert sorted(begun) == list(range(20))


def test_the_next_is_made_while_one_is_used() -> None:
    second = threading.Event()
    values = map_ahead(lambda item: second.set() if item else None, range(2), threads=1, most=1)
    next(values)
    assert second.wait(10), "nothing was made beside the taker"
    assert len(list(values)) == 1


def test_what_fails_is_raised_where_it_is_taken() -> None:
    values = map_ahead(lambda item: 1 // item, (1, 0, 1), threads=2, most=2)
    assert next(values) == 1
    with pytest.raises(ZeroDivisionError):
        next(values)
