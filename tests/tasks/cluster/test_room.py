"""Room for another engine: which resident engines are ended."""

import pytest

from tasks.cluster.room import to_end

NAMES = ["engine-a-auto", "group-b-auto-2-77-0", "group-b-auto-2-77-1", "engine-c-auto", "engine-c-auto-1"]
GROUP = ["group-b-auto-2-77-0", "group-b-auto-2-77-1"]


@pytest.mark.parametrize(
    ("missing", "busy", "ended"),
    [
        pytest.param(0, (), [], id="there is room"),
        pytest.param(-2, (), [], id="more than enough"),
        pytest.param(1, (), [["engine-a-auto"]], id="one is enough"),
        pytest.param(2, (), [["engine-a-auto"], GROUP], id="a group as a whole"),
        pytest.param(1, ("engine-a-auto",), [GROUP], id="a busy one stays"),
        pytest.param(1, ("engine-a-auto", "group-b-auto-2-77-1"), [["engine-c-auto"]], id="a rank is busy"),
        pytest.param(9, ("engine-a-auto",), [GROUP, ["engine-c-auto"], ["engine-c-auto-1"]], id="all that are idle"),
    ],
)
def test_idle_engines_are_ended_until_there_is_room(
    missing: float, busy: tuple[str, ...], ended: list[list[str]]
) -> None:
    assert to_end(NAMES, missing, lambda name: name not in busy) == ended
