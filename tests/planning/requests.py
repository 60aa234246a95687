"""Requests and machines that the planner's tests ask about."""

from typing import Any

from liveavatar.config import LIVE_AVATAR_14B
from liveavatar.engine.settings import RenderSettings
from liveavatar.hardware import Machine, parse_gpus
from liveavatar.planning.plan import video_size
from liveavatar.planning.request import PlanRequest

CLIP = 48  # frames


def machine(gpus: str, host_gb: float = 256, disk_gb: float = 1000) -> Machine:
    """A machine with such GPUs."""
    return Machine(gpus=parse_gpus(gpus), cores=16, host_gb=host_gb, disk_gb=disk_gb)


def request_14b(area: tuple[int, int], **changes: Any) -> PlanRequest:
    """A job of 50 clips on the large model; changes are named as fields of the request or its settings."""
    width, height = video_size(LIVE_AVATAR_14B, area, None)
    settings = RenderSettings(prompt="a calm woman")
    return PlanRequest(width=width, height=height, num_frames=50 * CLIP, settings=settings).changed(**changes)


def small_request(**changes: Any) -> PlanRequest:
    """A short job at the size of the small models."""
    settings = RenderSettings(prompt="a calm woman")
    return PlanRequest(width=384, height=256, num_frames=CLIP, settings=settings).changed(**changes)
