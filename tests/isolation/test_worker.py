"""The worker's side: names of functions, the limit of memory."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from liveavatar.errors import InputError
from liveavatar.isolation.worker import found, memory_limit, name_of


@pytest.mark.parametrize("thing", [json.dumps, InputError, Path.cwd], ids=["function", "class", "method"])
def test_a_function_is_found_by_its_name(thing: Callable[..., object]) -> None:
    assert found(name_of(thing)) == thing


def test_the_limit_of_memory_holds_inside_only() -> None:
    with memory_limit(200_000_000):
        assert len(np.ones(100_000_000, np.uint8)) == 100_000_000
        with pytest.raises(MemoryError):
            np.ones(400_000_000, np.uint8)
    assert len(np.ones(400_000_000, np.uint8)) == 400_000_000
