"""Prompt encoder of the embedded model: hashed words through a small transformer.

No vocabulary file: a word (or a single Chinese character) becomes the CRC-32 of its lower-case form
modulo the number of buckets; bucket 0 is padding. The 14B uses umT5-xxl instead (`model/umt5.py`).

Shapes: B batch, L tokens, D width.
"""

import re
import zlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveavatar.config import TextConfig

WORD = re.compile(r"[a-z0-9]+|[\u3400-\u9fff]")
PAD = 0


def tokenize(prompt: str, cfg: TextConfig) -> list[int]:
    """Hash each of the first `cfg.length` words to its bucket."""
    words = WORD.findall(prompt.lower())[: cfg.length]
    return [1 + zlib.crc32(word.encode()) % (cfg.vocab - 1) for word in words]


def tokenize_batch(prompts: list[str], cfg: TextConfig) -> Tensor:
    """Tokenize prompts to ids [B, length], padded with 0."""
    ids = torch.full((len(prompts), cfg.length), PAD)
    for row, prompt in enumerate(prompts):
        tokens = tokenize(prompt, cfg)
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    return ids


class PromptEncoder(nn.Module):
    """Token embedding and a small transformer encoder; rows of padding come out as zero."""

    def __init__(self, cfg: TextConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.embedding = nn.Embedding(cfg.vocab, cfg.dim, padding_idx=PAD)
        self.position = nn.Parameter(nn.init.normal_(torch.empty(cfg.length, cfg.dim), std=0.02))
        self.layers = nn.ModuleList(EncoderLayer(cfg.dim, cfg.num_heads) for _ in range(cfg.num_layers))
        self.norm = nn.LayerNorm(cfg.dim)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Encode ids [B, L] to rows [B, L, D]; all zero for an empty prompt."""
        present = ids_BL != PAD
        x = self.embedding(ids_BL) + self.position[: ids_BL.shape[1]]
        mask = present[:, None, None, :] | ~present.any(1)[:, None, None, None]
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x) * present[..., None]


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.ffn = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x_BLD: Tensor, mask_B11L: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x_BLD)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_B11L).transpose(1, 2).flatten(2)
        x_BLD = x_BLD + self.out(attended)
        return x_BLD + self.ffn(self.norm2(x_BLD))
