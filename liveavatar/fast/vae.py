"""The Wan decoder with channels innermost in memory: fused norm and activation, histories written in place.

It reads the weights and keeps the `StreamState` of a `WanVAE`, so streams may change between the two. Every
convolution over time reads one buffer [history | new frames] that the norm before it has written to directly, and
leaves its bias to what comes after it: added by PyTorch it would cost a slow pass over the whole output.

Shapes: B batch (1), C channels, T frames, H/W pixels, h/w latent height and width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveavatar.fast import ops
from liveavatar.model.stream_state import StreamState
from liveavatar.model.vae_wan import CausalConv3d, ChannelNorm, FrameAttention, ResidualBlock, Upsample, WanVAE

_LAST = torch.channels_last_3d
_HEADROOM = 8  # channels: tensor cores take, with channels innermost, multiples of as many


class FastDecoder:
    """`decode_stream` of a WanVAE whose decoder it has laid out anew."""

    def __init__(self, vae: WanVAE) -> None:
        self.vae = vae
        for p in vae.decoder.parameters():
            if p.ndim in (4, 5):
                p.data = p.data.contiguous(memory_format=_LAST if p.ndim == 5 else torch.channels_last)
        # With 3 outputs cuDNN turns its input, the largest of all, to channels outermost and back.
        last = vae.decoder.head[2]
        missing = -last.out_channels % _HEADROOM
        self._head_weight = F.pad(last.weight.data, (0, 0) * 4 + (0, missing)).contiguous(memory_format=_LAST)
        self._head_bias = F.pad(last.bias.data, (0, missing))

    @torch.no_grad()
    def decode_stream(self, latents_1Chw: Tensor, state: StreamState) -> Tensor:
        """Decode the next latents [1, C, T, h, w] of one video to frames [1, 3, T, H, W] in -1..1."""
        vae, decoder = self.vae, self.vae.decoder
        dtype = latents_1Chw.dtype
        z = latents_1Chw * vae.std.to(dtype) + vae.mean.to(dtype)
        x = self._conv(decoder.conv1, vae.conv2(z, state).contiguous(memory_format=_LAST), state)
        ops.add_bias(x[0], decoder.conv1.bias)
        for layer in (*decoder.middle, *decoder.upsamples):
            x = self._layer(layer, x, state)
        norm, _, last = decoder.head
        buffer = self._normed(norm, last, x, None, state)
        frames = F.conv3d(buffer, self._head_weight, self._head_bias, padding=(0, *last.padding[1:]))
        state.position += latents_1Chw.shape[2]
        return frames[:, : last.out_channels]

    def _layer(self, layer: nn.Module, x: Tensor, state: StreamState) -> Tensor:
        if isinstance(layer, ResidualBlock):
            skip = x if layer.shortcut is None else _pointwise(layer.shortcut, x)
            norm1, _, conv1, norm2, _, _, conv2 = layer.residual
            y = self._run(conv1, self._normed(norm1, conv1, x, None, state))
            y = self._run(conv2, self._normed(norm2, conv2, y, conv1.bias, state))
            ops.add_bias(y[0], conv2.bias, skip[0])
            return y
        if isinstance(layer, FrameAttention):
            return layer(x, state).contiguous(memory_format=_LAST)
        assert isinstance(layer, Upsample)
        return self._upsample(layer, x, state)

    def _normed(
        self, norm: ChannelNorm, conv: CausalConv3d, x: Tensor, bias: Tensor | None, state: StreamState
    ) -> Tensor:
        """Write a norm's output into a convolution's input buffer; `bias` is of the convolution before the norm."""
        buffer, past = self._buffer(conv, x, state)
        ops.rms_silu(x[0], bias, norm.gamma.flatten(), buffer[0, :, past:])
        state.keep(conv.slot, buffer[:, :, -past:])
        return buffer

    def _conv(self, conv: CausalConv3d, x: Tensor, state: StreamState) -> Tensor:
        buffer, past = self._buffer(conv, x, state)
        buffer[:, :, past:].copy_(x)
        state.keep(conv.slot, buffer[:, :, -past:])
        return self._run(conv, buffer)

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

    def _run(self, conv: CausalConv3d, buffer: Tensor) -> Tensor:
        """The convolution without its bias."""
        y = F.conv3d(buffer, conv.weight, padding=(0, *conv.padding[1:]))
        return y.contiguous(memory_format=_LAST)

    def _upsample(self, layer: Upsample, x: Tensor, state: StreamState) -> Tensor:
        _, C, T, H, W = x.shape
        head = 0 if layer.time_conv is None else int(state.position == 0)
        rate = 1 if layer.time_conv is None else 2
        wide = x.new_empty(head + rate * (T - head), 2 * H, 2 * W, C)
        out = wide.permute(3, 0, 1, 2)
        if head:
            ops.enlarge(x[0, :, :head], None, out[:, :head])
        if layer.time_conv is None:
            ops.enlarge(x[0], None, out)
        elif head < T:
            pairs = self._conv(layer.time_conv, x[:, :, head:], state)
            ops.enlarge(pairs[0], layer.time_conv.bias, out[:, head:])
        conv = layer.resample[1]
        y = F.conv2d(wide.permute(0, 3, 1, 2), conv.weight, padding=conv.padding)
        y = y.transpose(0, 1)[None].contiguous(memory_format=_LAST)
        ops.add_bias(y[0], conv.bias)
        return y


def _pointwise(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """A 1x1x1 convolution as one product, which leaves channels innermost; cuDNN does not for every shape."""
    y = F.linear(x.permute(0, 2, 3, 4, 1), conv.weight.flatten(1), conv.bias)
    return y.permute(0, 4, 1, 2, 3)
