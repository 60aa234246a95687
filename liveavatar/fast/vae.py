"""The Wan autoencoder with channels innermost in memory: fused norm and activation, histories written in place.

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
from liveavatar.model.vae_wan import (
    CausalConv3d,
    ChannelNorm,
    Downsample,
    FrameAttention,
    ResidualBlock,
    Upsample,
    WanVAE,
)

_LAST = torch.channels_last_3d
_HEADROOM = 8  # channels: tensor cores take, with channels innermost, multiples of as many
_HOPPER, _HOPPER_CHANNELS = 9, 64  # major compute capability; without such a multiple cuDNN takes a kernel of Ampere


def channel_multiple(device: torch.device) -> int:
    """Return the multiple of input channels that a device's fast convolutions ask for."""
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= _HOPPER
    return _HOPPER_CHANNELS if hopper else 1


class FastLayers:
    """Runs the layers of an encoder or a decoder, whose weights it has laid out anew."""

    def __init__(self, network: nn.Module, multiple: int | None) -> None:
        """Lay out the weights.

        Args:
            network: `WanVAE.encoder` or `WanVAE.decoder`; its weights are turned in place.
            multiple: of the input channels of residual blocks' convolutions; missing ones are zeros. None: what the
                device's convolutions ask for.
        """
        for p in network.parameters():
            if p.ndim in (4, 5):
                p.data = p.data.contiguous(memory_format=_LAST if p.ndim == 5 else torch.channels_last)
        device = next(network.parameters()).device
        self._padded = _padded_weights(network, channel_multiple(device) if multiple is None else multiple)

    def run(self, layer: nn.Module, x: Tensor, state: StreamState) -> Tensor:
        """Run a layer on [1, C, T, H, W]; `state` is updated."""
        if isinstance(layer, ResidualBlock):
            skip = x if layer.shortcut is None else _pointwise(layer.shortcut, x)
            norm1, _, conv1, norm2, _, _, conv2 = layer.residual
            y = self.convolve(conv1, self.normed(norm1, conv1, x, None, state))
            y = self.convolve(conv2, self.normed(norm2, conv2, y, conv1.bias, state))
            ops.add_bias(y[0], conv2.bias, skip[0])
            return y
        if isinstance(layer, FrameAttention):
            return layer(x, state).contiguous(memory_format=_LAST)
        if isinstance(layer, Downsample):
            return self._downsample(layer, x, state)
        assert isinstance(layer, Upsample)
        return self._upsample(layer, x, state)

    def normed(
        self, norm: ChannelNorm, conv: CausalConv3d, x: Tensor, bias: Tensor | None, state: StreamState
    ) -> Tensor:
        """Write a norm's output, activated, into a convolution's input buffer.

        `bias` is that of the convolution before the norm.
        """
        buffer, past = self._buffer(conv, x, state)
        ops.rms_silu(x[0], bias, norm.gamma.flatten(), buffer[0, :, past:])
        self._keep(conv, buffer, state)
        return buffer

    def conv(self, conv: CausalConv3d, x: Tensor, state: StreamState) -> Tensor:
        """Run a causal convolution without its bias."""
        buffer, past = self._buffer(conv, x, state)
        buffer[:, :, past:].copy_(x)
        self._keep(conv, buffer, state)
        return self.convolve(conv, buffer)

    def _buffer(self, conv: CausalConv3d, x: Tensor, state: StreamState) -> tuple[Tensor, int]:
        """Allocate [history | room for x], with zeros in padded channels of the history.

        The history is laid out like x from its first use on.
        """
        B, C, T, H, W = x.shape
        past = conv.kernel_size[0] - 1
        if conv.slot not in state:
            empty = torch.zeros(B, C, past, H, W, dtype=x.dtype, device=x.device)
            state.keep(conv.slot, empty.contiguous(memory_format=_LAST))
        wide = self._weight(conv).shape[1]
        buffer = torch.empty(B, wide, past + T, H, W, dtype=x.dtype, device=x.device, memory_format=_LAST)
        buffer[:, C:, :past].zero_()
        _copy_pixels(state.history(conv.slot, (B, C, past, H, W), x), buffer[:, :C, :past])
        return buffer, past

    def _keep(self, conv: CausalConv3d, buffer: Tensor, state: StreamState) -> None:
        """Store the last frames of a convolution's input, which `_buffer` made, as its history."""
        newest = buffer[:, : conv.in_channels, 1 - conv.kernel_size[0] :]
        _copy_pixels(newest, state.history(conv.slot, tuple(newest.shape), newest))

    def _weight(self, conv: CausalConv3d) -> Tensor:
        return self._padded.get(conv.slot, conv.weight)

    def convolve(self, conv: CausalConv3d, buffer: Tensor) -> Tensor:
        """Run a convolution over [history | new frames] without its bias."""
        y = F.conv3d(buffer, self._weight(conv), padding=(0, *conv.padding[1:]))
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
            pairs = self.conv(layer.time_conv, x[:, :, head:], state)
            ops.enlarge(pairs[0], layer.time_conv.bias, out[:, head:])
        conv = layer.resample[1]
        y = F.conv2d(wide.permute(0, 3, 1, 2), conv.weight, padding=conv.padding)
        y = y.transpose(0, 1)[None].contiguous(memory_format=_LAST)
        ops.add_bias(y[0], conv.bias)
        return y

    def _downsample(self, layer: Downsample, x: Tensor, state: StreamState) -> Tensor:
        pad, conv = layer.resample
        y = F.conv2d(pad(x[0].transpose(0, 1)), conv.weight, stride=conv.stride)
        x = y.transpose(0, 1)[None].contiguous(memory_format=_LAST)
        ops.add_bias(x[0], conv.bias)
        return x if layer.time_conv is None else layer.halve_rate(x, state).contiguous(memory_format=_LAST)


