"""The form of a render: sizes, and the one line in which a wrong option is refused."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.parameters import GROUPS, RenderParameters, given_parameters, grouped, parse_size, read_parameters, ungrouped
from flows.presets import FILLED
from liveavatar.config import LIVE_AVATAR_14B
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
        pytest.param({"preset": "slow"}, "--preset 'slow' should be 'newbie', 'fast', 'quality' or 'prod", id="preset"),
        pytest.param(
            {"leave_memory": "much"}, "--leave_memory 'much' is no amount of memory; write gigabytes", id="no memory"
        ),
        pytest.param({"leave_memory": -1}, "--leave_memory '-1' should be greater than or equal to 0", id="less"),
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


@pytest.mark.parametrize(
    ("text", "gb"), [("6GB", 6.0), ("6", 6.0), (" 5.5 GiB", 5.5), ("6g", 6.0), (6, 6.0), ("512MB", 0.5), (".5", 0.5)]
)
def test_memory_is_given_with_or_without_its_unit(text: object, gb: float) -> None:
    assert read_parameters({**JOB, "leave_memory": text}).leave_memory == gb


LARGE = {**JOB, "model": "live-avatar-14b"}


def test_a_preset_fills_what_is_not_given() -> None:
    job = read_parameters({**LARGE, "preset": "newbie"})
    assert (job.size, job.num_clip, job.sample_steps) == ("688*368", 50, 4)
    assert job.filled() == {"size": "688*368", "num_clip": 50, "sample_steps": 4}
    assert job.settings() == read_parameters({**LARGE, "size": "688*368"}).settings()
    own = read_parameters({**LARGE, "preset": "fast", "sample_steps": 4, "size": None})
    assert (own.size, own.sample_steps) == ("384*256", 4), "a value that is the default may be asked for"
    assert own.filled() == {"size": "384*256"}
    assert read_parameters(own.model_dump()).settings() == own.settings()
    assert read_parameters(JOB).filled() == {}


def test_a_preset_knows_the_model_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(replace(LIVE_AVATAR_14B, name="mine").to_json())
    assert read_parameters({**JOB, "model": str(tmp_path), "preset": "newbie"}).size == "688*368"
    assert read_parameters({**JOB, "preset": "newbie"}).size == "384*256"


@pytest.fixture(scope="module")
def form() -> dict[str, Any]:
    """The schema of the render's parameters, as Prefect's form has it."""
    return RenderParameters.model_json_schema()


def test_every_option_is_in_one_group() -> None:
    assert sorted(name for group in GROUPS for name in group.options) == sorted(RenderParameters.model_fields)


def test_the_form_has_groups_whose_options_have_one_type(form: dict[str, Any]) -> None:
    assert list(form["properties"]) == ["what", "how", "where"]
    assert all(group["title"] and group["description"] for group in form["properties"].values())
    options = {name: option for group in form["properties"].values() for name, option in group["properties"].items()}
    assert set(options) == set(RenderParameters.model_fields) - {"fps"}, "one legal value is no choice"
    assert not [name for name, option in options.items() if "anyOf" in option], "the form would show `type None`"
    assert options["size"] == {"type": "string", "title": "Size", "description": options["size"]["description"]}
    assert options["preset"]["enum"] == ["newbie", "fast", "quality", "production", None]
    assert (options["num_clip"]["minimum"], options["num_clip"]["maximum"]) == (1, 100_000)
    assert not {name for name in FILLED if "default" in options[name]}, (
        "the form sends it, and the preset fills nothing"
    )
    assert options["sample_steps"]["description"].endswith("; 4 when empty")
    assert "PCM" not in options["audio"]["description"], "a form has no pipe"


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        pytest.param(JOB, True, id="the least"),
        pytest.param(RenderParameters(**JOB).model_dump(), True, id="every option, empty ones as null"),
        pytest.param(grouped(RenderParameters(**JOB).model_dump()), True, id="every option in groups"),
        pytest.param({**JOB, "size": "384*256", "preset": "fast", "fps": 25}, True, id="some"),
        pytest.param({"what": JOB, "how": {"preset": "fast", "fps": 25}}, True, id="groups"),
        pytest.param({"what": JOB, "resume": True}, True, id="a group and one outside"),
        pytest.param({"what": JOB, "how": {"preset": "best"}}, False, id="no such choice"),
        pytest.param({**JOB, "num_clip": 0}, False, id="out of range"),
        pytest.param({"what": JOB, "how": {"num_clip": 0}}, False, id="out of range in its group"),
        pytest.param({**JOB, "audoi": "x"}, False, id="misspelt"),
        pytest.param({"what": JOB | {"audoi": "x"}}, False, id="misspelt in its group"),
        pytest.param({"what": {"audio": "a.wav"}}, False, id="no picture"),
        pytest.param({"how": {"seed": 1}}, False, id="no sound"),
        pytest.param({}, False, id="nothing"),
    ],
)
def test_prefect_takes_what_the_form_sends(form: dict[str, Any], given: dict[str, Any], taken: bool) -> None:
    from prefect.utilities.schema_tools.validation import ValidationError, validate

    schema = {"type": "object", "properties": {"parameters": form}, "required": ["parameters"]}
    with nullcontext() if taken else pytest.raises(ValidationError):
        validate({"parameters": given}, schema, raise_on_error=True)


@pytest.mark.parametrize("given", [{"what": JOB, "how": {"sample_step": 3}}, {**JOB, "sample_step": 3}])
def test_prefect_refuses_a_misspelt_option_and_lists_them(form: dict[str, Any], given: dict[str, Any]) -> None:
    from prefect.utilities.schema_tools.validation import ValidationError, validate

    with pytest.raises(ValidationError, match=r"'sample_step' is not one of .*'sample_steps'"):
        validate(given, form, raise_on_error=True)


def test_parameters_of_a_flow_are_read_as_they_were_given() -> None:
    read = read_parameters(JOB)
    assert given_parameters(read) is read
    assert given_parameters({"what": JOB}) == read
    with pytest.raises(InputError, match=r"^--size 'big' is not of the form W\*H; write for example"):
        given_parameters({**JOB, "size": "big"})


def test_options_in_groups_make_the_same_job() -> None:
    options = {**JOB, "seed": 7, "sample_steps": 3, "out": "there"}
    assert grouped(options) == {"what": JOB, "how": {"sample_steps": 3, "seed": 7}, "where": {"out": "there"}}
    assert ungrouped(grouped(options)) == options
    assert read_parameters(grouped(options)) == read_parameters(options)
    assert ungrouped({"what": JOB, "how": {"sample_steps": None, "preset": "fast"}}) == {**JOB, "preset": "fast"}
    assert ungrouped({"where": {"resume": False}, "resume": True}) == {"resume": True}, "as a run that is resumed"


def test_a_wrong_option_of_a_group_is_named_without_it() -> None:
    with pytest.raises(InputError, match=r"^--sample_steps '9' should be less"):
        read_parameters({"what": JOB, "how": {"sample_steps": 9}})


def test_an_automatic_prompt_is_written_once() -> None:
    written = RenderParameters(**{**JOB, "prompt": "auto: a man in a grey suit"})
    assert written.prompt.startswith("a man in a grey suit. They look into the camera")
    assert RenderParameters(**written.model_dump()).prompt == written.prompt
    with pytest.raises(InputError, match="cannot be rewritten by `auto`"):
        read_parameters({**JOB, "prompt": "auto: un hombre con traje habla"})
