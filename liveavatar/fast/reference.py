"""Fused operations in plain torch: the CPU's path, the fallback, and the specification that kernels are tested against.

Shapes: L tokens (rows), D width, N heads, H head width, P = H/2 rotated pairs, G equal runs of rows that share a
modulation, M slots of a key/value buffer, C channels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0  # largest finite e4m3
AMAX_FLOOR = 1e-12  # of a row, so that a row of zeros has a scale


@dataclass(frozen=True, slots=True)
class Quantised:
    """Rows in e4m3: `values` [L, D] times `scale` [L, 1] fp32."""

    values: Tensor
    scale: Tensor

    def dequantise(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Multiply the values by their scales in fp32, and convert."""
        return (self.values.float() * self.scale).to(dtype)


Rows = Tensor | Quantised


def quantise_rows(x_LD: Tensor) -> Quantised:
    """Scale each row to the range of e4m3 and round."""
    x = x_LD.float()
    scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(AMAX_FLOOR) / FP8_MAX
    return Quantised((x / scale).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale)


@dataclass(frozen=True, slots=True)
class NormSpec:
    """Norm at the end of `add_norm`: LN(x) * mul + add, mul and add fp32 [G, D]."""

    mul: Tensor
    add: Tensor
    eps: float
    quantise: bool  # give e4m3 rows
    dtype: torch.dtype  # of the model: what is given when not quantised, and what `rounded` rounds to
    rounded: bool = False  # the norm sees x rounded to the model's dtype


Branch = tuple[Tensor, Tensor | None]  # what is added to the residual stream [L, D], and its gate [D], fp32; None is 1


def add_norm(
    x_LD: Tensor, branches: Sequence[Branch], spec: NormSpec, out_dtype: torch.dtype, keep: bool = True
) -> tuple[Tensor, Rows]:
    """Add x and gate * y of two branches at most, in fp32, then apply the modulated layer norm.

    Args:
        x_LD: the residual stream, fp32 or the model's dtype.
        branches: what is added, in this order.
        spec: the norm.
        out_dtype: of the sum that is given back; the norm sees it rounded to that.
        keep: give the sum back; else x itself, for who adds the same branches again: to read them is as cheap as to
            read an fp32 sum, and that need not be written.

    Returns:
        (sum [L, D], normalised rows).
    """
    x = x_LD.float()
    for y_LD, gate_D in branches:
        x = x + (y_LD.float() if gate_D is None else y_LD.float() * gate_D)
    x = x.to(out_dtype)
    seen = x.to(spec.dtype).float() if spec.rounded else x.float()
    normed = F.layer_norm(seen, (seen.shape[-1],), eps=spec.eps)
    h = (normed.unflatten(0, (spec.mul.shape[0], -1)) * spec.mul[:, None] + spec.add[:, None]).flatten(0, 1)
    return x if keep else x_LD, quantise_rows(h) if spec.quantise else h.to(spec.dtype)


def gelu_rows(x_LD: Tensor, quantise: bool) -> Rows:
    """Apply GELU (tanh) to rows."""
    y = F.gelu(x_LD.float(), approximate="tanh")
    return quantise_rows(y) if quantise else y.to(x_LD.dtype)


