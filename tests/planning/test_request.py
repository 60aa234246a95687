"""Requests of the planner: copies with other values, whichever part holds the option."""

import pytest

from liveavatar.engine.settings import RenderSettings
from liveavatar.planning.request import PlanRequest

REQUEST = PlanRequest(width=384, height=256, num_frames=48, settings=RenderSettings(prompt="a calm woman", seed=7))


def test_a_copy_changes_only_the_options_that_are_named() -> None:
    copy = REQUEST.changed(sample_steps=3, width=704, offload=True)
    assert (copy.settings.sample_steps, copy.width, copy.offload, copy.size) == (3, 704, True, "704*256")
    assert (copy.settings.prompt, copy.settings.seed, copy.height) == ("a calm woman", 7, 256)
    assert (REQUEST.settings.sample_steps, REQUEST.size) == (4, "384*256")
    assert copy.changed(sample_steps=4, width=384, offload=False) == REQUEST


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises(TypeError, match="colour"):
        REQUEST.changed(colour="red")
