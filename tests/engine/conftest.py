"""A tiny random model and the plain engine of it."""

import pytest

from liveavatar.checkpoints.load import LoadedModel
from liveavatar.engine.engine import Engine
from tests.engine.jobs import engine_of, lively_model


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return lively_model()


@pytest.fixture(scope="module")
def engine(model: LoadedModel) -> Engine:
    return engine_of(model)
