"""Memory of a stream: zeros at first, updated in place, stored and restored."""

import pytest
import torch

from liveavatar.model.stream_state import StreamState

LIKE = torch.zeros(1, dtype=torch.bfloat16)


def test_a_history_begins_as_zeros_and_keeps_its_address() -> None:
    state = StreamState(1, 2, 3)
    assert "conv" not in state
    history = state.history("conv", (1, 4), LIKE)
    assert "conv" in state
    assert history.dtype == torch.bfloat16
    assert not history.any()
    state.keep("conv", torch.ones(1, 4))
    assert (history == 1).all(), "in place: graphs have recorded the address"
    assert state.history("conv", (1, 4), LIKE) is history


def test_what_is_kept_first_is_a_copy() -> None:
    state, value = StreamState(1, 2, 3), torch.ones(2)
    state.keep("conv", value)
    value.zero_()
    assert (state.history("conv", (2,), LIKE) == 1).all()


def test_another_shape_is_a_fault_of_ours() -> None:
    state = StreamState(1, 2, 3)
    state.history("conv", (1, 4), LIKE)
    with pytest.raises(AssertionError, match=r"conv: stored \(1, 4\), requested \(1, 5\)"):
        state.history("conv", (1, 5), LIKE)


def test_a_restored_state_is_the_stored_one_and_nothing_else() -> None:
    saved = StreamState(1, 2, 3)
    saved.position = 7
    saved.keep("a", torch.full((2,), 3.0))
    tensors = {name: t.clone() for name, t in saved.tensors().items()}
    state = StreamState(1, 2, 3)
    own = state.history("a", (2,), torch.zeros(1))
    state.keep("stale", torch.ones(5))
    state.load(tensors)
    assert state.position == 7
    assert (own == 3).all()
    assert state.tensors().keys() == {"position", "a"}
    assert int(state.tensors()["position"]) == 7
    assert state.to("cpu") is state
