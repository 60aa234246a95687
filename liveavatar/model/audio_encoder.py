"""Causal audio encoder: speech features at 25 fps in, a few tokens per latent out.

Three causal convolutions halve the rate twice, so output j sees feature frames <= 4j. A block's features
are preceded by history (copies of its first frame, or the true frames before it); the first `latent_start` outputs
belong to that history and are dropped, so that latent i of the block sees its own frames <= 4i+3.

Shapes: B batch, T frames or latents, C feature width, D model width, K audio tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveavatar.timing import LATENT_FRAMES


@dataclass(frozen=True, slots=True)
class AudioTokens:
    """Audio tokens of the transformer: local [B, T, K+1, D] and global_ [B, T, 1, D], one row per latent."""

    local: Tensor
    global_: Tensor

    def __getitem__(self, latents: slice) -> "AudioTokens":
        return AudioTokens(self.local[:, latents], self.global_[:, latents])


def latent_start(history_frames: int) -> int:
    """Count the encoder outputs that belong to `history_frames` feature frames before the block."""
    drop, rest = divmod(history_frames + LATENT_FRAMES - 1, LATENT_FRAMES)
    assert rest == 0, f"{history_frames} history frames do not end on a latent"
    return drop


class CausalConv1d(nn.Module):
    """Convolution over time that replicates the first frame to the left.

    Computed as one matrix product over windows, which takes the weights as they lie; a convolution of cuDNN
    transposes them anew in every call (2 ms of each block of the 14B).
    """

    def __init__(self, in_dim: int, out_dim: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv1d(in_dim, out_dim, kernel, stride)

    def forward(self, x_BCT: Tensor) -> Tensor:
        padded = F.pad(x_BCT, (self.kernel - 1, 0), mode="replicate")
        windows = padded.unfold(2, self.kernel, self.stride).transpose(1, 2).flatten(2)
        return F.linear(windows, self.conv.weight.flatten(1), self.conv.bias).transpose(1, 2)


def _norm_act(x_BCT: Tensor, eps: float) -> Tensor:
    x_BTC = x_BCT.transpose(1, 2)
    return F.silu(F.layer_norm(x_BTC, (x_BTC.shape[-1],), eps=eps)).transpose(1, 2)


class MotionEncoder(nn.Module):
    """Convolution stack, applied to `num_tokens` local streams and to a global one."""

    def __init__(self, in_dim: int, dim: int, num_tokens: int, eps: float) -> None:
        super().__init__()
        self.num_tokens, self.eps = num_tokens, eps
        self.conv1_local = CausalConv1d(in_dim, dim // 4 * num_tokens)
        self.conv1_global = CausalConv1d(in_dim, dim // 4)
        self.conv2 = CausalConv1d(dim // 4, dim // 2, stride=2)
        self.conv3 = CausalConv1d(dim // 2, dim, stride=2)
        self.final_linear = nn.Linear(dim, dim)
        self.padding_tokens = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def _trunk(self, x_BCT: Tensor) -> Tensor:
        x = self.conv2(_norm_act(x_BCT, self.eps))
        return _norm_act(self.conv3(_norm_act(x, self.eps)), self.eps).transpose(1, 2)

    def forward(self, x_BCT: Tensor) -> AudioTokens:
        B = x_BCT.shape[0]
        streams = self.conv1_local(x_BCT).unflatten(1, (self.num_tokens, -1)).flatten(0, 1)
        local = self._trunk(streams).unflatten(0, (B, self.num_tokens)).transpose(1, 2)
        padding = self.padding_tokens.to(local.dtype).expand(B, local.shape[1], -1, -1)
        global_ = self.final_linear(self._trunk(self.conv1_global(x_BCT))).unsqueeze(2)
        return AudioTokens(torch.cat((local, padding), dim=2), global_)


class CausalAudioEncoder(nn.Module):
    """Learned weighted mean of the speech encoder's hidden states, then the convolution stack."""

    def __init__(self, in_dim: int, num_layers: int, dim: int, num_tokens: int, eps: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((1, num_layers, 1, 1), 0.01))
        self.encoder = MotionEncoder(in_dim, dim, num_tokens, eps)

    def forward(self, features_BLCT: Tensor) -> AudioTokens:
        """Encode features [B, L hidden states, C, T frames] into T/4 rows of tokens (rounded up)."""
        mix = F.silu(self.weights.float()).to(features_BLCT.dtype)
        return self.encoder((features_BLCT * mix).sum(1) / mix.sum(1))
