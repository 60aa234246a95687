"""Exit codes of the errors that a user can meet."""

import pytest

from liveavatar.errors import CapacityError, CheckpointError, InputError, Interrupted, LiveAvatarError


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
