"""The form of a render: sizes, and the one line in which a wrong option is refused."""

import pytest

from flows.parameters import RenderParameters, parse_size, read_parameters
from liveavatar.errors import InputError

JOB = {"audio": "a.wav", "image": "face.png", "prompt": "A woman talks."}


@pytest.mark.parametrize(
    ("text", "size"),
    [("384*256", (384, 256)), (" 704*384 ", (704, 384)), ("0*256", None), ("384", None), ("", None)],
)
def test_sizes(text: str, size: tuple[int, int] | None) -> None:
    if size is None:
        with pytest.raises(ValueError, match=r"W\*H"):
            parse_size(text)
    else:
        assert parse_size(text) == size


@pytest.mark.parametrize(
    ("change", "line"),
    [
        pytest.param({"audio": None}, "--audio is missing; give it", id="missing"),
        pytest.param({"colour": "red"}, "--colour is no option of a render; `liveavatar render --help`", id="unknown"),
        pytest.param({"sample_steps": 9}, "--sample_steps '9' should be less than or equal to 8; `liveav", id="range"),
        pytest.param(
            {"infer_frames": 50}, "--infer_frames '50' is not a multiple of 12 (a block); use 48 or 60", id="clip"
        ),
        pytest.param({"fps": 30}, "--fps '30' the models make 25 frames per second", id="rate"),
        pytest.param({"prompt": " "}, "--prompt ' ' is empty", id="empty prompt"),
        pytest.param({"size": "9" * 50}, f"--size '{'9' * 37}...' is not of the form W*H", id="a long value is cut"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(change: dict[str, object], line: str) -> None:
    fields = {name: value for name, value in (JOB | change).items() if value is not None}
    with pytest.raises(InputError) as refusal:
        read_parameters(fields)
    assert str(refusal.value).startswith(line)


def test_settings_are_what_changes_the_latents() -> None:
    job = read_parameters({**JOB, "seed": 7, "out": "elsewhere", "resume": True})
    assert isinstance(job, RenderParameters)
    assert (job.settings().seed, job.settings().prompt) == (7, "A woman talks.")
    assert job.settings() == read_parameters({**JOB, "seed": 7}).settings()
    assert (job.area(), job.model_copy(update={"size": "704*384"}).area()) == (None, (704, 384))
