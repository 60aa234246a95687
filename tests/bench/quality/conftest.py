"""Fixtures of the quality benchmark's tests."""

from tests.split import short, stored

__all__ = ["short", "stored"]
