"""The fused kernels, compiled, equal their torch references."""

import pytest
import torch

from tests.fast.cases import CASES, Case

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("case", CASES)
def test_compiled_kernel_equals_reference(case: Case) -> None:
    from liveavatar.fast import kernels

    case(kernels, torch.device("cuda"))
