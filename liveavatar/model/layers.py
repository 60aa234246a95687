"""Parts of the diffusion transformer: norms, attention, one block, the audio injector, the head.

A block holds no state and knows no ring: `self_qkv` computes queries, keys and values, the caller attends, and
`finish` computes the rest. So one set of weights serves the streaming step, the sink prefill and the training window.
Parameter names are the official checkpoint's.

Shapes: B batch, L tokens, D width, N heads, H head width, T latents, S tokens per latent, K audio tokens.
Modulation is fp32, one row for each of G equal runs of tokens (a stream's block is one run, a training
window has one a block), and never expanded to tokens. Residuals are summed in fp32 within a block.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ADAIN_EPS = 1e-5
MOST_WEIGHTS = 2**26  # of attention that lie in memory at once: 128 MB


@dataclass(frozen=True, slots=True)
class ModulationOut:
    """Modulation of one residual branch, each [B, G, 1, D] fp32."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


@dataclass(frozen=True, slots=True)
class BlockModulation:
    """Modulation of a block at its noise levels."""

    attention: ModulationOut
    ffn: ModulationOut


def attend(q_BNLH: Tensor, k_BNMH: Tensor, v_BNMH: Tensor) -> Tensor:
    """Compute softmax attention without mask, scale 1/sqrt(H): [B, L, N*H].

    On a CPU in bfloat16, unless gradients are wanted, as two matrix products and a softmax, which take half the time of
    PyTorch's fused kernel (3.5 instead of 6.6 ms on one thread of an EPYC for 4 heads, 288 queries, 1680 keys).
    """
    weights = q_BNLH.shape[:3].numel() * k_BNMH.shape[2]
    plain = q_BNLH.device.type == "cpu" and q_BNLH.dtype == torch.bfloat16 and not torch.is_grad_enabled()
    if plain and weights <= MOST_WEIGHTS:
        attended = torch.softmax((q_BNLH * q_BNLH.shape[-1] ** -0.5) @ k_BNMH.mT, dim=-1) @ v_BNMH
    else:
        attended = F.scaled_dot_product_attention(q_BNLH, k_BNMH, v_BNMH)
    return attended.transpose(1, 2).flatten(2)


def modulate(x_BLD: Tensor, shift_BG1D: Tensor, scale_BG1D: Tensor) -> Tensor:
    """Compute x * (1 + scale) + shift, run by run."""
    return (x_BLD.unflatten(1, (shift_BG1D.shape[1], -1)) * (1 + scale_BG1D) + shift_BG1D).flatten(1, 2)


