"""The table of deployments: every row names a flow and fits its parameters; a damaged table is refused."""

import re
from pathlib import Path

import pytest

from flows.serving.deployments import deployments, flow_of
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
