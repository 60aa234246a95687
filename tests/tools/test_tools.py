"""What the commands of `liveavatar.tools` share: their last line and their exit code."""

import pytest

from liveavatar.errors import CapacityError
from liveavatar.tools import run


def test_the_line_of_what_was_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: "a.wav: 2.0 s") == 0
    assert capsys.readouterr() == ("a.wav: 2.0 s\n", "")


def test_an_error_is_one_line_with_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> str:
        raise CapacityError("no room")

    assert run(refuse) == CapacityError.exit_code
    assert capsys.readouterr() == ("", "no room\n")


def test_a_mistake_of_ours_is_not_hidden() -> None:
    def fail() -> str:
        raise KeyError("x")

    with pytest.raises(KeyError):
        run(fail)
