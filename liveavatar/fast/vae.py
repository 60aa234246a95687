"""The Wan decoder with channels innermost in memory: fused norm and activation, histories written in place.

It reads the weights and keeps the `StreamState` of a `WanVAE`, so streams may change between the two. Every
convolution over time reads one buffer [history | new frames] that the norm before it has written to directly.

Shapes: B batch (1), C channels, T frames, H/W pixels, h/w latent height and width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveavatar.fast import ops
from liveavatar.model.vae import StreamState
from liveavatar.model.vae_wan import CausalConv3d, FrameAttention, ResidualBlock, RMSNorm, Upsample, WanVAE

_LAST = torch.channels_last_3d


class FastDecoder:
    """`decode_stream` of a WanVAE whose decoder it has laid out anew."""

    def __init__(self, vae: WanVAE) -> None:
        self.vae = vae
        for p in vae.decoder.parameters():
            if p.ndim in (4, 5):
                p.data = p.data.contiguous(memory_format=_LAST if p.ndim == 5 else torch.channels_last)

    @torch.no_grad()
    def decode_stream(self, latents_1Chw: Tensor, state: StreamState) -> Tensor:
        """As `WanVAE.decode_stream`, for one video."""
        vae, decoder = self.vae, self.vae.decoder
        dtype = latents_1Chw.dtype
        z = latents_1Chw * vae.std.to(dtype) + vae.mean.to(dtype)
        x = self._conv(decoder.conv1, vae.conv2(z, state).contiguous(memory_format=_LAST), state)
        for layer in (*decoder.middle, *decoder.upsamples):
            x = self._layer(layer, x, state)
        frames = self._norm_conv(decoder.head[0], decoder.head[2], x, state)
        state.position += latents_1Chw.shape[2]
        return frames

    def _layer(self, layer: nn.Module, x: Tensor, state: StreamState) -> Tensor:
        if isinstance(layer, ResidualBlock):
            skip = x if layer.shortcut is None else _pointwise(layer.shortcut, x)
            norm1, _, conv1, norm2, _, _, conv2 = layer.residual
            return skip + self._norm_conv(norm2, conv2, self._norm_conv(norm1, conv1, x, state), state)
        if isinstance(layer, FrameAttention):
            return layer(x, state).contiguous(memory_format=_LAST)
        assert isinstance(layer, Upsample)
        return self._upsample(layer, x, state)

    def _norm_conv(self, norm: RMSNorm, conv: CausalConv3d, x: Tensor, state: StreamState) -> Tensor:
        buffer, past = self._buffer(conv, x, state)
        ops.rms_silu(x[0], norm.gamma.flatten(), buffer[0, :, past:])
        return self._run(conv, buffer, past, state)

    def _conv(self, conv: CausalConv3d, x: Tensor, state: StreamState) -> Tensor:
        buffer, past = self._buffer(conv, x, state)
        buffer[:, :, past:].copy_(x)
        return self._run(conv, buffer, past, state)

    def _buffer(self, conv: CausalConv3d, x: Tensor, state: StreamState) -> tuple[Tensor, int]:
        """[history | room for x]; the history is laid out like x from its first use on."""
        B, C, T, H, W = x.shape
        past = conv.kernel_size[0] - 1
        if conv.slot not in state.tensors():
            empty = torch.zeros(B, C, past, H, W, dtype=x.dtype, device=x.device)
            state.keep(conv.slot, empty.contiguous(memory_format=_LAST))
        buffer = torch.empty(B, C, past + T, H, W, dtype=x.dtype, device=x.device, memory_format=_LAST)
        buffer[:, :, :past].copy_(state.history(conv.slot, (B, C, past, H, W), x))
        return buffer, past

    def _run(self, conv: CausalConv3d, buffer: Tensor, past: int, state: StreamState) -> Tensor:
        state.keep(conv.slot, buffer[:, :, -past:])
        y = F.conv3d(buffer, conv.weight, conv.bias, padding=(0, *conv.padding[1:]))
        return y.contiguous(memory_format=_LAST)

    def _upsample(self, layer: Upsample, x: Tensor, state: StreamState) -> Tensor:
        if layer.time_conv is not None:
            head = x[:, :, :1] if state.position == 0 else None
            x = x if head is None else x[:, :, 1:].contiguous(memory_format=_LAST)
            if x.shape[2]:
                even, odd = self._conv(layer.time_conv, x, state).chunk(2, dim=1)
                x = torch.stack((even, odd), dim=3).flatten(2, 3)
            x = x if head is None else torch.cat((head, x), dim=2)
        frames = x[0].transpose(0, 1).contiguous(memory_format=torch.channels_last)
        wide = layer.resample[1](F.interpolate(frames, scale_factor=2.0, mode="nearest-exact"))
        return wide.transpose(0, 1)[None].contiguous(memory_format=_LAST)


def _pointwise(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """A 1x1x1 convolution as one product, which leaves channels innermost; cuDNN does not for every shape."""
    y = F.linear(x.permute(0, 2, 3, 4, 1), conv.weight.flatten(1), conv.bias)
    return y.permute(0, 4, 1, 2, 3)