def rms_rows(x_LD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Apply the RMS norm over the full width, [L, D] contiguous; as `layers.RMSNorm`."""
    x = x_LD.float()
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)).to(x_LD.dtype) * weight_D


def rotate_rows(x_NLH: Tensor, cos_LP: Tensor, sin_LP: Tensor) -> Tensor:
    """Rotate interleaved pairs; as `rope.rotate`."""
    even, odd = x_NLH[..., ::2].float(), x_NLH[..., 1::2].float()
    turned = torch.stack((even * cos_LP - odd * sin_LP, even * sin_LP + odd * cos_LP), dim=-1)
    return turned.flatten(-2).to(x_NLH.dtype)


@dataclass(frozen=True, slots=True)
class Slots:
    """Slots for a block's keys and values: buffers [N, M, H] and the first slot, an int32 tensor [1] on the device.

    In e4m3, queries are rounded to it too, and values are divided by a scale of every head.
    """

    k: Tensor
    v: Tensor
    start: Tensor
    v_scale: Tensor | None = None  # [N], fp32; None in 16 bits


def rms_rope_write(
    qkv_L3D: Tensor, norms: tuple[Tensor, Tensor, float], rotation: tuple[Tensor, Tensor], slots: Slots
) -> Tensor:
    """Normalise and rotate queries and keys, and put keys and values in their slots.

    Args:
        qkv_L3D: queries, keys and values of a block side by side.
        norms: weights of the query's and the key's RMS norm [D], and their eps.
        rotation: cos and sin [L, P], fp32.
        slots: where keys and values go, in 16 bits or in e4m3.

    Returns:
        Queries [L, N, H].
    """
    q, k, v = _rotated_heads(qkv_L3D, norms, rotation, len(slots.k))
    at = slots.start.long() + torch.arange(qkv_L3D.shape[0], device=qkv_L3D.device)
    if slots.v_scale is None:
        slots.k.index_copy_(1, at, k)
        slots.v.index_copy_(1, at, v)
        return q.transpose(0, 1)
    for target, new in ((slots.k, to_e4m3(k)), (slots.v, values_e4m3(v, slots.v_scale))):
        # index_copy_ knows no 8-bit floats; bytes are bytes.
        target.view(torch.uint8).index_copy_(1, at, new.view(torch.uint8))
    return to_e4m3(q).transpose(0, 1).contiguous()


def _rotated_heads(
    qkv_L3D: Tensor, norms: tuple[Tensor, Tensor, float], rotation: tuple[Tensor, Tensor], num_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise and rotate queries and keys: these and the values, each [N, L, H]."""
    wq, wk, eps = norms
    q, k, v = qkv_L3D.chunk(3, dim=-1)
    q, k = (
        rotate_rows(rms_rows(x, weight, eps).unflatten(-1, (num_heads, -1)).transpose(0, 1), *rotation)
        for x, weight in ((q, wq), (k, wk))
    )
    return q, k, v.unflatten(-1, (num_heads, -1)).transpose(0, 1)


def rope_copy(source_NLH: Tensor, rotation: tuple[Tensor, Tensor], target_NLH: Tensor) -> None:
    """Copy rotated keys into a slice of a buffer, in 16 bits or in e4m3."""
    rotated = rotate_rows(source_NLH, *rotation)
    target_NLH.copy_(to_e4m3(rotated) if target_NLH.dtype == FP8 else rotated)


def rms_silu(x_CTHW: Tensor, bias_C: Tensor | None, gamma_C: Tensor, out_CTHW: Tensor) -> None:
    """Apply SiLU to the decoder's channel norm, written to `out`; both [C, T, H, W] with channels innermost in memory.

    `out` may have more channels, which become 0.
    `bias` is that of the convolution that made x, which left it out; it is added first.
    """
    x = x_CTHW.float() if bias_C is None else x_CTHW.float() + bias_C.float().view(-1, 1, 1, 1)
    normed = x / torch.linalg.vector_norm(x, dim=0, keepdim=True).clamp_min(1e-12) * gamma_C.numel() ** 0.5
    out_CTHW[: len(x)].copy_(F.silu(normed * gamma_C.float().view(-1, 1, 1, 1)))
    out_CTHW[len(x) :].zero_()


def add_bias(x_CTHW: Tensor, bias_C: Tensor, skip_CTHW: Tensor | None) -> None:
    """Add to x, in place, what a convolution left out, and what goes around it."""
    x = x_CTHW.float() + bias_C.float().view(-1, 1, 1, 1)
    x_CTHW.copy_(x if skip_CTHW is None else x + skip_CTHW.float())


def enlarge(x_QTHW: Tensor, bias_Q: Tensor | None, out_CTHW: Tensor) -> None:
    """Write every pixel four times, to `out` [C, ., 2H, 2W]; where x has Q = 2C channels, a frame of it holds two."""
    Q, T, H, W = x_QTHW.shape
    C = out_CTHW.shape[0]
    x = x_QTHW if bias_Q is None else x_QTHW + bias_Q.view(-1, 1, 1, 1)
    x = x.view(Q // C, C, T, 1, H, 1, W, 1).permute(1, 2, 0, 3, 4, 5, 6, 7)
    wide = x.expand(C, T, Q // C, 1, H, 2, W, 2)
    out_CTHW.copy_(wide.reshape(C, T * (Q // C), 2 * H, 2 * W))


INT8_MAX = 127.0
VALUES_ALIGN = 16  # of tokens in memory where they are innermost


@dataclass(frozen=True, slots=True)
class KeyValues8:
    """Keys and values in 8 bits, as attention in 8 bits reads them.

    A key is int8 with a scale of its own for every head. Values are e4m3 with one scale for all, and lie with their
    tokens innermost, as the matrix unit wants them.
    """

    k: Tensor  # [N, M, H]
    k_scale: Tensor  # [N, M], fp32
    v: Tensor  # [N, H, M]
    v_scale: Tensor  # [1], fp32

    def cut(self, first: int, stop: int) -> "KeyValues8":
        """Return the keys and values of some tokens, in the same memory."""
        tokens = slice(first, stop)
        return KeyValues8(self.k[:, tokens], self.k_scale[:, tokens], self.v[:, :, tokens], self.v_scale)


Queries8 = tuple[Tensor, Tensor]  # int8 [L, N, H], and the scale of every head [N, L], fp32


def quantise_heads(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale each head to the range of int8 and round: (int8 [..., H], scale [...])."""
    wide = x.float()
    scale = wide.abs().amax(dim=-1).clamp_min(AMAX_FLOOR) / INT8_MAX
    return (wide / scale[..., None] + 0.5).floor().to(torch.int8), scale


def rms_rope_write8(
    qkv_L3D: Tensor,
    norms: tuple[Tensor, Tensor, float],
    rotation: tuple[Tensor, Tensor],
    into: KeyValues8,
    start: Tensor,
) -> Queries8:
    """Do the work of `rms_rope_write` in 8 bits, from slot `start` on, an int32 tensor [1]."""
    queries, keys, v = _rotated_heads(qkv_L3D, norms, rotation, len(into.k))
    (q, q_scale), (k, k_scale) = quantise_heads(queries), quantise_heads(keys)
    at = start.long() + torch.arange(len(qkv_L3D), device=qkv_L3D.device)
    into.k.index_copy_(1, at, k)
    into.k_scale.index_copy_(1, at, k_scale)
    write_values8(v, into, start)
    return q.transpose(0, 1).contiguous(), q_scale


def write_values8(v_NLH: Tensor, into: KeyValues8, start: Tensor) -> None:
    """Write values in 8 bits, from slot `start` on; what is beyond the range becomes its end."""
    at = start.long() + torch.arange(v_NLH.shape[1], device=v_NLH.device)
    rounded = to_e4m3(v_NLH.float() / into.v_scale)
    # index_copy_ knows no 8-bit floats; bytes are bytes.
    into.v.view(torch.uint8).index_copy_(2, at, rounded.view(torch.uint8).transpose(1, 2))


def rope_copy8(source_NLH: Tensor, rotation: tuple[Tensor, Tensor], into: KeyValues8) -> None:
    """Rotated copy of keys in 8 bits."""
    k, scale = quantise_heads(rotate_rows(source_NLH, *rotation))
    into.k.copy_(k)
    into.k_scale.copy_(scale)


WEIGHT_MAX = 256.0  # what the largest weight of a row becomes before weights are rounded to e4m3
_WEIGHTS = 1 << 24  # that are in memory at once


def attend8(queries: Queries8, seen: KeyValues8, dtype: torch.dtype) -> Tensor:
    """Attend without mask in 8 bits, the weights of values too: [L, N * H], heads side by side."""
    q, q_scale = queries

    def held(head: int) -> tuple[Tensor, Tensor]:
        return seen.k[head].float() * seen.k_scale[head, :, None], (seen.v[head].float() * seen.v_scale).mT

    return _attend(q, q_scale * q.shape[2] ** -0.5, held, dtype)


@dataclass(frozen=True, slots=True)
class KeyValuesE4m3:
    """Keys and values in e4m3, head by head, as FlashAttention-3 reads them.

    Keys have no scale, nor have queries: both come out of an RMS norm, at a size that suits e4m3.
    """

    k: Tensor  # [N, M, H]
    v: Tensor  # [N, M, H], to be multiplied by the scale
    v_scale: Tensor  # [N], fp32

    def cut(self, first: int, stop: int) -> "KeyValuesE4m3":
        """Return the keys and values of some tokens, in the same memory."""
        return KeyValuesE4m3(self.k[:, first:stop], self.v[:, first:stop], self.v_scale)

    def slots(self, start: Tensor) -> Slots:
        """Return the slots for a block from `start` on, an int32 tensor [1]."""
        return Slots(self.k, self.v, start, self.v_scale)


def to_e4m3(x: Tensor) -> Tensor:
    """Round to e4m3; what is beyond its range becomes its end."""
    return x.float().clamp(-FP8_MAX, FP8_MAX).to(FP8)


def values_e4m3(v_NLH: Tensor, scale_N: Tensor) -> Tensor:
    """Divide values by the scale of their head and round them to e4m3."""
    return to_e4m3(v_NLH.float() / scale_N[:, None, None])


def attend_text(q_LNH: Tensor, k_NMH: Tensor, v_NMH: Tensor, counts_2: Tensor) -> Tensor:
    """Attend to the keys that count, the last of which stands for several equal ones: [L, N * H].

    Rows of zeros that pad a text all have one key and one value, so attention to one of them, weighted by their
    number, is attention to all.
    """
    used, equal = counts_2.tolist()
    bias = torch.zeros(1, used, dtype=q_LNH.dtype, device=q_LNH.device)
    bias[:, -1] = math.log(equal)
    out = F.scaled_dot_product_attention(
        q_LNH.transpose(0, 1)[None], k_NMH[None, :, :used], v_NMH[None, :, :used], bias
    )
    return out[0].transpose(0, 1).flatten(1)


def attend_e4m3(q_LNH: Tensor, seen: KeyValuesE4m3, dtype: torch.dtype) -> Tensor:
    """Softmax attention without mask in e4m3, the weights of values too: [L, N * H], heads side by side."""
    L, N, H = q_LNH.shape

    def held(head: int) -> tuple[Tensor, Tensor]:
        return seen.k[head].float(), seen.v[head].float() * seen.v_scale[head]

    return _attend(q_LNH, torch.full((N, L), H**-0.5, device=q_LNH.device), held, dtype)


def _attend(
    q_LNH: Tensor, factor_NL: Tensor, held: Callable[[int], tuple[Tensor, Tensor]], dtype: torch.dtype
) -> Tensor:
    """Attend head by head with rounded weights: [L, N * H].

    Args:
        q_LNH: queries in 8 bits.
        factor_NL: of the logits of each query.
        held: keys and values [M, H] of a head, fp32.
        dtype: of the result.
    """
    L, N, H = q_LNH.shape
    out = torch.empty(L, N, H, dtype=dtype, device=q_LNH.device)
    for head in range(N):
        k, v = held(head)
        tall = max(1, _WEIGHTS // len(k))
        for rows in range(0, L, tall):
            some = slice(rows, rows + tall)
            logits = (q_LNH[some, head].float() @ k.mT) * factor_NL[head, some, None]
            out[some, head] = _weighted(logits, v).to(dtype)
    return out.flatten(1)


def _weighted(logits_LM: Tensor, v_MH: Tensor) -> Tensor:
    """Multiply the softmax of logits by values, with weights rounded to e4m3 before they are summed over values."""
    weights = (logits_LM - logits_LM.amax(dim=-1, keepdim=True)).exp()
    rounded = (weights * WEIGHT_MAX).to(FP8).float() / WEIGHT_MAX
    return rounded @ v_MH / weights.sum(dim=-1, keepdim=True)


# The newest tokens of a ring: their first slot, an int32 tensor [1] on the device, and how many they are.
Block = tuple[Tensor, int]


def quantise_slots(source_NMH: Tensor, values_NMH: Tensor, scale_NM: Tensor, block: Block) -> None:
    """Store a block's keys (or values), which lie in its slots already, in e4m3, one scale for a token and head."""
    at = block[0].long() + torch.arange(block[1], device=source_NMH.device)
    quantised = quantise_rows(source_NMH.index_select(1, at))
    # index_copy_ knows no 8-bit floats; bytes are bytes.
    values_NMH.view(torch.uint8).index_copy_(1, at, quantised.values.view(torch.uint8))
    scale_NM.index_copy_(1, at, quantised.scale.squeeze(-1))


def dequantise_slots(values_NMH: Tensor, scale_NM: Tensor, target_NMH: Tensor, block: Block) -> None:
    """Convert stored keys (or values) to the model's dtype; a block's slots are left as they are."""
    since = torch.arange(target_NMH.shape[1], device=target_NMH.device) - block[0]
    new = ((since >= 0) & (since < block[1]))[:, None]
    target_NMH.copy_(torch.where(new, target_NMH, (values_NMH.float() * scale_NM[..., None]).to(target_NMH.dtype)))
