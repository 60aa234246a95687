"""Run by `test_kernels` in a process of its own, where Triton interprets."""

import pytest
import torch

from tests.fast.cases import CASES, Case


@pytest.mark.parametrize("case", CASES)
def test_interpreted_kernel_equals_reference(case: Case) -> None:
    from liveavatar.fast import kernels

    case(kernels, torch.device("cpu"))
