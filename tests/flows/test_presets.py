"""Presets: every name for every model, with options that the form and the model take."""

import pytest

from flows import preflight
from flows.parameters import RenderParameters
from flows.presets import NAMES, preset_options
from liveavatar.config import LIVE_AVATAR_14B, MINI, ModelConfig


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", [LIVE_AVATAR_14B, MINI], ids=lambda model: model.name)
def test_a_preset_is_a_job_that_the_model_does(model: ModelConfig, name: str) -> None:
    options = preset_options(name, model)
    job = RenderParameters.model_validate(
        {"audio": "a", "image": "i", "prompt": "p", "model": model.name, "preset": name}
    )
    assert {field: getattr(job, field) for field in options} == options
    assert job.sample_steps in model.sigmas
    preflight.refuse_size(job, model)


def test_the_form_offers_the_presets() -> None:
    offered = RenderParameters.model_json_schema()["properties"]["how"]["properties"]["preset"]["enum"]
    assert tuple(offered) == (*NAMES, None)


def test_a_beginner_takes_what_the_article_recommends() -> None:
    assert preset_options("newbie", LIVE_AVATAR_14B) == {"size": "688*368", "sample_steps": 4, "num_clip": 50}
    assert preset_options("newbie", MINI)["size"] == "384*256"


def test_fast_has_the_fewest_steps() -> None:
    for model in (LIVE_AVATAR_14B, MINI):
        steps = {name: preset_options(name, model)["sample_steps"] for name in NAMES}
        assert steps["fast"] < min(steps[name] for name in NAMES if name != "fast")


def test_production_refuses_doubtful_inputs() -> None:
    for model in (LIVE_AVATAR_14B, MINI):
        options = preset_options("production", model)
        assert options["strict_prompt"]
        assert options["strict_portrait"]
