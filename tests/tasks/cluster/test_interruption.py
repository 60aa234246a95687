"""Ctrl-C for threads: raised once it was pressed, until it is forgotten."""

from collections.abc import Iterator

import pytest

from tasks.cluster import interruption


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    interruption.forget()


def test_every_look_raises_until_it_is_forgotten() -> None:
    interruption.check()
    interruption.interrupt()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            interruption.check()
    interruption.forget()
    interruption.check()
