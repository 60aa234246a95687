"""Limit of one metric: the range in which it passes, and the wider one in which it only warns."""

from dataclasses import dataclass

Range = tuple[float | None, float | None]  # lowest and highest value, None = open


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """Check on one metric of a video."""

    name: str  # a metric
    good: Range
    tolerable: Range  # outside: failed
    source: str
    speech_only: bool = False  # meaningless for a video without speech
