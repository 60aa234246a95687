"""Self-attention alone, at the shape of a full ring: time of each backend, and error against fp32.

Keys are drawn as trained models have them: tokens of the same topic attend to one another, a few channels outlie the
others, and all keys of a head share a large mean.

Shapes: N heads, L queries, M keys, H head width, P = H/2 rotated pairs.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from liveavatar.config import ModelConfig
from liveavatar.fast import ops, reference
from liveavatar.fast.attention import CUDNN, FLASH, gpu_seconds
from liveavatar.fast.flash3 import FlashAttention3, flash3
from liveavatar.fast.reference import FP8, VALUES_ALIGN, KeyValues8, KeyValuesE4m3
from liveavatar.fast.rings import E4m3Ring
from liveavatar.model.kv_ring import Sink
from liveavatar.model.motion import motion_tokens
from liveavatar.model.rope import grid_rotation
from liveavatar.planning.costs import dit_costs

KEYS = ("noise", "outliers", "outliers and a common mean")
_TOPICS, _OUTLIER, _MEAN = 64, 8.0, 4.0  # gains over the noise
_REPEATS = 30
_RESULT = Callable[[], Tensor]


def draw(kind: str, shape: tuple[int, int, int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Draw queries [N, L, H], keys and values [N, M, H] of a kind named in `KEYS`, fp32, before they are rotated.

    Args:
        kind: what the keys are like.
        shape: (N, L, M, H).
        device: where.
    """
    N, L, M, H = shape
    generator = torch.Generator(device).manual_seed(0)

    def noise(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device=device)

    q, k, v = noise(N, L, H), noise(N, M, H), noise(N, M, H)
    if kind == "noise":
        return q, k, v
    topics, meanings = noise(N, _TOPICS, H), noise(N, _TOPICS, H)
    of_query, of_key = (torch.randint(0, _TOPICS, (n,), generator=generator, device=device) for n in (L, M))
    q, k, v = q + topics[:, of_query], k + topics[:, of_key], v + meanings[:, of_key]
    q[..., 5] *= _OUTLIER
    k[..., 7] *= _OUTLIER
    if kind != "outliers":
        k += _MEAN * noise(N, 1, H)
    return q / math.sqrt(2), k / math.sqrt(2), v / math.sqrt(2)


def measure_attention(
    config: ModelConfig, size: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> list[dict[str, Any]]:
    """Measure backends at (width, height): rows of keys' kind, backend, seconds, TFLOP/s, relative error."""
    cfg, stride = config.dit, config.vae.spatial_stride
    h, w = size[1] // stride, size[0] // stride
    area = (h // 2) * (w // 2)
    num_sink, N, H = area + motion_tokens(h, w), cfg.num_heads, cfg.head_dim
    L, M = dit_costs(cfg, *size, stride).tokens, num_sink + cfg.window_latents * area
    latents = range(-(-M // area))
    rotation = grid_rotation(latents, h // 2, w // 2, H, cfg.rope_half, device)
    turned = (rotation.cos[:M], rotation.sin[:M])
    rows = []
    for kind in KEYS:
        q, k, v = draw(kind, (N, L, M, H), device)
        q, k, v = reference.rotate_rows(q, *(t[-L:] for t in turned)).to(dtype), k.to(dtype), v.to(dtype)
        turned_k = reference.rotate_rows(k, *turned)
        exact = _exact(q, turned_k, v)
        for name, work in _backends(q, k, v, turned_k, turned, num_sink, dtype).items():
            rows.append({"keys": kind, "backend": name, **_facts(work, exact, 4.0 * L * M * N * H)})
    return rows


def _exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend in fp32, one head at a time: [L, N * H]."""
    heads = (F.scaled_dot_product_attention(*one) for one in zip(q.float(), k.float(), v.float(), strict=True))
    return torch.stack(list(heads), dim=1).flatten(1)


def _facts(work: _RESULT, exact: Tensor, flop: float) -> dict[str, Any]:
    got = work().float()
    error = got - exact
    facts = {
        "error": float(error.norm() / exact.norm()),
        "largest": float(error.abs().max() / exact.abs().max()),
    }
    if exact.device.type != "cuda":
        return facts
    seconds = gpu_seconds(work, _REPEATS)
    return {"ms": 1e3 * seconds, "tflops": flop / seconds / 1e12, **facts}


def _backends(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    turned_k: Tensor,
    rotation: tuple[Tensor, Tensor],
    num_sink: int,
    dtype: torch.dtype,
) -> dict[str, _RESULT]:
    device = q.device
    rows_q = q.transpose(0, 1).contiguous()
    wide = (rows_q.transpose(0, 1)[None], turned_k[None], v[None])
    found: dict[str, _RESULT] = {}
    kernel: FlashAttention3 | None = flash3(device)
    if device.type == "cuda":
        found["cuDNN, bf16"] = lambda: CUDNN(*wide)[0].flatten(1)
        found["PyTorch's FlashAttention, bf16"] = lambda: FLASH(*wide)[0].flatten(1)
        if kernel is not None:
            found["FlashAttention-3, bf16"] = lambda: kernel(*wide)[0].flatten(1)
    held, queries = _int8(rows_q, k, v, rotation)
    found["int8"] = lambda: ops.attend8(queries, held, dtype)
    if device.type == "cuda" and kernel is None:
        return found
    rounded = reference.to_e4m3(rows_q)
    seen = _e4m3(k, v, rotation, num_sink)
    found["e4m3"] = lambda: ops.attend_e4m3(rounded, seen, dtype, kernel)
    return found


def _int8(
    q_LNH: Tensor, k: Tensor, v: Tensor, rotation: tuple[Tensor, Tensor]
) -> tuple[KeyValues8, tuple[Tensor, Tensor]]:
    (N, M, H), device = k.shape, k.device
    room = -(-M // VALUES_ALIGN) * VALUES_ALIGN
    held = KeyValues8(
        torch.zeros(N, room, H, dtype=torch.int8, device=device),
        torch.zeros(N, room, device=device),
        torch.zeros(N, H, room, dtype=FP8, device=device),
        torch.full((1,), 2.0**-4, device=device),
    ).cut(0, M)
    ops.rope_copy8(k, rotation, held)
    ops.write_values8(v, held, torch.zeros(1, dtype=torch.int32, device=device))
    values, scale = reference.quantise_heads(q_LNH)
    return held, (values, scale.mT.contiguous())


def _e4m3(k: Tensor, v: Tensor, rotation: tuple[Tensor, Tensor], num_sink: int) -> KeyValuesE4m3:
    """Store keys and values as a ring does whose sinks are the first tokens."""
    sinks = Sink([k[None, :, :num_sink]], [v[None, :, :num_sink]], num_sink)
    t = E4m3Ring(sinks, k.shape[1] - num_sink, None).tensors()
    seen = KeyValuesE4m3(t["k"][0], t["v"][0], t["v_scale"][0])
    ops.rope_copy(k, rotation, seen.k)
    seen.v.copy_(reference.values_e4m3(v, seen.v_scale))
    return seen