class FastDecoder:
    """`decode_stream` of a WanVAE whose decoder it has laid out anew."""

    def __init__(self, vae: WanVAE, multiple: int | None = None) -> None:
        """Lay out the weights.

        Args:
            vae: the autoencoder; its decoder's weights are turned in place.
            multiple: of the input channels of residual blocks' convolutions; missing ones are zeros. None: what the
                device's convolutions ask for.
        """
        self.vae, self._layers = vae, FastLayers(vae.decoder, multiple)
        self._head_weight = _planar_weight(vae.decoder.head[2])
        layers = [*vae.decoder.middle, *vae.decoder.upsamples]
        first = 1 + max((i for i, layer in enumerate(layers) if isinstance(layer, Upsample)), default=-1)
        self._small, self._full_size = layers[:first], layers[first:]

    @torch.no_grad()
    def decode_stream(self, latents_1Chw: Tensor, state: StreamState) -> Tensor:
        """Decode the next latents [1, C, T, h, w] of one video to frames [1, 3, T, H, W] in -1..1."""
        x = self._enlarged(latents_1Chw, state)
        for layer in self._full_size:
            x = self._layers.run(layer, x, state)
        norm, _, last = self.vae.decoder.head
        buffer = self._layers.normed(norm, last, x, None, state)
        state.position += latents_1Chw.shape[2]
        return self._head(last, buffer)

    def _head(self, last: CausalConv3d, buffer: Tensor) -> Tensor:
        """Run the last convolution over [history | new frames] frame by frame, and add up its taps in time.

        In 3-D cuDNN gives its few outputs a kernel of Ampere: 2.0 ms for 12 frames of 704*384 on an H200, against 0.8.
        """
        taps, num_frames = last.kernel_size[0], buffer.shape[2] - last.kernel_size[0] + 1
        planar = F.conv2d(buffer[0].transpose(0, 1), self._head_weight, padding=last.padding[1:]).transpose(0, 1)
        parts = planar[: taps * last.out_channels].unflatten(0, (taps, last.out_channels))
        total = last.bias.float()[:, None, None, None]
        for tap in range(taps):
            total = total + parts[tap, :, tap : tap + num_frames]
        return total[None].to(buffer.dtype)

    @property
    def settling_frames(self) -> int:
        """Frames after which the layers at full size have forgotten all but the input of the first of them."""
        convs = [m for layer in self._full_size for m in layer.modules() if isinstance(m, CausalConv3d)]
        return sum(conv.kernel_size[0] - 1 for conv in convs)

    @torch.no_grad()
    def prime_stream(self, latents_1Chw: Tensor, state: StreamState) -> None:
        """Update `state` as `decode_stream` does, most of the layers at full size left out.

        The state is right once `settling_frames` more frames have been decoded; those are not to be shown.
        """
        x = self._enlarged(latents_1Chw, state)
        norm, _, conv, *_ = self._full_size[0].residual
        self._layers.normed(norm, conv, x, None, state)
        state.position += latents_1Chw.shape[2]

    def _enlarged(self, latents_1Chw: Tensor, state: StreamState) -> Tensor:
        """Run the layers up to the last upsampling."""
        vae, decoder = self.vae, self.vae.decoder
        dtype = latents_1Chw.dtype
        z = latents_1Chw * vae.std.to(dtype) + vae.mean.to(dtype)
        x = self._layers.conv(decoder.conv1, vae.conv2(z, state).contiguous(memory_format=_LAST), state)
        ops.add_bias(x[0], decoder.conv1.bias)
        for layer in self._small:
            x = self._layers.run(layer, x, state)
        return x


