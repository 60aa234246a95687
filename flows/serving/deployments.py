"""The deployments of `prefect.yaml`, served from this machine: visible and triggerable in the Prefect UI."""

import importlib
import warnings
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow
from prefect import serve as serve_forever
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron

from liveavatar import paths
from liveavatar.errors import InputError

TABLE = paths.DEPLOYMENTS


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
    """Import the flow of an entry point such as `flows/render.py:render`."""
    file, _, name = entrypoint.partition(":")
    return getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)


def serve_all() -> None:
    """Serve every deployment until Ctrl-C."""
    served: list[RunnerDeployment] = []
    for row in deployments():
        schedules = [
            Cron(s["cron"], timezone=s.get("timezone", "UTC"), active=s.get("active", True))
            for s in row.get("schedules") or []
        ]
        deployment = flow_of(row["entrypoint"]).to_deployment(
            name=row["name"],
            description=row.get("description"),
            tags=row.get("tags"),
            parameters=row.get("parameters"),
            schedules=schedules or None,
        )
        assert isinstance(deployment, RunnerDeployment)  # a coroutine only inside an event loop
        served.append(deployment)
    # Prefect's runner does not await its own end on Ctrl-C
    warnings.filterwarnings("ignore", message="coroutine 'Runner.astop' was never awaited", category=RuntimeWarning)
    serve_forever(*served, print_starting_message=False, limit=1)
