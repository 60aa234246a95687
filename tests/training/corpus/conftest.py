"""Fixtures of the corpus tests."""

from pathlib import Path

import pytest

from liveavatar.training.corpus.head.geometry import HeadAssets
from tests.split import short, stored

__all__ = ["assets", "short", "stored"]


@pytest.fixture(scope="session")
def assets() -> HeadAssets:
    """A small head with all shapes, hair and clothes."""
    return HeadAssets(Path(__file__).with_name("head_assets"))
