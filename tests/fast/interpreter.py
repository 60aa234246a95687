"""Triton's interpreter runs kernels without a GPU; `tests/conftest.py` asks for it before Triton is imported."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tests.fast.cases import Case

needs_interpreter = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1",
    reason="Triton is not installed, or runs on the GPU here: see tests/gpu",
)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep PyTorch on one thread: the interpreter has one grid for all threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def interpret(case: Case) -> None:
    """Hold the interpreted kernels against their references in a case."""
    from liveavatar.fast import kernels

    with one_thread():
        case(kernels, torch.device("cpu"))
