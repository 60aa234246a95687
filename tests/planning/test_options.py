"""Options that contradict each other, the model or the number of GPUs."""

from typing import Any

import pytest

from liveavatar.config import LIVE_AVATAR_14B, MINI, TINY, ModelConfig
from liveavatar.engine.settings import RenderSettings
from liveavatar.errors import CapacityError, InputError
from liveavatar.planning.options import MachineUse, most_ranks, option_errors


@pytest.mark.parametrize(
    ("model", "settings", "use", "gpus", "kind", "says"),
    [
        pytest.param(MINI, {"fp8": True}, {}, 0, InputError, "8-bit linear layers need a GPU", id="fp8 on a CPU"),
        pytest.param(MINI, {}, {"offload": True}, 0, InputError, "use --offload_model False", id="offload on a CPU"),
        pytest.param(LIVE_AVATAR_14B, {"kv_cache_dtype": "fp8"}, {}, 0, InputError, "and this machine has 0 GPUs",
                     id="keys and values on a CPU"),
        pytest.param(MINI, {"kv_cache_dtype": "bf16"}, {}, 1, InputError, "not mini; drop it", id="of a small model"),
        pytest.param(LIVE_AVATAR_14B, {}, {"num_gpus": 2}, 0, CapacityError, "cannot run without", id="no GPU"),
        pytest.param(LIVE_AVATAR_14B, {}, {"num_gpus": 2}, 1, CapacityError, "this machine has 1 GPU; use --num_gpus 1",
                     id="too few GPUs"),
        pytest.param(LIVE_AVATAR_14B, {}, {"placement": "tpp", "offload": True}, 2, InputError, "drop --offload_model",
                     id="a group with offload"),
        pytest.param(TINY, {}, {"placement": "tpp", "num_gpus": 6}, 8, InputError, "no more than 5 busy",
                     id="more ranks than steps and a decoder"),
        pytest.param(LIVE_AVATAR_14B, {}, {"placement": "tpp", "num_gpus": 9}, 16, InputError, "over 8 GPUs at most",
                     id="more GPUs than a job is spread over"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_is_refused(
    model: ModelConfig, settings: dict[str, Any], use: dict[str, Any], gpus: int, kind: type[Exception], says: str
) -> None:
    (error,) = option_errors(model, RenderSettings(prompt="p", **settings), MachineUse(**use), gpus)
    assert isinstance(error, kind)
    assert says in str(error)


@pytest.mark.parametrize(
    ("use", "gpus"),
    [
        pytest.param({}, 0, id="nothing asked"),
        pytest.param({"placement": "tpp"}, 8, id="idle GPUs are no error"),
        pytest.param({"placement": "tpp", "num_gpus": 8}, 8, id="all busy"),
        pytest.param({"num_gpus": 8}, 8, id="any placement"),
    ],
)
def test_what_can_be_is_not_refused(use: dict[str, Any], gpus: int) -> None:
    assert option_errors(LIVE_AVATAR_14B, RenderSettings(prompt="p"), MachineUse(**use), gpus) == []


def test_a_step_and_the_decoder_keep_a_rank_busy() -> None:
    settings = RenderSettings(prompt="p", sample_steps=3)
    assert most_ranks(TINY, settings, 8) == most_ranks(LIVE_AVATAR_14B, settings, 0) == 4
    assert most_ranks(LIVE_AVATAR_14B, settings, 8) == 8, "its steps are cut between layers"