class FastEncoder:
    """`encode_still` and `encode_stream` of a WanVAE whose encoder it has laid out anew."""

    def __init__(self, vae: WanVAE, multiple: int | None = None) -> None:
        """Lay out the weights, as `FastDecoder` does."""
        self.vae, self._layers = vae, FastLayers(vae.encoder, multiple)

    def encode_still(self, picture: Tensor, num_latents: int) -> Tensor:
        """Encode a still video of one picture [1, 3, 1, H, W] in -1..1 to latents [1, C, num_latents, h, w]."""
        return self.vae.encode_still_by(self._level, picture, num_latents)

    def encode_stream(self, video_13THW: Tensor, state: StreamState) -> Tensor:
        """Encode the next pictures of a video, as `WanVAE.encode_stream` does."""
        return self.vae.encode_stream_by(self._level, video_13THW, state)

    def _level(self, index: int, x: Tensor, state: StreamState) -> Tensor:
        encoder = self.vae.encoder
        if index == 0:
            x = self._layers.conv(encoder.conv1, x, state)
            ops.add_bias(x[0], encoder.conv1.bias)
        for layer in encoder.level_layers(index):
            x = self._layers.run(layer, x, state)
        if index < len(encoder.levels) - 1:
            return x
        norm, _, conv = encoder.head
        x = self._layers.convolve(conv, self._layers.normed(norm, conv, x, None, state))
        ops.add_bias(x[0], conv.bias)
        return x


def _padded_weights(network: nn.Module, multiple: int) -> dict[str, Tensor]:
    """Return the weights of convolutions that get more input channels, by slot."""
    found = {}
    blocks = (module for module in network.modules() if isinstance(module, ResidualBlock))
    for conv in (layer for block in blocks for layer in block.residual):
        if isinstance(conv, CausalConv3d):
            missing = -conv.in_channels % multiple
            if 0 < missing < conv.in_channels:  # otherwise the work would double at least
                wide = F.pad(conv.weight.data, (0, 0) * 3 + (0, missing))
                found[conv.slot] = wide.contiguous(memory_format=_LAST)
    return found


def _planar_weight(conv: CausalConv3d) -> Tensor:
    """Lay out a 3-D weight [O, C, K, y, x] as that of a 2-D convolution with K * O outputs, padded: [Q, C, y, x]."""
    weight = conv.weight.data.permute(2, 0, 1, 3, 4).flatten(0, 1)
    # With an odd number of outputs cuDNN turns its input, the largest of all, to channels outermost and back.
    missing = -len(weight) % _HEADROOM
    return F.pad(weight, (0, 0) * 3 + (0, missing)).contiguous(memory_format=torch.channels_last)


def _copy_pixels(source: Tensor, target: Tensor) -> None:
    """Copy [B, C, T, H, W] in words of 8 bytes where channels are innermost: PyTorch copies slices by element."""
    source, target = (t.permute(0, 2, 3, 4, 1) for t in (source, target))
    word = 8 // source.element_size()
    if all(t.stride(-1) == 1 and t.stride(-2) % word == 0 and t.shape[-1] % word == 0 for t in (source, target)):
        source, target = source.view(torch.int64), target.view(torch.int64)
    target.copy_(source)


def _pointwise(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """Compute a 1x1x1 convolution as one product, which leaves channels innermost; cuDNN does not for every shape."""
    y = F.linear(x.permute(0, 2, 3, 4, 1), conv.weight.flatten(1), conv.bias)
    return y.permute(0, 4, 1, 2, 3)
