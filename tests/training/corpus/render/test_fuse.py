"""Fused functions: the same values as eager ones, and no loss when the compiler fails."""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import torch

from liveavatar.training.corpus.render import fuse


@pytest.fixture
def switched_on() -> Iterator[None]:
    with fuse.compiling("aot_eager"):
        yield


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


def test_functions_are_compiled_within_the_block_only(monkeypatch: pytest.MonkeyPatch) -> None:
    @fuse.fused
    def double(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    compiled: list[str] = []

    def compile_with(function: Callable[..., torch.Tensor], backend: str, **_: object) -> Callable[..., torch.Tensor]:
        def call(x: torch.Tensor) -> torch.Tensor:
            compiled.append(backend)
            return function(x)

        return call

    monkeypatch.setattr(torch, "compile", compile_with)
    with suppress(KeyError), fuse.compiling("a"):
        with fuse.compiling("b"):
            double(torch.ones(2))
        with fuse.compiling(None):
            double(torch.ones(2))
        double(torch.ones(2))
        raise KeyError
    assert double(torch.ones(2)).tolist() == [2.0, 2.0]
    assert compiled == ["b", "a"]
