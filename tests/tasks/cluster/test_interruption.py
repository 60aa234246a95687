"""Ctrl-C for threads: every look raises once it was pressed, for the jobs that share the object and no other."""

import pytest

from tasks.cluster.interruption import Interruption


def test_every_look_raises_once_it_was_pressed() -> None:
    one, other = Interruption(), Interruption()
    one.check()
    one.interrupt()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            one.check()
    other.check()
