"""Copies of jobs with other settings or inputs."""

from dataclasses import fields, replace
from typing import Any, TypeVar

from liveavatar.engine.settings import RenderSettings

Job = TypeVar("Job", bound=Any)
_SETTINGS = {field.name for field in fields(RenderSettings)}


def changed(job: Job, **changes: Any) -> Job:
    """Copy a StreamJob or RenderJob with changes, of which those named in RenderSettings go to its settings."""
    settings = replace(job.settings, **{name: value for name, value in changes.items() if name in _SETTINGS})
    inputs = {name: value for name, value in changes.items() if name not in _SETTINGS}
    copy: Job = replace(job, settings=settings, **inputs)
    return copy
