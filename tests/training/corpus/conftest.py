"""Fixtures of the corpus tests."""

from tests.split import short, stored

__all__ = ["short", "stored"]
