"""The Wan2.1 causal video autoencoder: 3-D convolutions, 8x smaller in space, 4x in time.

Weights carry the official names (`encoder.downsamples.3.residual.2.weight`, ...), so published checkpoints
load unchanged. The first frame of a video is a latent of its own; every later latent covers four frames.
Each temporal convolution keeps the last inputs it saw in a `StreamState` under its own module name, which
makes a streamed pass equal to a whole one for any cut into chunks.

Shapes: B batch, C channels, T frames at the layer's own rate, H/W pixels at the layer's own scale.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveavatar.config import VAEConfig
from liveavatar.model.stream_state import StreamState

_DECODE_CHUNK = 3  # latents per pass of a whole decode; bounds memory, the result does not depend on it


class ChannelNorm(nn.Module):
    """Scale each position to unit length over channels, times sqrt(channels) and a learned gain."""

    def __init__(self, channels: int, num_axes: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * num_axes))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * self.gamma.shape[0] ** 0.5 * self.gamma


class CausalConv3d(nn.Conv3d):
    """Causal convolution over (time, height, width): never uses later frames.

    `slot` names its history in the stream; it is set once the whole network is built.
    """

    slot = ""

    def forward(self, x: Tensor, state: StreamState) -> Tensor:  # type: ignore[override]
        past = self.kernel_size[0] - 1
        if not past:
            return super().forward(x)
        x = self.extend(x, state, past)
        return self._as_conv2d(x) if x.device.type == "cpu" else super().forward(x)

    def _as_conv2d(self, x: Tensor) -> Tensor:
        """Compute the same convolution with the kernel's frames stacked as channels: several times faster on a CPU."""
        taps = self.kernel_size[0]
        num_frames = x.shape[2] - taps + 1
        stacked = torch.cat([x[:, :, i : i + num_frames] for i in range(taps)], dim=1)
        frames = stacked.transpose(1, 2).flatten(0, 1)
        weight = self.weight.transpose(1, 2).flatten(1, 2)
        y = F.conv2d(frames, weight, self.bias, padding=(self.padding[1], self.padding[2]))
        return y.unflatten(0, (x.shape[0], num_frames)).transpose(1, 2)

    def extend(self, x: Tensor, state: StreamState, past: int) -> Tensor:
        """Prepend the stream's last `past` frames to x, and store the last ones of the result."""
        b, c, _, h, w = x.shape
        x = torch.cat((state.history(self.slot, (b, c, past, h, w), x), x), dim=2)
        state.keep(self.slot, x[:, :, -past:])
        return x


def causal_conv(c_in: int, c_out: int, kernel: int) -> CausalConv3d:
    """Build a cubic causal convolution with symmetric zero padding in space."""
    return CausalConv3d(c_in, c_out, kernel, padding=(0, kernel // 2, kernel // 2))


class ResidualBlock(nn.Module):
    """Residual block of two pre-normalised causal convolutions."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        # Positions 4 and 5 hold the official activation and dropout, so that indices match its names.
        self.residual = nn.ModuleList([
            ChannelNorm(c_in, 3), nn.SiLU(), causal_conv(c_in, c_out, 3),
            ChannelNorm(c_out, 3), nn.SiLU(), nn.Identity(), causal_conv(c_out, c_out, 3),
        ])  # fmt: skip
        self.shortcut = causal_conv(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        skip = x if self.shortcut is None else self.shortcut(x, state)
        norm1, _, conv1, norm2, _, _, conv2 = self.residual
        x = conv1(F.silu(norm1(x)), state)
        return skip + conv2(F.silu(norm2(x)), state)


class FrameAttention(nn.Module):
    """Single-head self-attention within each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, channels * 3, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        b, c, t, h, w = x.shape
        frames = x.transpose(1, 2).reshape(b * t, c, h, w)
        qkv = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2).unsqueeze(1)  # [BT, 1, HW, 3C]
        out = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1)).squeeze(1).transpose(1, 2)
        out = self.proj(out.reshape(b * t, c, h, w))
        return x + out.view(b, t, c, h, w).transpose(1, 2)


