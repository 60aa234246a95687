"""Fused functions: the same values as eager ones, and no loss when the compiler fails."""

import logging
from collections.abc import Iterator

import pytest
import torch

from liveavatar.training.corpus.render import fuse


@pytest.fixture
def switched_on() -> Iterator[None]:
    fuse.enable("aot_eager")
    yield
    fuse.enable(None)


@pytest.mark.usefixtures("switched_on")
def test_what_does_not_compile_runs_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    @fuse.fused
    def data_dependent(x: torch.Tensor) -> list[float]:
        return x.tolist()[: int(x.sum())]

    with caplog.at_level(logging.WARNING):
        assert data_dependent(torch.ones(3)) == [1.0, 1.0, 1.0]
        assert data_dependent(torch.ones(2)) == [1.0, 1.0]
    assert [r.message.split(" does not compile")[0] for r in caplog.records if r.name == fuse.logger.name] == [
        "data_dependent"
    ]


@pytest.mark.usefixtures("switched_on")
def test_errors_of_the_function_itself_are_not_swallowed() -> None:
    @fuse.fused
    def no_memory(x: torch.Tensor) -> torch.Tensor:
        return x + torch.zeros(2, 5)

    with pytest.raises((RuntimeError, ValueError)):
        no_memory(torch.ones(3, 4))
