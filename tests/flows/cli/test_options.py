"""Options of the command line: spelling, and one option for each parameter of a render."""

import pytest

from flows.cli.options import make_parser, normalise
from flows.parameters import RenderParameters
from liveavatar.errors import InputError


def test_dashes_and_underscores_mean_the_same() -> None:
    spelled = normalise(["check_prompt", "--sample-steps", "--x-y=a-b", "a-b", "--", "--keep-this"])
    assert spelled == ["check-prompt", "--sample_steps", "--x_y=a-b", "a-b", "--", "--keep-this"]


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        (["preprocess", "--input", "-x.wav", "--output", "o"], ["preprocess", "--input=-x.wav", "--output", "o"]),
        (["render", "--audio", "-"], ["render", "--audio", "-"]),
        (["render", "--pose-video", "-h.mp4", "-h"], ["render", "--pose_video=-h.mp4", "-h"]),
        (["evaluate", "-x.mp4", "--image=-i.png"], ["evaluate", "./-x.mp4", "--image=-i.png"]),
        (["plan", "--seconds", "-3"], ["plan", "--seconds=-3"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_value_may_begin_with_a_dash(given: list[str], spelled: list[str]) -> None:
    assert normalise(given) == spelled


def test_every_parameter_is_an_option() -> None:
    needed = ["render", "--audio", "a", "--image", "b", "--prompt", "c"]
    for name, field in RenderParameters.model_fields.items():
        flag = field.annotation is bool
        options = vars(make_parser("render").parse_args([*needed, f"--{name}", *([] if flag else ["1"])]))
        assert options[name] == (True if flag else "1")


@pytest.mark.parametrize("value", ["True", "False"])
def test_offload_model_takes_a_word(value: str) -> None:
    needed = ["render", "--audio", "a", "--image", "b", "--prompt", "c", "--offload_model", value]
    assert vars(make_parser("render").parse_args(needed))["offload_model"] == value


@pytest.mark.parametrize(
    ("given", "told"),
    [
        pytest.param(
            ["render", "--audoi", "x"], "unrecognized arguments: --audoi: did you mean --audio?", id="an option"
        ),
        pytest.param(["batch", "t.csv", "--sample_step=3"], "did you mean --sample_steps?", id="one with its value"),
        pytest.param(["store", "ls", "--zzz"], "--zzz; see `liveavatar store --help`", id="nothing like it"),
        pytest.param(["rendr"], "invalid choice: 'rendr': did you mean render?", id="a command"),
        pytest.param(["zzz"], "see `liveavatar --help`", id="no command"),
    ],
)
def test_what_is_misspelt_is_answered_with_what_is_meant(given: list[str], told: str) -> None:
    with pytest.raises(InputError) as refused:
        make_parser(given[0]).parse_args(given)
    assert told in str(refused.value)