def _per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    b, c, t, h, w = x.shape
    y = layer(x.transpose(1, 2).reshape(b * t, c, h, w))
    return y.view(b, t, *y.shape[1:]).transpose(1, 2)


class Downsample(nn.Module):
    """Halve height and width, and from the second frame on, if `temporal`, the frame rate."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = CausalConv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        x = _per_frame(self.resample, x)
        return x if self.time_conv is None else self.halve_rate(x, state)

    def halve_rate(self, x: Tensor, state: StreamState) -> Tensor:
        """Run the convolution over time; the first frame of a stream passes unchanged."""
        assert self.time_conv is not None
        head = x[:, :, :1] if state.position == 0 else None
        if head is not None:
            state.keep(self.time_conv.slot, head)
            x = x[:, :, 1:]
        if x.shape[2]:
            x = F.conv3d(
                self.time_conv.extend(x, state, 1), self.time_conv.weight, self.time_conv.bias, self.time_conv.stride
            )
        return x if head is None else torch.cat((head, x), dim=2)


class Upsample(nn.Module):
    """Double height and width, and from the second frame on, if `temporal`, the frame rate."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="nearest-exact"), nn.Conv2d(channels, channels // 2, 3, padding=1)
        )
        self.time_conv = CausalConv3d(channels, channels * 2, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        if self.time_conv is not None:
            # The first frame of a stream passes unchanged, and is no context for the second either.
            head = x[:, :, :1] if state.position == 0 else None
            x = x if head is None else x[:, :, 1:]
            if x.shape[2]:
                even, odd = self.time_conv(x, state).chunk(2, dim=1)
                x = torch.stack((even, odd), dim=3).flatten(2, 3)
            x = x if head is None else torch.cat((head, x), dim=2)
        return _per_frame(self.resample, x)


class WanEncoder(nn.Module):
    """Encoder network: video [B,3,T,H,W] -> moments [B,2C,T',h,w]."""

    def __init__(self, cfg: VAEConfig) -> None:
        super().__init__()
        widths = cfg.encoder_widths
        self.conv1 = causal_conv(3, widths[0], 3)
        layers: list[nn.Module] = []
        c = widths[0]
        for i, width in enumerate(widths):
            for _ in range(cfg.num_res_blocks):
                layers.append(ResidualBlock(c, width))
                c = width
            if i < len(widths) - 1:
                layers.append(Downsample(c, cfg.temporal_downsample[i]))
        self.downsamples = nn.ModuleList(layers)
        self.middle = nn.ModuleList([ResidualBlock(c, c), FrameAttention(c), ResidualBlock(c, c)])
        self.head = nn.ModuleList([ChannelNorm(c, 3), nn.SiLU(), causal_conv(c, 2 * cfg.z_dim, 3)])
        ends = [i + 1 for i, layer in enumerate(self.downsamples) if isinstance(layer, Downsample)]
        self.levels = [slice(a, b) for a, b in pairwise([0, *ends, len(self.downsamples)])]

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        for index in range(len(self.levels)):
            x = self.level(index, x, state)
        return x

    def level(self, index: int, x: Tensor, state: StreamState) -> Tensor:
        """Run the layers of one scale; levels must be run in order, each on the output of the one before."""
        if index == 0:
            x = self.conv1(x, state)
        for layer in self.level_layers(index):
            x = layer(x, state)
        return x if index < len(self.levels) - 1 else self.head[2](F.silu(self.head[0](x)), state)

    def level_layers(self, index: int) -> list[nn.Module]:
        """Return the layers of one scale between the first convolution and the head."""
        return [*self.downsamples[self.levels[index]], *(self.middle if index == len(self.levels) - 1 else ())]


class WanDecoder(nn.Module):
    """Decoder network: latents [B,C,T',h,w] -> video [B,3,T,H,W]."""

    def __init__(self, cfg: VAEConfig) -> None:
        super().__init__()
        widths = cfg.decoder_widths
        c = widths[0]
        self.conv1 = causal_conv(cfg.z_dim, c, 3)
        self.middle = nn.ModuleList([ResidualBlock(c, c), FrameAttention(c), ResidualBlock(c, c)])
        layers: list[nn.Module] = []
        for i, width in enumerate(widths):
            for _ in range(cfg.num_res_blocks + 1):
                layers.append(ResidualBlock(c, width))
                c = width
            if i < len(widths) - 1:
                layers.append(Upsample(c, cfg.temporal_downsample[::-1][i]))
                c //= 2
        self.upsamples = nn.ModuleList(layers)
        self.head = nn.ModuleList([ChannelNorm(c, 3), nn.SiLU(), causal_conv(c, 3, 3)])

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        x = self.conv1(x, state)
        for layer in (*self.middle, *self.upsamples):
            x = layer(x, state)
        return self.head[2](F.silu(self.head[0](x)), state)


Level = Callable[[int, Tensor, StreamState], Tensor]  # as `WanEncoder.level`


def still_runs(cfg: VAEConfig, num_latents: int) -> list[int]:
    """Count the latents of a still video for which `WanVAE.encode_still` runs each level."""
    # All frames of a level from `same` on are alike; a convolution moves that by the frames it looks back.
    runs, same, frames = [1], 0, 2 ** sum(cfg.temporal_downsample)
    num_levels = len(cfg.encoder_widths)
    for level in range(num_levels):
        last = level == num_levels - 1
        convs = 2 * cfg.num_res_blocks + (level == 0) + 5 * last  # the last level has the middle and the head
        same += 2 * convs
        settled = -(-(same - 1) // frames) + 1  # the last convolution stores two frames of its input
        if not last and cfg.temporal_downsample[level]:
            settled = -(-same // frames) + 1
            same, frames = -(-same // 2) + 1, frames // 2
        runs.append(min(num_latents, max(runs[-1], settled + 1)))
    return runs[1:]


class WanVAE(nn.Module):
    """Causal autoencoder of kind "wan", inference only; see `liveavatar.model.vae.VideoVAE` for the protocol."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        z = config.z_dim
        self.encoder = WanEncoder(config)
        self.conv1 = causal_conv(2 * z, 2 * z, 1)
        self.conv2 = causal_conv(z, z, 1)
        self.decoder = WanDecoder(config)
        self.register_buffer("mean", torch.tensor(config.mean).view(1, z, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, z, 1, 1, 1), persistent=False)
        self.latent_frames = 2 ** sum(config.temporal_downsample)  # frames of every latent but the first
        for name, module in self.named_modules():
            if isinstance(module, CausalConv3d):
                module.slot = name

    def encoder_state(self, batch: int, h: int, w: int) -> StreamState:
        """Create an empty encoder stream for latents of size [h, w]."""
        return StreamState(batch, h, w)

    def decoder_state(self, batch: int, h: int, w: int) -> StreamState:
        """Create an empty decoder stream for latents of size [h, w]."""
        return StreamState(batch, h, w)

    def set_reference(self, picture: Tensor, latent: Tensor, state: StreamState) -> None:
        """Do nothing: this decoder copies nothing from the portrait."""

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Encode a whole video, in chunks of 1, 4, 4, ... frames to bound memory.

        Args:
            video: [B,3,T,H,W] in [-1,1], T = 1 + 4n, sides multiples of the spatial stride.

        Returns:
            Normalised mean latents [B,C,1+n,h,w].
        """
        stride = self.config.spatial_stride
        state = self.encoder_state(video.shape[0], video.shape[3] // stride, video.shape[4] // stride)
        chunks = (video[:, :, :1], *video[:, :, 1:].split(self.latent_frames, dim=2))
        return torch.cat([self.encode_stream(c, state) for c in chunks if c.shape[2]], dim=2)

    def encode_stream(self, video: Tensor, state: StreamState) -> Tensor:
        """Encode the next frames of a stream.

        Args:
            video: [B,3,T,H,W] in [-1,1]; T is 1 + 4n in the first call and 4n afterwards.
            state: the stream, updated in place.

        Returns:
            Normalised mean latents [B,C,T',h,w].

        Raises:
            ValueError: when the frames do not fill whole latents.
        """
        return self.encode_stream_by(self.encoder.level, video, state)

    @torch.no_grad()
    def encode_stream_by(self, level: Level, video: Tensor, state: StreamState) -> Tensor:
        """Encode the next frames of a stream with `level` in place of `WanEncoder.level`."""
        num_frames = video.shape[2]
        head = 1 if state.position == 0 else 0
        if num_frames < 1 or (num_frames - head) % self.latent_frames:
            raise ValueError(
                f"{num_frames} frames at position {state.position} do not fill whole latents; "
                f"a stream begins with 1 frame and goes on in multiples of {self.latent_frames}"
            )
        x = video
        for index in range(len(self.encoder.levels)):
            x = level(index, x, state)
        state.position += num_frames
        return self._normalised(x, state)

    def _normalised(self, moments: Tensor, state: StreamState) -> Tensor:
        mu = self.conv1(moments, state)[:, : self.config.z_dim]
        return (mu - self.mean.to(mu.dtype)) * (1 / self.std).to(mu.dtype)

    def encode_still(self, picture: Tensor, num_latents: int) -> Tensor:
        """Encode a still video of one picture: bit-identical to `encode`, with less work.

        Args:
            picture: [B,3,1,H,W] in [-1,1].
            num_latents: of the result, at least 1.

        Returns:
            Normalised mean latents [B,C,num_latents,h,w].
        """
        return self.encode_still_by(self.encoder.level, picture, num_latents)

    @torch.no_grad()
    def encode_still_by(self, level: Level, picture: Tensor, num_latents: int) -> Tensor:
        """Encode a still video with `level` in place of `WanEncoder.level`.

        A level whose input repeats and whose state did not change repeats its output for ever, so the wide levels at
        the size of the picture are skipped after a few latents. How many is known before (`still_runs`): to look at
        the state would make the host wait for the GPU at every convolution.
        """
        stride = self.config.spatial_stride
        state = self.encoder_state(picture.shape[0], picture.shape[3] // stride, picture.shape[4] // stride)
        runs, latents = still_runs(self.config, num_latents), []
        outputs: dict[int, Tensor] = {}  # newest of each level
        for latent in range(num_latents):
            num_frames = self.latent_frames if latent else 1
            x = picture.expand(-1, -1, num_frames, -1, -1)
            for index, count in enumerate(runs):
                if latent < count:
                    outputs[index] = level(index, x, state)
                x = outputs[index]
            state.position += num_frames
            latents.append(self._normalised(x, state))
        return torch.cat(latents, dim=2)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode a whole video: latents [B,C,T',h,w] -> [B,3,1+4(T'-1),H,W], not clamped."""
        state = self.decoder_state(latents.shape[0], *latents.shape[3:])
        return torch.cat([self.decode_stream(c, state) for c in latents.split(_DECODE_CHUNK, dim=2)], dim=2)

    @torch.no_grad()
    def decode_stream(self, latents: Tensor, state: StreamState) -> Tensor:
        """Decode the next latents of a stream.

        Args:
            latents: [B,C,T',h,w], normalised; any T' >= 1.
            state: the stream, updated in place.

        Returns:
            [B,3,T,H,W], not clamped; the first latent of a stream is one frame, every other one four.
        """
        z = latents * self.std.to(latents.dtype) + self.mean.to(latents.dtype)
        frames = self.decoder(self.conv2(z, state), state)
        state.position += latents.shape[2]
        return frames

    def prime_decoder(self, latents: Tensor, state: StreamState) -> None:
        """Update `state` as `decode_stream` does."""
        self.decode_stream(latents, state)
