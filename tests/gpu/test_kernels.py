"""The fused kernels, compiled, equal their torch references."""

import pytest
import torch
from torch.nn import functional as F

from liveavatar.fast import reference
from tests.fast import cases, test_kernels_attention, test_kernels_decoder, test_kernels_rings
from tests.fast.cases import Case, held8

CASES = [
    *(*cases.CASES, *test_kernels_rings.CASES, *test_kernels_decoder.CASES, *test_kernels_attention.CASES),
]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("case", CASES)
def test_compiled_kernel_equals_reference(case: Case) -> None:
    from liveavatar.fast import kernels

    case(kernels, torch.device("cuda"))


@pytest.mark.parametrize("num_keys", [3168 + 2640, 15312])
def test_attention_in_8_bits_at_its_true_size(num_keys: int) -> None:
    """Where alike tokens attend to one another and channels outlie the others, as in trained models."""
    from liveavatar.fast import kernels

    cuda, (L, N, H) = torch.device("cuda"), (3168, 3, 128)
    generator = torch.Generator(cuda).manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=cuda)

    topics, meanings = noise(64, N, H), noise(64, N, H)
    of_query, of_key = (torch.randint(0, 64, (n,), generator=generator, device=cuda) for n in (L, num_keys))
    q, k = topics[of_query] + noise(L, N, H), topics[of_key] + noise(num_keys, N, H)
    v = (meanings[of_key] + noise(num_keys, N, H)).bfloat16()
    q[..., 5] *= 8
    k[..., 7] *= 8
    q, k = q.bfloat16(), k.bfloat16()
    held = held8(N, num_keys + 3168, H, cuda, v_scale=2**-4)
    seen = held.cut(0, num_keys)
    still = (torch.ones(num_keys, H // 2, device=cuda), torch.zeros(num_keys, H // 2, device=cuda))
    kernels.rope_copy8(k.transpose(0, 1), still, seen)
    kernels.write_values8(v.transpose(0, 1), seen, torch.zeros(1, dtype=torch.int32, device=cuda))
    values, scale = reference.quantise_heads(q)
    queries = (values, scale.mT.contiguous())
    got, wanted = (m.attend8(queries, seen, torch.bfloat16).float() for m in (kernels, reference))
    exact = F.scaled_dot_product_attention(*(x.transpose(0, 1).float() for x in (q, k, v))).transpose(0, 1).flatten(1)
    assert (got - wanted).norm() < 0.02 * wanted.norm()
    assert (got - exact).norm() < 0.06 * exact.norm()
