"""The deployments of `prefect.yaml`, served from this machine: visible and triggerable in the Prefect UI."""

import importlib
import logging
import warnings
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow
from prefect import serve as serve_forever
from prefect.client.orchestration import get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ParameterBindError, ParameterTypeError, SignatureMismatchError

from flows.parameters import read_parameters
from flows.serving.schedules import keep_changes, read_schedules, retire, skip_missed
from liveavatar import paths
from liveavatar.errors import InputError

log = logging.getLogger(__name__)

TABLE = paths.DEPLOYMENTS
JOB_FLOWS = ("render", "sweep")  # whose `parameters` are those of a render


def deployments(table: Path = TABLE) -> list[dict[str, Any]]:
    """Read the rows of the table of deployments.

    Raises:
        InputError: when it is missing or no table of deployments.
    """
    try:
        return list(yaml.safe_load(table.read_text())["deployments"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as e:
        raise InputError(f"{table} holds no deployments ({type(e).__name__}); restore it from the repository") from e


def flow_of(entrypoint: str) -> Flow[..., Any]:
    """Import the flow of an entry point such as `flows/render.py:render`.

    Raises:
        InputError: there is none.
    """
    file, _, name = entrypoint.partition(":")
    try:
        flow = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)
    except (ImportError, AttributeError, TypeError, ValueError) as e:
        raise InputError(f"there is no flow {entrypoint}; give one such as flows/render.py:render") from e
    if not isinstance(flow, Flow):
        raise InputError(f"{entrypoint} is no flow; give one such as flows/render.py:render")
    return flow


def prepared(table: Path = TABLE) -> list[RunnerDeployment]:
    """Make the deployments of a table, each with its schedules.

    Raises:
        InputError: a row cannot be used.
    """
    made: list[RunnerDeployment] = []
    for row in deployments(table):
        missing = [key for key in ("name", "entrypoint") if not isinstance(row, dict) or not row.get(key)]
        if missing:
            raise InputError(f"{table}: the row {row} has no {missing[0]}; give it a name and an entrypoint")
        try:
            flow, schedules = flow_of(str(row["entrypoint"])), read_schedules(row)
        except InputError as e:
            raise InputError(f"{table}: {row['name']}: {e}") from e
        deployment = flow.to_deployment(
            name=str(row["name"]),
            description=row.get("description"),
            tags=row.get("tags"),
            parameters=row.get("parameters"),
        )
        assert isinstance(deployment, RunnerDeployment)  # a coroutine only inside an event loop
        wrong = why_refused(flow, row.get("parameters")) if schedules else ""
        if wrong:
            log.warning("%s: %s: %s; its scheduled runs will fail", table, row["name"], wrong)
        deployment.schedules = list(schedules)
        made.append(deployment)
    return made


def why_refused(flow: Flow[..., Any], parameters: Any) -> str:
    """Tell what is wrong with the parameters of a scheduled row, hours before its first run; empty when nothing is."""
    if not isinstance(parameters, dict | None):
        return f"parameters {parameters!r}: give a name and a value on each line below it"
    options = dict(parameters or {})
    try:
        if flow.name in JOB_FLOWS and isinstance(options.get("parameters"), dict):
            options["parameters"] = read_parameters(options["parameters"])
        flow.validate_parameters(options)
    except InputError as e:
        return str(e)
    except (ParameterTypeError, ParameterBindError, SignatureMismatchError) as e:
        return "parameters: " + str(e).splitlines()[-1].removeprefix(" - ")
    return ""


def serve_all(*, own: bool) -> None:
    """Serve every deployment until Ctrl-C.

    Args:
        own: whether the server is ours; on another one deployments that the table does not have may be somebody's.

    Raises:
        InputError: the table cannot be used.
    """
    served = prepared()
    with get_client(sync_client=True) as client:
        keep_changes(client, served)
        names = [f"{deployment.flow_name}/{deployment.name}" for deployment in served]
        for line in (*(retire(client, served) if own else ()), *skip_missed(client, names)):
            log.warning("%s", line)
    # Prefect's runner does not await its own end on Ctrl-C
    warnings.filterwarnings("ignore", message="coroutine 'Runner.astop' was never awaited", category=RuntimeWarning)
    # what is paused is the user's choice: a pause at our end would look the same at the next start
    serve_forever(*served, print_starting_message=False, limit=1, pause_on_shutdown=False)
