"""Exit codes of the errors that a user can meet."""

import pytest

from liveavatar.errors import (
    LONGEST,
    CapacityError,
    CheckpointError,
    InputError,
    Interrupted,
    LiveAvatarError,
    one_line,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [(LiveAvatarError, 5), (InputError, 2), (CheckpointError, 2), (CapacityError, 3), (Interrupted, 4)],
)
def test_exit_codes(error: type[LiveAvatarError], code: int) -> None:
    assert error.exit_code == code
    assert issubclass(error, LiveAvatarError)


def test_a_damaged_model_is_an_input_that_cannot_be_used() -> None:
    assert issubclass(CheckpointError, InputError)
    assert not issubclass(CapacityError, InputError)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("a.wav: it is  silent", "a.wav: it is  silent", id="a line stays as it is"),
        pytest.param("two\n  lines\r\n\u2028end\n", "two lines end", id="lines are joined"),
        pytest.param("\x1b[2Ja\0b\u202e.wav", r"\x1b[2Ja\x00b\u202e.wav", id="control characters are escaped"),
        pytest.param("\udce9.wav", r"\udce9.wav", id="names that are not UTF-8"),
        pytest.param("一位女士 é", "一位女士 é", id="all languages"),
    ],
)
def test_a_message_is_one_printable_line(text: str, line: str) -> None:
    assert one_line(text) == str(InputError(text)) == line


def test_the_way_out_survives_a_long_name() -> None:
    message = str(InputError("a" * 5000 + ": there is no such file; check the path"))
    assert len(message) <= LONGEST
    assert message.endswith("a: there is no such file; check the path")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("no answer at http://me:pw@127.0.0.1:9/api", "no answer at http://***@127.0.0.1:9/api", id="both"),
        pytest.param("postgresql+asyncpg://u:p@ss@db/x", "postgresql+asyncpg://***@db/x", id="an @ inside"),
        pytest.param("see https://a.example/b@c", "see https://a.example/b@c", id="no password"),
        pytest.param("me@a.example", "me@a.example", id="an address of mail"),
    ],
)
def test_passwords_of_addresses_are_left_out(text: str, shown: str) -> None:
    assert str(CapacityError(text)) == shown
