"""The fused kernels on Triton's interpreter equal their torch references."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from tests.fast.cases import CASES, Case

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    """The kernels, decorated while Triton interprets."""
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    sys.modules.pop("liveavatar.fast.kernels", None)
    try:
        yield importlib.import_module("liveavatar.fast.kernels")
    finally:
        sys.modules.pop("liveavatar.fast.kernels", None)
        os.environ.pop("TRITON_INTERPRET") if before is None else os.environ.update(TRITON_INTERPRET=before)


@pytest.mark.parametrize("case", CASES)
def test_interpreted_kernel_equals_reference(case: Case, kernels: ModuleType) -> None:
    case(kernels, torch.device("cpu"))
