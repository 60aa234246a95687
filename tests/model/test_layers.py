"""Parts of the transformer: modulation by runs of tokens, residuals, sound latent by latent."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from liveavatar.model import layers
from liveavatar.model.layers import (
    Attention,
    AudioInjector,
    DiTBlock,
    Head,
    RMSNorm,
    attend,
    gate,
    inject,
    layer_norm,
    modulate,
)

B, L, D, N, EPS = 2, 6, 8, 2, 1e-6


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def block() -> DiTBlock:
    torch.manual_seed(0)
    return DiTBlock(D, N, 16, EPS).requires_grad_(False)


def test_each_run_of_tokens_has_its_own_modulation() -> None:
    x, shift, scale = draw(1, B, L, D), draw(2, B, 3, 1, D), draw(3, B, 3, 1, D)
    for token in range(L):
        run = token // 2
        torch.testing.assert_close(
            modulate(x, shift, scale)[:, token], x[:, token] * (1 + scale[:, run, 0]) + shift[:, run, 0]
        )
        torch.testing.assert_close(gate(x, scale)[:, token], x[:, token] * scale[:, run, 0])


def test_attention_is_softmax_of_scaled_products_heads_side_by_side() -> None:
    q, k, v = draw(1, B, N, L, 4), draw(2, B, N, 3, 4), draw(3, B, N, 3, 4)
    weights = (q @ k.mT / 2).softmax(-1)
    torch.testing.assert_close(attend(q, k, v), (weights @ v).transpose(1, 2).reshape(B, L, 8))


@pytest.mark.parametrize("most", [0, 2**26], ids=["fused", "two products"])
def test_attention_in_bf16_is_that_of_fp32(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "MOST_WEIGHTS", most)
    q, k, v = (draw(seed, 1, 4, length, 64) for seed, length in ((1, 96), (2, 400), (3, 400)))
    exact = attend(q, k, v)
    with torch.inference_mode():
        got = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert got.dtype == torch.bfloat16
    assert (got.float() - exact).norm() < 0.012 * exact.norm()


def test_a_norm_is_over_the_full_width_and_in_32_bits() -> None:
    norm = RMSNorm(D, EPS)
    norm.weight.data = draw(1, D)
    x = draw(2, B, L, D)
    torch.testing.assert_close(norm(x), x / x.square().mean(-1, keepdim=True).sqrt() * norm.weight, atol=1e-5, rtol=0)
    large = torch.full((1, 1, D), 300.0, dtype=torch.float16)
    assert norm.half()(large).isfinite().all(), "squares would overflow in 16 bits"


def test_queries_and_keys_are_normalised_and_values_are_not() -> None:
    torch.manual_seed(1)
    attention, x = Attention(D, N, EPS), draw(1, B, L, D)
    attention.norm_q.weight.data, attention.norm_k.weight.data = draw(2, D), draw(3, D)
    k, v = attention.key_value(x)
    wanted = (attention.norm_q(attention.q(x)), attention.norm_k(attention.k(x)), attention.v(x))
    for got, whole in zip((attention.query(x), k, v), wanted, strict=True):
        assert got.shape == (B, N, L, D // N)
        assert torch.equal(got.transpose(1, 2).flatten(2), whole)


def test_a_block_is_modulated_by_six_rows_in_the_checkpoint_s_order(block: DiTBlock) -> None:
    e0 = draw(1, B, 3, 6, D)
    mod = block.modulate(e0)
    parts = (mod.attention.shift, mod.attention.scale, mod.attention.gate, mod.ffn.shift, mod.ffn.scale, mod.ffn.gate)
    for number, part in enumerate(parts):
        assert part.shape == (B, 3, 1, D)
        assert torch.equal(part[:, :, 0], block.modulation[:, number] + e0[:, :, number])


def test_a_block_adds_attention_text_and_feed_forward_in_turn(block: DiTBlock) -> None:
    x, attended, mod = draw(1, B, L, D), draw(2, B, L, D), block.modulate(draw(3, B, 3, 6, D))
    text = (draw(4, B, N, 5, D // N), draw(5, B, N, 5, D // N))
    q, k, v = block.self_qkv(x, mod)
    h = modulate(layer_norm(x, EPS), mod.attention.shift, mod.attention.scale)
    assert torch.equal(q, block.self_attn.query(h))
    assert torch.equal(k, block.self_attn.key_value(h)[0])
    assert torch.equal(v, block.self_attn.key_value(h)[1])
    y = x + gate(block.self_attn.o(attended), mod.attention.gate)
    y = y + block.cross_attn.o(attend(block.cross_attn.query(block.norm3(y)), *text))
    y = y + gate(block.ffn(modulate(layer_norm(y, EPS), mod.ffn.shift, mod.ffn.scale)), mod.ffn.gate)
    torch.testing.assert_close(block.finish(x, attended, mod, text), y)


def test_tokens_of_a_latent_hear_its_sound_alone() -> None:
    torch.manual_seed(2)
    injector = AudioInjector(D, N, 2, EPS).requires_grad_(False)
    x, local, global_ = draw(1, 1, L, D), draw(2, 1, 3, 5, D), draw(3, 1, 3, 1, D)
    base = inject(injector.injector[1], x, injector.condition(1, local, global_))
    assert base.shape == x.shape
    for sound in ("local", "global"):
        louder = [local.clone(), global_.clone()]
        louder[sound == "global"][:, 1] += 1
        changed = inject(injector.injector[1], x, injector.condition(1, *louder))
        assert (changed != base).any(-1)[0].tolist() == [False, False, True, True, False, False]
    assert not torch.equal(inject(injector.injector[0], x, injector.condition(0, local, global_)), base)


def test_sound_shifts_and_scales_the_norm_of_its_injector() -> None:
    torch.manual_seed(2)
    injector = AudioInjector(D, N, 1, EPS).requires_grad_(False)
    local, global_ = draw(2, 1, 3, 5, D), draw(3, 1, 3, 1, D)
    _, _, shift, scale = injector.condition(0, local, global_)
    rows = injector.injector_adain_layers[0].linear(F.silu(global_))
    assert torch.equal(shift, rows[..., :D])
    assert torch.equal(scale, rows[..., D:])


def test_the_head_shifts_before_it_projects() -> None:
    torch.manual_seed(3)
    head = Head(D, 4, EPS).requires_grad_(False)
    x, e = draw(1, B, L, D), draw(2, B, 3, D)
    shift, scale = (head.modulation[:, None, row] + e for row in range(2))
    wanted = head.head(modulate(layer_norm(x, EPS), shift[:, :, None], scale[:, :, None]))
    torch.testing.assert_close(head(x, e), wanted)
