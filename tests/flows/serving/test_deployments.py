"""The table of deployments: every row names a flow and fits its parameters; a damaged table is refused."""

import re
from pathlib import Path

import pytest

from flows.serving.deployments import deployments, flow_of, prepared, why_refused
from liveavatar.errors import InputError


def test_every_deployment_names_a_flow() -> None:
    rows = deployments()
    assert {"render", "nightly-regression"} <= {row["name"] for row in rows}
    for row in rows:
        flow = flow_of(row["entrypoint"])
        schema = flow.parameters.model_dump()
        assert set(row.get("parameters") or {}) <= set(schema["properties"])


def test_forms_have_types_ranges_and_defaults() -> None:
    forms = {row["name"]: flow_of(row["entrypoint"]).parameters.model_dump() for row in deployments()}
    required = {name: form["required"] for name, form in forms.items()}
    assert required == {
        "render": ["parameters"], "batch": ["jobs"], "sweep": ["parameters"], "nightly-regression": [],
    }  # fmt: skip
    for name, form in forms.items():
        own = {part: option for part, option in form["properties"].items() if part != "parameters"}
        assert "anyOf" not in str(own), f"{name}: the form would show `type None`"
    assert forms["sweep"]["properties"]["steps"]["items"] == {"type": "integer", "minimum": 1, "maximum": 8}
    assert forms["sweep"]["properties"]["steps"]["minItems"] == 1
    size = re.compile(forms["sweep"]["properties"]["sizes"]["items"]["pattern"])  # found anywhere, as in JSON Schema
    assert [bool(size.search(text)) for text in ("384*256", " 704 x 384", "999", "a 384*256", "")] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert forms["batch"]["properties"]["replicas"]["maximum"] == 64


def test_deployments_are_scheduled_as_the_table_says() -> None:
    schedules = {row["name"]: row.get("schedules") for row in deployments()}
    assert schedules["nightly-regression"][0]["cron"]
    assert not schedules["render"]


@pytest.mark.parametrize("text", [None, "", "a: [", "deployments:", "rows: []"])
def test_a_damaged_table_is_refused(text: str | None, tmp_path: Path) -> None:
    table = tmp_path / "prefect.yaml"
    if text is not None:
        table.write_text(text)
    with pytest.raises(InputError, match="holds no deployments"):
        deployments(table)


def table(tmp_path: Path, rows: str) -> Path:
    file = tmp_path / "prefect.yaml"
    file.write_text(f"deployments:\n{rows}\n")
    return file


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("- {entrypoint: flows/render.py:render}", "has no name"),
        ("- {name: news}", "has no entrypoint"),
        ("- news", "has no name"),
        ("- {name: news, entrypoint: flows/rendr.py:render}", "news: there is no flow flows/rendr.py:render; give one"),
        ("- {name: news, entrypoint: flows/render.py:rendr}", "news: there is no flow"),
        ("- {name: news, entrypoint: flows/render.py:run_job}", "news: flows/render.py:run_job is no flow"),
        ("- {name: news, entrypoint: flows/render.py:render, schedules: [{cron: 7 o'clock}]}", "cannot be used"),
    ],
)
def test_a_row_that_cannot_be_served_is_named(row: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        prepared(table(tmp_path, row))


def test_rows_are_served_with_their_schedules(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = "- {name: news, entrypoint: flows/render.py:render, schedules: [{cron: 0 7 * * *}], parameters: "
    good = "{parameters: {what: {audio: a.wav, image: b.png, prompt: A woman}, how: {num_clip: 2}}}}"
    (served,) = prepared(table(tmp_path, row + good))
    assert (served.flow_name, served.name) == ("render", "news")
    assert [schedule.active for schedule in served.schedules or []] == [True]
    assert not caplog.text
    prepared(table(tmp_path, row + good.replace("num_clip", "num_clips")))
    assert "news: --num_clips is no option of a render: did you mean num_clip?; its scheduled runs" in caplog.text


@pytest.mark.parametrize(
    ("flow", "parameters", "said"),
    [
        ("render.py:render", None, "parameters"),
        ("render.py:render", [1], "give a name and a value"),
        ("render.py:render", {"audio": "a.wav"}, "parameters"),
        ("regression.py:regression", None, ""),
        ("regression.py:regression", {"update": False}, ""),
        ("regression.py:regression", {"update": "perhaps"}, "update"),
    ],
)
def test_parameters_of_a_scheduled_row_are_judged(flow: str, parameters: object, said: str) -> None:
    wrong = why_refused(flow_of(f"flows/{flow}"), parameters)
    assert said in wrong
    assert bool(wrong) == bool(said)
