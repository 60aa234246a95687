"""Cases that hold the kernels for rows against their references, and what the cases of other kernels share."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from liveavatar.fast import reference
from liveavatar.fast.reference import FP8, KeyValues8, NormSpec, Quantised

Case = Callable[[ModuleType, torch.device], None]
BF16 = torch.bfloat16


def draw(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def projected(
    L: int, N: int, H: int, device: torch.device
) -> tuple[Tensor, tuple[Tensor, Tensor, float], tuple[Tensor, Tensor]]:
    """Queries, keys and values of L tokens, N heads of H; weights and eps of the norms; cos and sin of the rotation."""
    qkv = draw(L, 3 * N * H, device=device, dtype=BF16)
    norms = (draw(N * H, device=device, dtype=BF16, seed=1), draw(N * H, device=device, dtype=BF16, seed=2), 1e-6)
    angle = draw(L, H // 2, device=device, seed=3)
    return qkv, norms, (angle.cos(), angle.sin())


def close(got: Tensor, wanted: Tensor, steps: float = 2.0) -> None:
    """Equal within a few roundings of the dtype."""
    eps = {torch.float32: 2e-6, BF16: 2**-8}[got.dtype]
    torch.testing.assert_close(got.float(), wanted.float(), rtol=steps * eps, atol=steps * eps)


def close_rows(got: Quantised, wanted: Quantised) -> None:
    # The interpreter cuts bf16 where a GPU rounds, so what is quantised may differ by one bf16 step.
    torch.testing.assert_close(got.scale, wanted.scale, rtol=2**-7, atol=0)
    a, b = got.dequantise(), wanted.dequantise()
    # A value on the edge between two codes may fall either way: one code apart at most, and rarely.
    assert off(a, b, 0.02) < 0.1
    assert off(a, b, 0.15) == 0 or (on_interpreter(a) and off(a, b, 0.15) < 0.05)


def off(got: Tensor, wanted: Tensor, relative: float) -> float:
    """Share of values that differ by more than a fraction of themselves."""
    return float((got - wanted).abs().gt(relative * wanted.abs() + 0.02).float().mean())


def on_interpreter(x: Tensor) -> bool:
    """Whether Triton interpreted: it loses the carry when an e4m3 mantissa rounds up to the next power of two."""
    return x.device.type == "cpu"


def add_norm(
    groups: int,
    y: bool,
    gate: bool,
    rounded: bool,
    quantise: bool,
    keep: torch.dtype,
    width: int = 96,
    second: bool = False,
) -> Case:
    def case(module: ModuleType, device: torch.device) -> None:
        L, D = 6, width
        x = draw(L, D, device=device, dtype=keep)
        branch = draw(L, D, device=device, dtype=BF16, seed=1) if y else None
        strength = draw(D, device=device, seed=2) if gate else None
        spec = NormSpec(
            draw(groups, D, device=device, seed=3),
            draw(groups, D, device=device, seed=4),
            1e-6,
            quantise,
            BF16,
            rounded,
        )
        branches = [] if branch is None else [(branch, strength)]
        if second:
            branches.append((draw(L, D, device=device, dtype=BF16, seed=5), None))
        kept, rows = module.add_norm(x, branches, spec, keep)
        wanted, wanted_rows = reference.add_norm(x, branches, spec, keep)
        close(kept, wanted)
        unkept, same = module.add_norm(x, branches, spec, keep, keep=False)
        assert unkept is x
        assert torch.equal(*(r.dequantise() if isinstance(r, Quantised) else r for r in (same, rows)))
        if quantise:
            close_rows(rows, wanted_rows)
        else:
            close(rows, wanted_rows)

    return case


def rows_of(quantise: bool, width: int = 200) -> Case:
    def case(module: ModuleType, device: torch.device) -> None:
        x = 3 * draw(5, width, device=device, dtype=BF16)
        got, wanted = module.gelu_rows(x, quantise), reference.gelu_rows(x, quantise)
        if quantise:
            close_rows(got, wanted)
            close_rows(module.quantise_rows(x), reference.quantise_rows(x))
            zeros = module.quantise_rows(torch.zeros(2, 64, dtype=BF16, device=device))
            assert not zeros.dequantise().any()
        else:
            close(got, wanted)

    return case


def held8(N: int, M: int, H: int, device: torch.device, v_scale: float = 2**-5) -> KeyValues8:
    return KeyValues8(
        torch.zeros(N, M, H, dtype=torch.int8, device=device),
        torch.zeros(N, M, device=device),
        torch.zeros(N, H, M, dtype=FP8, device=device),
        torch.full((1,), v_scale, device=device),
    )


CASES = [  # of `liveavatar.fast.kernels`
    pytest.param(add_norm(1, False, False, False, False, BF16), id="norm alone"),
    pytest.param(add_norm(1, True, True, False, True, BF16), id="gated sum, norm, quantised"),
    pytest.param(add_norm(1, True, True, True, True, torch.float32), id="norm of the rounded sum, quantised"),
    pytest.param(add_norm(1, True, False, True, False, torch.float32), id="ungated, rounded"),
    pytest.param(add_norm(3, True, True, False, False, BF16), id="a modulation for each latent"),
    pytest.param(add_norm(1, True, True, False, True, torch.float32, second=True), id="sum of two branches, quantised"),
    pytest.param(add_norm(1, True, True, False, False, torch.float32, second=True), id="sum of two branches"),
    pytest.param(add_norm(2, True, True, True, True, torch.float32, 2500), id="norm of rows in several chunks"),
    pytest.param(rows_of(False), id="gelu"),
    pytest.param(rows_of(True), id="gelu and quantise"),
    pytest.param(rows_of(True, 2500), id="gelu and quantise, rows in several chunks"),
    pytest.param(rows_of(False, 9000), id="gelu, rows for more threads"),
]
