"""The specification of the fused operations: what the plain networks compute, and 8 bits no coarser than stated."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from liveavatar.fast import reference
from liveavatar.fast.reference import FP8, FP8_MAX, KeyValues8, NormSpec, Quantised, Slots
from liveavatar.model import layers
from liveavatar.model.rope import Rotation, rotate
from liveavatar.model.vae_wan import ChannelNorm

N, H, L, M = 2, 8, 4, 10
D, EPS = N * H, 1e-6
BF16, F32 = torch.bfloat16, torch.float32


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def start(slot: int) -> Tensor:
    return torch.tensor([slot], dtype=torch.int32)


def turn(tokens: int = L) -> tuple[Tensor, Tensor]:
    angle = draw(99, tokens, H // 2)
    return angle.cos(), angle.sin()


def test_add_norm_is_the_gated_residual_and_its_modulated_norm() -> None:
    x, y, second, gate = draw(1, 6, D), draw(2, 6, D), draw(3, 6, D), draw(4, D)
    shift, scale = draw(5, 3, D), draw(6, 3, D)
    spec = NormSpec(1 + scale, shift, EPS, False, torch.float32)
    total, normed = reference.add_norm(x, [(y, gate), (second, None)], spec, torch.float32)
    torch.testing.assert_close(total, x + y * gate + second)
    modulated = layers.modulate(layers.layer_norm(total[None], EPS), shift[None, :, None], scale[None, :, None])[0]
    assert isinstance(normed, Tensor)
    torch.testing.assert_close(normed, modulated)
    kept, again = reference.add_norm(x, [(y, gate), (second, None)], spec, torch.float32, keep=False)
    assert kept is x
    assert torch.equal(again, normed)  # type: ignore[arg-type]


def test_a_norm_may_see_the_sum_rounded() -> None:
    x, y = draw(1, 6, D), draw(2, 6, D)
    plain, rounded = (
        reference.add_norm(x, [(y, None)], NormSpec(torch.ones(1, D), torch.zeros(1, D), EPS, False, BF16, r), F32)[1]
        for r in (False, True)
    )
    seen = (x + y).bfloat16().float()
    assert torch.equal(rounded, F.layer_norm(seen, (D,), eps=EPS).bfloat16())  # type: ignore[arg-type]
    assert not torch.equal(rounded, plain)  # type: ignore[arg-type]


def test_rows_are_normalised_rotated_and_softened_as_in_the_plain_network() -> None:
    x, weight = draw(1, L, D), draw(2, D)
    norm = layers.RMSNorm(D, EPS)
    norm.weight.data = weight
    torch.testing.assert_close(reference.rms_rows(x, weight, EPS), norm(x))
    heads = draw(3, N, L, H)
    torch.testing.assert_close(reference.rotate_rows(heads, *turn()), rotate(heads, Rotation(*turn())))
    torch.testing.assert_close(reference.gelu_rows(x, False), torch.nn.GELU(approximate="tanh")(x))


def test_a_block_goes_into_its_slots_and_no_other() -> None:
    qkv, norms = draw(1, L, 3 * D), (draw(2, D), draw(3, D), EPS)
    k, v = torch.full((N, M, H), 9.0), torch.full((N, M, H), 9.0)
    queries = reference.rms_rope_write(qkv, norms, turn(), Slots(k, v, start(5)))
    wanted_q, wanted_k = (
        reference.rotate_rows(reference.rms_rows(part, w, EPS).unflatten(-1, (N, H)).transpose(0, 1), *turn())
        for part, w in ((qkv[:, :D], norms[0]), (qkv[:, D : 2 * D], norms[1]))
    )
    assert torch.equal(queries, wanted_q.transpose(0, 1))
    assert torch.equal(k[:, 5:9], wanted_k)
    assert torch.equal(v[:, 5:9], qkv[:, 2 * D :].unflatten(-1, (N, H)).transpose(0, 1))
    for buffer in (k, v):
        assert (buffer[:, :5] == 9).all()
        assert (buffer[:, 9:] == 9).all()


def test_the_decoder_s_norm_and_its_larger_pictures() -> None:
    x, bias, gamma = draw(1, 4, 2, 3, 5), draw(2, 4), draw(3, 4)
    norm = ChannelNorm(4, 3)
    norm.gamma.data = gamma.view_as(norm.gamma)
    out = torch.empty_like(x)
    reference.rms_silu(x, bias, gamma, out)
    torch.testing.assert_close(out, F.silu(norm((x + bias.view(-1, 1, 1, 1))[None])[0]))
    total = x.clone()
    reference.add_bias(total, bias, x)
    torch.testing.assert_close(total, 2 * x + bias.view(-1, 1, 1, 1))
    wide = torch.empty(4, 2, 6, 10)
    reference.enlarge(x, None, wide)
    assert torch.equal(wide, F.interpolate(x, scale_factor=(2, 2), mode="nearest"))


def test_a_frame_of_twice_the_channels_becomes_two() -> None:
    x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 1, 1) + 10 * torch.arange(3.0).view(1, 3, 1, 1)
    wide = torch.empty(2, 6, 2, 2)
    reference.enlarge(x.contiguous(), torch.tensor([0.5, 0.5, 0.0, 0.0]), wide)
    assert wide[0, :, 0, 0].tolist() == [0.5, 2, 10.5, 12, 20.5, 22]
    assert wide[1, :, 1, 1].tolist() == [1.5, 3, 11.5, 13, 21.5, 23]


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e5])
def test_rows_in_8_bits_are_as_fine_at_any_size(size: float) -> None:
    x = size * draw(1, 5, 64)
    rows = reference.quantise_rows(x)
    assert rows.values.float().abs().amax(-1).eq(FP8_MAX).all(), "the range is used"
    assert ((rows.dequantise() - x).abs() <= x.abs() * 2**-4 + size * 1e-3).all()
    zeros = reference.quantise_rows(torch.zeros(2, 8))
    assert not zeros.dequantise().any()
    gelu = reference.gelu_rows(x, True)
    assert isinstance(gelu, Quantised)


def test_heads_in_int8_are_off_by_half_a_step_at_most() -> None:
    x = draw(1, L, N, H)
    codes, scale = reference.quantise_heads(x)
    assert codes.abs().amax(-1).eq(127).all()
    assert ((codes * scale[..., None] - x).abs() <= 0.501 * scale[..., None]).all()


def test_slots_of_a_block_are_stored_and_the_others_read() -> None:
    source = draw(1, N, M, H)
    values, scale = torch.zeros(N, M, H, dtype=FP8), torch.zeros(N, M)
    reference.quantise_slots(source, values, scale, (start(2), 4))
    target = torch.full((N, M, H), 9.0)
    reference.dequantise_slots(values, scale, target, (start(4), 3))
    assert (target[:, 4:7] == 9).all(), "the newest are kept as they are"
    assert not target[:, :2].any()
    assert not target[:, 7:].any()
    assert ((target[:, 2:4] - source[:, 2:4]).abs() <= source[:, 2:4].abs() * 2**-4 + 1e-2).all()


def test_values_beyond_the_range_become_its_end() -> None:
    into = KeyValues8(
        torch.zeros(N, M, H, dtype=torch.int8), torch.zeros(N, M), torch.zeros(N, H, M, dtype=FP8), torch.tensor([0.5])
    )
    values = draw(1, N, L, H)
    values[0, 1, 2] = -1e4
    reference.write_values8(values, into, start(3))
    held = into.v.float().mT * 0.5
    assert held[0, 4, 2] == -0.5 * FP8_MAX
    values[0, 1, 2] = -0.5 * FP8_MAX
    assert ((held[:, 3:7] - values).abs() <= values.abs() * 2**-4 + 1e-3).all()
    assert not held[:, :3].any()
    assert not held[:, 7:].any()
    cut = into.cut(3, 7)
    assert (cut.k.shape[1], cut.k_scale.shape[1], cut.v.shape[2]) == (4, 4, 4)
    assert cut.v.untyped_storage().data_ptr() == into.v.untyped_storage().data_ptr()
