"""JSON lines of the log: what they hold, in a run of Prefect and outside."""

import json
import uuid
from datetime import datetime
from types import SimpleNamespace

import pytest
from prefect.context import FlowRunContext

from flows.json_log import json_line


def test_a_line_is_one_object_with_the_facts_that_are_known() -> None:
    line = json_line("WARNING", 'slow\n"路"', stage="render", block=0, cached=None, logger="")
    told = json.loads(line)
    assert "\n" not in line
    assert datetime.fromisoformat(told.pop("time")).tzinfo is not None
    assert told == {"level": "warning", "message": 'slow\n"路"', "stage": "render", "block": 0}


def test_inside_a_run_a_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run = SimpleNamespace(flow_run=SimpleNamespace(id=uuid.UUID(int=7), name="voice-anna-420"))
    monkeypatch.setattr(FlowRunContext, "get", classmethod(lambda cls: run))
    told = json.loads(json_line("info", "render: begin"))
    assert (told["run_id"], told["run"]) == (str(uuid.UUID(int=7)), "voice-anna-420")