def gate(x_BLD: Tensor, gate_BG1D: Tensor) -> Tensor:
    """Multiply x by the gate, run by run, in fp32."""
    return (x_BLD.unflatten(1, (gate_BG1D.shape[1], -1)) * gate_BG1D).flatten(1, 2)


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """Apply layer norm without weights, in fp32."""
    return F.layer_norm(x.float(), (x.shape[-1],), eps=eps)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the full width (before heads are split), with a weight; statistics in fp32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class Attention(nn.Module):
    """Projections of multi-head attention with RMS-normalised queries and keys."""

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, eps), RMSNorm(dim, eps)

    def heads(self, x_BLD: Tensor) -> Tensor:
        """Split heads: [B, L, D] -> [B, N, L, H]."""
        return x_BLD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def query(self, x_BLD: Tensor) -> Tensor:
        """Compute normalised queries [B, N, L, H]."""
        return self.heads(self.norm_q(self.q(x_BLD)))

    def key_value(self, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Compute normalised keys and values, each [B, N, L, H]."""
        return self.heads(self.norm_k(self.k(x_BLD))), self.heads(self.v(x_BLD))


class DiTBlock(nn.Module):
    """Self-attention, text cross-attention and a gated feed-forward, modulated by the noise level."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.modulation = nn.Parameter(nn.init.normal_(torch.empty(1, 6, dim), std=dim**-0.5))
        self.self_attn = Attention(dim, num_heads, eps)
        self.norm3 = nn.LayerNorm(dim, eps=eps)
        self.cross_attn = Attention(dim, num_heads, eps)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim))

    def modulate(self, e0: Tensor) -> BlockModulation:
        """Compute the block's modulation from the projected noise levels [B, G, 6, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation.float() + e0).unsqueeze(-2).unbind(-3)
        return BlockModulation(ModulationOut(shift1, scale1, gate1), ModulationOut(shift2, scale2, gate2))

    def self_qkv(self, x_BLD: Tensor, mod: BlockModulation) -> tuple[Tensor, Tensor, Tensor]:
        """Compute queries, keys and values of the self-attention before rotation, each [B, N, L, H]."""
        h = modulate(layer_norm(x_BLD, self.eps), mod.attention.shift, mod.attention.scale).to(x_BLD.dtype)
        return self.self_attn.query(h), *self.self_attn.key_value(h)

    def finish(self, x_BLD: Tensor, attended_BLD: Tensor, mod: BlockModulation, text_kv: tuple[Tensor, ...]) -> Tensor:
        """Compute the block after its self-attention: output projection, text cross-attention, feed-forward."""
        dtype = x_BLD.dtype
        x = x_BLD.float() + gate(self.self_attn.o(attended_BLD), mod.attention.gate)
        h = F.layer_norm(
            x.to(dtype).float(), (x.shape[-1],), self.norm3.weight.float(), self.norm3.bias.float(), self.eps
        )
        x = x + self.cross_attn.o(attend(self.cross_attn.query(h.to(dtype)), *text_kv))
        h = modulate(layer_norm(x, self.eps), mod.ffn.shift, mod.ffn.scale)
        return (x + gate(self.ffn(h.to(dtype)), mod.ffn.gate)).to(dtype)


class AdaLayerNorm(nn.Module):
    """Shift and scale of the audio injector's norm, from the global audio token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 2 * dim)


class AudioInjector(nn.Module):
    """Cross-attention from the tokens of each latent to that latent's audio tokens, after AdaIN."""

    def __init__(self, dim: int, num_heads: int, num_injectors: int, eps: float) -> None:
        super().__init__()
        self.injector = nn.ModuleList(Attention(dim, num_heads, eps) for _ in range(num_injectors))
        self.injector_adain_layers = nn.ModuleList(AdaLayerNorm(dim) for _ in range(num_injectors))

    def condition(self, index: int, local_BTKD: Tensor, global_BT1D: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute one injector's audio conditioning: keys, values [B*T, N, K, H], shift, scale [B, T, 1, D]."""
        k, v = self.injector[index].key_value(local_BTKD.flatten(0, 1))
        shift, scale = self.injector_adain_layers[index].linear(F.silu(global_BT1D)).float().chunk(2, dim=-1)
        return k, v, shift, scale


def inject(attention: Attention, x_BLD: Tensor, audio: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Compute an injector's residual [A, L, D] for A speakers; `audio` is a result of `AudioInjector.condition`."""
    k, v, shift, scale = audio
    h = modulate(F.layer_norm(x_BLD.float(), (x_BLD.shape[-1],), eps=ADAIN_EPS), shift, scale).to(x_BLD.dtype)
    per_latent = h.unflatten(1, (shift.shape[1], -1)).flatten(0, 1)
    return attention.o(attend(attention.query(per_latent), k, v)).view(h.shape)


class Head(nn.Module):
    """Modulated norm and projection to the channels of one patch."""

    def __init__(self, dim: int, out_dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.modulation = nn.Parameter(nn.init.normal_(torch.empty(1, 2, dim), std=dim**-0.5))
        self.head = nn.Linear(dim, out_dim)

    def forward(self, x_BLD: Tensor, e: Tensor) -> Tensor:
        """Project x [B, L, D] under the noise levels e [B, G, D] of its runs of tokens."""
        shift, scale = (self.modulation.float() + e.unsqueeze(-2)).unsqueeze(-2).unbind(-3)
        return self.head(modulate(layer_norm(x_BLD, self.eps), shift, scale).to(x_BLD.dtype))
