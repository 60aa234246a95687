"""Lines of a log as JSON: one object a line, with the run of Prefect that it belongs to."""

import json
import sys
from datetime import UTC, datetime
from typing import Any


def json_line(level: str, message: str, **facts: Any) -> str:
    """Write a line: `time`, `level`, `message`, facts that are known, and `run_id` and `run` inside a run."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level.lower(), "message": message}
    return json.dumps(line | {k: v for k, v in facts.items() if v not in (None, "")} | _run(), ensure_ascii=False)


def _run() -> dict[str, str]:
    """Name the flow run of this context; nothing where Prefect is not loaded, or outside a run."""
    if "prefect.context" not in sys.modules:
        return {}
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return {}
    return {"run_id": str(context.flow_run.id), "run": context.flow_run.name}
