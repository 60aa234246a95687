"""Fixtures of the tests of media."""

from tests.puppet import portrait, puppet

__all__ = ["portrait", "puppet"]
