"""Fixtures of the face tests."""

from tests.puppet import portrait, puppet

__all__ = ["portrait", "puppet"]
