"""Reasons for a missing measure: a measure without a number is reported as null with one of these, never guessed."""

from enum import StrEnum


class Absence(StrEnum):
    """Kind of reason why a measure has no number; the verdict grades it (`suites.ABSENT`)."""

    NOT_APPLICABLE = "not applicable"  # rightly nothing to measure: no silence, a short video, no portrait
    NOT_POSSIBLE = "not possible"  # a model is missing, or the portrait has no face that can be tracked
    FAULT = "fault"  # the video lacks something it should have: a face, a moving mouth


class MeasureUnavailable(Exception):
    """A measure has no number; the text is the reason."""

    def __init__(self, reason: str, kind: Absence = Absence.NOT_POSSIBLE) -> None:
        super().__init__(reason)
        self.kind = kind
