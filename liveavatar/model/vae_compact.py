"""Compact causal video autoencoder for CPUs: 16x in space, 4x in time.

Plain 3x3 convolutions (the best floating-point rate a CPU gives) at 1/16, 1/8 and 1/4 of the picture; time is a
causal memory: each residual block also reads the previous frame's features of its own input. Four frames are
always one latent, the first four too, so a block is 3 latents = 12 frames everywhere. Before the first frame the
memory holds that frame itself: a stream starts as if the picture had been still before, so four copies of an image
encode to exactly the latent of a still video. The memory's reach is finite (2 latents + 5 frames in the decoder).
With `reference_width` the decoder copies detail from the portrait, see `vae_reference`.

Frames are stored *time-major* in the batch axis, index t*B + b: shifting by one frame is then one concatenation
that keeps the channels_last layout.

Shapes: B batch, T frames or latents, N = T*B, C channels, H/W pixels, h/w latent cells.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveavatar.config import VAEConfig
from liveavatar.errors import InputError
from liveavatar.model.stream_state import StreamState
from liveavatar.model.vae_reference import CopySource, ReferenceBranch, Warped
from liveavatar.timing import LATENT_FRAMES

PATCH = 4  # pixels a side folded into channels at the input and unfolded at the output


class _BlockConv(nn.Conv2d):
    """A convolution inside a residual block, which starts as the identity."""


class MemoryBlock(nn.Module):
    """Residual block with one frame of causal memory: x + conv(relu(conv(norm x) + mix(norm previous x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.gain = nn.Parameter(torch.ones(width))
        self.conv1 = _BlockConv(width, width, 3, padding=1)
        self.mix = _BlockConv(width, width, 1, bias=False)
        self.conv2 = _BlockConv(width, width, 3, padding=1)
        nn.init.zeros_(self.mix.weight)
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x_NCHW: Tensor, batch: int, previous_BCHW: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the block's output and the features of the last frame, the memory of the next call."""
        # In channels_last memory the permuted view is contiguous; on CPUs layer norm is 4x as fast as RMS norm.
        normed_NHWC = F.layer_norm(x_NCHW.permute(0, 2, 3, 1), (self.width,), self.gain.to(x_NCHW.dtype), None, 1e-6)
        normed = normed_NHWC.permute(0, 3, 1, 2)
        previous = normed[:batch] if previous_BCHW is None else previous_BCHW.to(normed.dtype)
        shifted = torch.cat([previous, normed[:-batch]], 0)
        h = self.conv1(normed).add_(self.mix(shifted)).relu_()
        return self.conv2(h).add_(x_NCHW), normed[-batch:]


def _merge_pairs(x_NCHW: Tensor, batch: int) -> Tensor:
    """Fold two frames each into channels: [T*B, C, h, w] -> [T/2*B, 2*C, h, w]."""
    x = x_NCHW.unflatten(0, (-1, 2, batch)).transpose(1, 2)
    return x.flatten(2, 3).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def _repeat_frame(x_BCHW: Tensor, batch: int) -> Tensor:
    """Fold two frames that are equal into channels: [B, C, h, w] -> [B, 2*C, h, w]."""
    assert len(x_BCHW) == batch
    return torch.cat((x_BCHW, x_BCHW), 1)


def _split_time(x_NCHW: Tensor, batch: int, frames: int) -> Tensor:
    """Unfold channels into frames: [T*B, frames*C, h, w] -> [T*frames*B, C, h, w]."""
    x = x_NCHW.unflatten(1, (frames, -1)).unflatten(0, (-1, batch)).transpose(1, 2)
    return x.flatten(0, 2).contiguous(memory_format=torch.channels_last)


class CompactEncoder(nn.Module):
    """Encoder network: 1/4 size at frame rate, 1/8 at half of it, 1/16 at a quarter of it."""

    def __init__(self, cfg: VAEConfig) -> None:
        super().__init__()
        a, b, c = cfg.encoder_widths
        n = cfg.num_res_blocks
        self.conv_in = nn.Conv2d(3 * PATCH**2, a, 3, padding=1)
        self.stage4 = nn.ModuleList(MemoryBlock(a) for _ in range(n))
        self.down8 = nn.Conv2d(8 * a, b, 1)
        self.stage8 = nn.ModuleList(MemoryBlock(b) for _ in range(n))
        self.down16 = nn.Conv2d(8 * b, c, 1)
        self.stage16 = nn.ModuleList(MemoryBlock(c) for _ in range(n))
        self.conv_out = nn.Conv2d(c, cfg.z_dim, 3, padding=1)
        self.memory_shapes = [(a, 4)] * n + [(b, 8)] * n + [(c, 16)] * n  # (channels, pixels per cell)

    def forward(self, video_NCHW: Tensor, batch: int, memory: list[Tensor | None]) -> Tensor:
        """Encode [T*B, 3, H, W] to [T/4*B, C, h, w]; `memory` is replaced entry by entry."""
        return self._encode(video_NCHW, batch, memory, _merge_pairs)

    def still(self, picture_B3HW: Tensor) -> Tensor:
        """Encode still videos of pictures to [B, C, h, w]: as `forward`, but a frame a stage, as all are equal."""
        memory: list[Tensor | None] = [None] * len(self.memory_shapes)
        return self._encode(picture_B3HW, len(picture_B3HW), memory, _repeat_frame)

    def _encode(
        self, x_NCHW: Tensor, batch: int, memory: list[Tensor | None], merge: Callable[[Tensor, int], Tensor]
    ) -> Tensor:
        x, at = self.conv_in(F.pixel_unshuffle(x_NCHW, PATCH)), 0
        x, at = _run(self.stage4, x, batch, memory, at)
        x = self.down8(merge(F.pixel_unshuffle(x, 2), batch))
        x, at = _run(self.stage8, x, batch, memory, at)
        x = self.down16(merge(F.pixel_unshuffle(x, 2), batch))
        x, at = _run(self.stage16, x, batch, memory, at)
        return self.conv_out(x)


class CompactDecoder(nn.Module):
    """Decoder network: memory at latent rate, then all layers at frame rate, 1/16 to 1/4 of the picture."""

    def __init__(self, cfg: VAEConfig) -> None:
        super().__init__()
        c, b, a = cfg.decoder_widths
        n16, n8, n4 = cfg.decoder_blocks or (cfg.num_res_blocks,) * 3
        self.conv_in = nn.Conv2d(cfg.z_dim, c, 3, padding=1)
        self.latent16 = nn.ModuleList(MemoryBlock(c) for _ in range(n16))
        self.grow = nn.Conv2d(c, LATENT_FRAMES * c, 1)
        self.stage16 = nn.ModuleList([MemoryBlock(c)])
        self.up8 = nn.Conv2d(c, 4 * b, 1)
        self.stage8 = nn.ModuleList(MemoryBlock(b) for _ in range(n8))
        self.up4 = nn.Conv2d(b, 4 * a, 1)
        self.stage4 = nn.ModuleList(MemoryBlock(a) for _ in range(n4))
        self.conv_out = nn.Conv2d(a, 3 * PATCH**2, 3, padding=1)
        self.memory_shapes = [(c, 16)] * (n16 + 1) + [(b, 8)] * n8 + [(a, 4)] * n4
        self.branch = ReferenceBranch(cfg.decoder_widths, cfg.reference_width) if cfg.reference_width else None

    def forward(
        self, latents_NCHW: Tensor, batch: int, memory: list[Tensor | None], reference: CopySource | None = None
    ) -> Tensor:
        """Decode [T*B, C, h, w] to [T*4*B, 3, H, W]; `memory` is replaced entry by entry."""
        return self.copying(latents_NCHW, batch, memory, reference)[0]

    def copying(
        self, latents_NCHW: Tensor, batch: int, memory: list[Tensor | None], reference: CopySource | None
    ) -> tuple[Tensor, Warped | None]:
        """Decode as `forward` does; also return what was copied from, None without a branch or a reference."""
        x16, x8, at = self._coarse(latents_NCHW, batch, memory, _run)
        x = F.pixel_shuffle(self.up4(x8), 2)
        if self.branch is None or reference is None:
            x, at = _run(self.stage4, x, batch, memory, at)
            return F.pixel_shuffle(self.conv_out(x), PATCH), None
        warped = self.branch.warp(x16, x8, reference, batch)
        x, at = _run(self.stage4, self.branch.join(x, warped), batch, memory, at)
        patches, warped = self.branch.mix(x, self.conv_out(x), warped)
        return F.pixel_shuffle(patches, PATCH), warped

    def prime(
        self, latents_NCHW: Tensor, batch: int, memory: list[Tensor | None], reference: CopySource | None = None
    ) -> None:
        """Update `memory` as `forward` does, computing only frames that reach it: one fewer with every block."""
        x16, x8, at = self._coarse(latents_NCHW, batch, memory, _run_reaching)
        x = F.pixel_shuffle(self.up4(x8), 2)
        if self.branch is not None and reference is not None:
            x = self.branch.join(x, self.branch.warp(x16[-len(x8) :], x8, reference, batch))
        _run_reaching(self.stage4, x, batch, memory, at)

    def look_at(self, picture_B3HW: Tensor, latent_BChw: Tensor) -> CopySource | None:
        """Make the reference of streams from their portraits and the latents of these; None without a branch."""
        if self.branch is None:
            return None
        batch, last = len(picture_B3HW), 1  # only the last frame's features count
        memory: list[Tensor | None] = [None] * (len(self.memory_shapes) - len(self.stage4) + last)
        x16, x8, _ = self._coarse(latent_BChw, batch, memory, _run_reaching)
        return self.branch.reference(picture_B3HW, x16[-batch:], x8)

    def _coarse(
        self, latents_NCHW: Tensor, batch: int, memory: list[Tensor | None], run: "RunStage"
    ) -> tuple[Tensor, Tensor, int]:
        """Compute the features at 1/16 and 1/8, and the place in `memory` that follows theirs."""
        x, at = _run(self.latent16, self.conv_in(latents_NCHW), batch, memory, 0)
        x16, at = run(self.stage16, _split_time(self.grow(x), batch, LATENT_FRAMES), batch, memory, at)
        x8, at = run(self.stage8, F.pixel_shuffle(self.up8(x16), 2), batch, memory, at)
        return x16, x8, at


RunStage = Callable[[nn.ModuleList, Tensor, int, list[Tensor | None], int], tuple[Tensor, int]]


def _run(stage: nn.ModuleList, x_NCHW: Tensor, batch: int, memory: list[Tensor | None], at: int) -> tuple[Tensor, int]:
    for block in stage:
        x_NCHW, memory[at] = block(x_NCHW, batch, memory[at])
        at += 1
    return x_NCHW, at


def _run_reaching(
    stage: nn.ModuleList, x_NCHW: Tensor, batch: int, memory: list[Tensor | None], at: int
) -> tuple[Tensor, int]:
    """Run a stage on the last frames only, those that reach the memory of later blocks."""
    for block in stage:
        # The first retained frame lacks its own past; its output is dropped before the next block.
        x_NCHW, memory[at] = block(x_NCHW[-(len(memory) - at) * batch :], batch, memory[at])
        at += 1
    return x_NCHW[-(len(memory) - at) * batch :], at


class UnsharpMask(nn.Module):
    """Unsharp mask of frames [N, 3, H, W] (binomial blur, 3 taps a side), in float32."""

    kernel: Tensor

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount
        # Written out: a product on the device "meta" imports PyTorch's compiler, which takes seconds.
        kernel = (0.0625, 0.125, 0.0625), (0.125, 0.25, 0.125), (0.0625, 0.125, 0.0625)
        self.register_buffer("kernel", torch.tensor(((kernel,),) * 3), persistent=False)

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        """Sharpen frames; on a CPU one by one, which then stay in its cache."""
        if frames_NCHW.is_cuda:
            frames = frames_NCHW.float().contiguous()
            return self._sharper(frames, self.blur_by_convolution(frames))
        singles = (frame.float().contiguous() for frame in frames_NCHW.split(1))
        return torch.cat([self._sharper(frame, blur_by_sums(frame)) for frame in singles])

    def _sharper(self, frames: Tensor, blurred: Tensor) -> Tensor:
        return torch.lerp(blurred, frames, 1 + self.amount)

    def blur_by_convolution(self, frames_NCHW: Tensor) -> Tensor:
        """Blur frames in two kernels of a GPU."""
        return F.conv2d(F.pad(frames_NCHW, (1, 1, 1, 1), mode="replicate"), self.kernel.float(), groups=3)


def blur_by_sums(frames_NCHW: Tensor) -> Tensor:
    """Blur frames as sums of shifted ones: on a CPU in a fifth of the time of a convolution with three channels."""
    for dim in (-1, -2):
        count = frames_NCHW.shape[dim]
        ends = frames_NCHW.narrow(dim, 0, 1), frames_NCHW.narrow(dim, count - 1, 1)
        padded = torch.cat((ends[0], frames_NCHW, ends[1]), dim)
        shifted = padded.narrow(dim, 0, count) + padded.narrow(dim, 2, count)
        frames_NCHW = shifted.add_(frames_NCHW, alpha=2).mul_(0.25)
    return frames_NCHW


class CompactVAE(nn.Module):
    """Causal autoencoder of kind "compact"; see `liveavatar.model.vae.VideoVAE` for the protocol."""

    mean: Tensor
    std: Tensor

    def __init__(self, cfg: VAEConfig) -> None:
        super().__init__()
        self.config = cfg
        self.encoder = CompactEncoder(cfg)
        self.decoder = CompactDecoder(cfg)
        self.sharpen = UnsharpMask(cfg.output_sharpen) if cfg.output_sharpen else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not isinstance(module, _BlockConv):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")  # latents of about unit scale at once
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            # Start near grey, else the latents shrink to hide the decoder's noise.
            self.decoder.conv_out.weight.mul_(0.1)
        if self.decoder.branch is not None:
            self.decoder.branch.start_neutral()
        self.register_buffer("mean", torch.tensor(cfg.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(cfg.std).view(1, -1, 1, 1), persistent=False)

    def encode(self, video: Tensor) -> Tensor:
        """Encode [B, 3, T, H, W] in [-1, 1] to normalised latents [B, C, T/4, H/16, W/16].

        Raises:
            InputError: when T is no multiple of 4 or a side is no multiple of 16.
        """
        return self.encode_stream(video, self.encoder_state(len(video), *self._latent_size(video.shape[2:])))

    def encode_still(self, picture: Tensor, num_latents: int) -> Tensor:
        """Encode a still video of one picture [B, 3, 1, H, W]; its latents are all equal."""
        height, width = picture.shape[-2:]
        self._latent_size((LATENT_FRAMES, height, width))
        latent = self._normalised(self.encoder.still(_to_flat(picture, self.encoder.conv_in.weight.dtype)))
        return latent[:, :, None].expand(-1, -1, num_latents, -1, -1)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents [B, C, T, h, w] to video [B, 3, 4T, 16h, 16w], not clamped."""
        return self.decode_stream(latents, self.decoder_state(len(latents), *latents.shape[-2:]))

    def decode_copying(self, latents: Tensor, reference: CopySource | None) -> tuple[Tensor, Warped | None]:
        """Decode as `decode` does, but copy from a reference; also return the reference as warped."""
        memory: list[Tensor | None] = [None] * len(self.decoder.memory_shapes)
        video, warped = self.decoder.copying(self._decoder_input(latents), len(latents), memory, reference)
        return self._video(video, len(latents)), warped

    def reference(self, picture: Tensor, latent: Tensor) -> CopySource | None:
        """Make a reference of pictures [B, 3, 1, H, W] and their latents [B, C, 1, h, w]; None without a branch."""
        return self.decoder.look_at(picture[:, :, 0], self._decoder_input(latent))

    def set_reference(self, picture: Tensor, latent: Tensor, state: StreamState) -> None:
        """Set the portrait of a stream, see `liveavatar.model.vae.VideoVAE`."""
        reference = self.reference(picture, latent)
        state.constants = {} if reference is None else reference.tensors()

    def encoder_state(self, batch: int, h: int, w: int) -> StreamState:
        """Create an empty encoder state for `batch` streams of h*w latent cells."""
        return StreamState(batch, h, w)

    def decoder_state(self, batch: int, h: int, w: int) -> StreamState:
        """Create an empty decoder state for `batch` streams of h*w latent cells."""
        return StreamState(batch, h, w)

    def encode_stream(self, video: Tensor, state: StreamState) -> Tensor:
        """Encode the next frames of a stream (a multiple of 4); updates `state` in place."""
        self._latent_size(video.shape[2:])
        x = _to_flat(video, self.encoder.conv_in.weight.dtype)
        memory = self._recall(self.encoder.memory_shapes, state, x)
        z = self._normalised(self.encoder(x, state.batch, memory))
        _remember(memory, state, video.shape[2])
        return z.unflatten(0, (-1, state.batch)).permute(1, 2, 0, 3, 4)

    def decode_stream(self, latents: Tensor, state: StreamState) -> Tensor:
        """Decode the next latents of a stream into 4 frames each; updates `state` in place."""
        z = self._decoder_input(latents)
        memory = self._recall(self.decoder.memory_shapes, state, z)
        video = self.decoder(z, state.batch, memory, _reference_of(state))
        _remember(memory, state, latents.shape[2])
        return self._video(video, state.batch)

    def prime_decoder(self, latents: Tensor, state: StreamState) -> None:
        """Update `state` as `decode_stream` does, for a quarter of its work (three latents)."""
        z = self._decoder_input(latents)
        memory = self._recall(self.decoder.memory_shapes, state, z)
        self.decoder.prime(z, state.batch, memory, _reference_of(state))
        _remember(memory, state, latents.shape[2])

    def _video(self, frames_NCHW: Tensor, batch: int) -> Tensor:
        """Sharpen decoded frames and arrange them as a video [B, 3, T, H, W]."""
        if self.sharpen is not None:
            frames_NCHW = self.sharpen(frames_NCHW)
        return frames_NCHW.unflatten(0, (-1, batch)).permute(1, 2, 0, 3, 4)

    def _decoder_input(self, latents: Tensor) -> Tensor:
        z = _to_flat(latents, self.decoder.conv_in.weight.dtype)
        return z * self.std.to(z.dtype) + self.mean.to(z.dtype)

    def _normalised(self, z_NChw: Tensor) -> Tensor:
        return (z_NChw - self.mean.to(z_NChw.dtype)) / self.std.to(z_NChw.dtype)

    def _latent_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Return height and width of the latents of videos of `size` (frames, height, width)."""
        num_frames, height, width = size
        stride = self.config.spatial_stride
        if num_frames % LATENT_FRAMES or height % stride or width % stride:
            raise InputError(
                f"a video of {num_frames} frames of {width}x{height} cannot be encoded: frames must be a multiple of "
                f"{LATENT_FRAMES} and sides of {stride}; pad or crop it first"
            )
        return height // stride, width // stride

    def _recall(self, shapes: list[tuple[int, int]], state: StreamState, like: Tensor) -> list[Tensor | None]:
        if state.position == 0:
            return [None] * len(shapes)
        stride = self.config.spatial_stride
        return [
            state.history(f"memory.{i}", (state.batch, c, state.h * stride // cell, state.w * stride // cell), like)
            for i, (c, cell) in enumerate(shapes)
        ]


def _reference_of(state: StreamState) -> CopySource | None:
    return CopySource(**state.constants) if state.constants else None


def _remember(memory: list[Tensor | None], state: StreamState, consumed: int) -> None:
    for i, features in enumerate(memory):
        assert features is not None
        state.keep(f"memory.{i}", features.detach())
    state.position += consumed


def _to_flat(x_BCTHW: Tensor, dtype: torch.dtype) -> Tensor:
    """Flatten [B, C, T, H, W] to time-major [T*B, C, H, W], channels_last."""
    x = x_BCTHW.permute(2, 0, 1, 3, 4).flatten(0, 1).to(dtype)
    return x.contiguous(memory_format=torch.channels_last)
