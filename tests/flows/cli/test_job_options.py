"""Options of a render in the help of every job command: their groups, choices, ranges and units."""

import re
from typing import get_args

import pytest

from flows.cli.job_options import choices_of, values_of
from flows.cli.options import JOB_COMMANDS, Parser, make_parser
from flows.parameters import GROUPS, RenderParameters


def help_of(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", "500")  # a line an option
    with pytest.raises(SystemExit):
        make_parser(command).parse_args([command, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("command", JOB_COMMANDS)
def test_help_has_groups_choices_and_ranges(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(command, monkeypatch, capsys)
    places = [text.index(f"\n{group.title}:\n  {group.description}\n") for group in GROUPS]
    assert places == sorted(places)
    for name, field in RenderParameters.model_fields.items():
        line = re.search(rf"^  --{name}\b.*(?:\n {{6,}}.*)?", text, re.MULTILINE)
        assert line, name
        assert str(field.description) in line[0]
        if bool not in (field.annotation, *get_args(field.annotation)):
            assert f"--{name} {values_of(name)}" in line[0]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sample_steps", "1..8"),
        ("seed", "0..2^63-1"),
        ("num_clip", "1..100000"),
        ("leave_memory", "0..1024"),
        ("preset", "newbie|fast|quality|production"),
        ("framing", "portrait|model"),
        ("size", "W*H"),
        ("out", "DIR"),
    ],
)
def test_values_are_those_of_the_form(name: str, values: str) -> None:
    assert values_of(name) == values


def test_an_annotation_without_choices_has_none() -> None:
    assert choices_of(str | None) == choices_of(int) == ()


@pytest.mark.parametrize("command", ["preprocess", "regress", "serve", "store", "evaluate", "bench", "plan", "sweep"])
def test_no_option_shows_its_own_name_as_value(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(command, monkeypatch, capsys)
    assert not [name for name, value in re.findall(r"--(\w+) ([A-Z_]+)\b", text) if value == name.upper() != "GB"
                and value not in ("DAYS", "SECONDS", "PORT")]  # fmt: skip


def test_a_parser_has_the_options_of_the_commands_asked_for() -> None:
    parser = make_parser("plan", "store")
    assert isinstance(parser, Parser)
    assert vars(parser.parse_args(["store", "ls"]))["action"] == "ls"
    assert vars(parser.parse_args(["plan", "--json"]))["json"]
