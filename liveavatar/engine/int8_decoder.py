"""Residual blocks of the compact decoder in 8-bit integers, for CPUs with VNNI (x86's products of bytes).

A convolution there takes half the time of bfloat16. Inputs are bytes with one step for all channels, weights have a
step for each output channel, sums are exact, and what goes around a block stays in floating point. Steps are fixed
before a stream begins, so frames do not depend on how many are decoded at once. The input of a block's first
convolution is a layer norm and needs no measuring; two other steps come from one decoding of random latents, which
are as large as real ones since latents are normalised. Larger values than ever measured are clipped.

Shapes as in `liveavatar.model.vae_compact`.
"""

import functools
import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveavatar import hardware
from liveavatar.checkpoints.load import LoadedModel
from liveavatar.engine.threads import computing_with
from liveavatar.model.vae_compact import CompactVAE, MemoryBlock
from liveavatar.timing import BLOCK_LATENTS

log = logging.getLogger(__name__)

NORM_RANGE = 8.0  # standard deviations that a byte holds; 64 channels cannot reach more
HEADROOM = 2.0  # of a step over what random latents need
_CELLS = 8  # a side of the random latents
_MIDDLE = 128  # zero of signed values
_FINENESS = 4  # steps are powers of 2 ** (1 / 4), so that sums in another order leave them


@dataclass(frozen=True, slots=True)
class Peaks:
    """Largest values inside a block."""

    mixed: float  # of the previous frame's share, either sign
    hidden: float  # after the ReLU


@dataclass(frozen=True, slots=True)
class _Bytes:
    """Meaning of bytes: value = step * (byte - zero)."""

    step: float
    zero: int

    @classmethod
    def signed(cls, peak: float) -> "_Bytes":
        return cls(peak / 127, _MIDDLE)

    @classmethod
    def positive(cls, peak: float) -> "_Bytes":
        return cls(peak / 255, 0)


class _ByteConv:
    """Convolution of bytes with stride 1 that keeps the size."""

    def __init__(self, weight_OIKK: Tensor, bias: Tensor | None, source: _Bytes) -> None:
        scales = weight_OIKK.abs().amax((1, 2, 3)).clamp_(min=1e-12) / 127
        weight = (weight_OIKK / scales.view(-1, 1, 1, 1)).round_().to(torch.int8)
        around = [weight.shape[-1] // 2] * 2
        packed = torch.ops.onednn.qconv_prepack(weight, scales, source.step, source.zero, [1, 1], around, [1, 1], 1)
        zeros = torch.zeros(len(weight), dtype=torch.int32)
        self._weights = source.step, source.zero, packed, scales, zeros
        self._bias, self._geometry = bias, ([1, 1], around, [1, 1], 1)

    def to_float(self, x_NCHW: Tensor, dtype: torch.dtype) -> Tensor:
        """Convolve to values."""
        return self._run(x_NCHW, 1.0, 0, dtype)

    def to_bytes(self, x_NCHW: Tensor, target: _Bytes) -> Tensor:
        """Convolve to bytes."""
        return self._run(x_NCHW, target.step, target.zero, torch.uint8)

    def add_to_bytes(self, x_NCHW: Tensor, other_NCHW: Tensor, other: _Bytes, target: _Bytes) -> Tensor:
        """Convolve, add other bytes and apply a ReLU; the result is written over `other_NCHW`."""
        torch.ops.onednn.qconv2d_pointwise.binary(
            x_NCHW, *self._weights, other_NCHW, self._bias, *self._geometry, target.step, target.zero, torch.uint8,
            other.step, other.zero, "sum", 1.0, "relu", [], "",
        )  # fmt: skip
        return other_NCHW

    def _run(self, x_NCHW: Tensor, step: float, zero: int, dtype: torch.dtype) -> Tensor:
        result: Tensor = torch.ops.onednn.qconv_pointwise(
            x_NCHW, *self._weights, self._bias, *self._geometry, step, zero, dtype, "none", [], ""
        )
        return result


class ByteBlock(nn.Module):
    """A `MemoryBlock` whose convolutions are of bytes; its memory has the values and the dtype of the other's."""

    def __init__(self, block: MemoryBlock, peaks: Peaks) -> None:
        super().__init__()
        self.width = block.width
        gain = block.gain.detach().float()
        normed = _Bytes.signed(NORM_RANGE)
        self._mixed, self._hidden = _Bytes.signed(peaks.mixed), _Bytes.positive(peaks.hidden)
        self._scale = torch.full((self.width,), 1 / normed.step)
        self._offset = torch.full((self.width,), _MIDDLE + 0.5)  # the half: conversion to bytes cuts digits off
        self._worth = gain * normed.step  # of a byte of memory
        conv1, mix = (_folded(conv, gain) for conv in (block.conv1, block.mix))
        self._conv1 = _ByteConv(conv1, _bias(block.conv1), normed)
        self._mix = _ByteConv(mix, None, normed)
        self._conv2 = _ByteConv(block.conv2.weight.detach().float(), _bias(block.conv2), self._hidden)

    def forward(self, x_NCHW: Tensor, batch: int, previous_BCHW: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the block's output and the features of the last frame, the memory of the next call."""
        frames_NHWC = x_NCHW.permute(0, 2, 3, 1)
        # The previous frame and the frames: both the shifted ones and these are a part of it.
        bytes_NHWC = torch.empty((batch + len(frames_NHWC), *frames_NHWC.shape[1:]), dtype=torch.uint8)
        levels_NHWC = F.layer_norm(frames_NHWC.float(), (self.width,), self._scale, self._offset, 1e-6)
        bytes_NHWC[batch:].copy_(levels_NHWC.clamp_(0, 255))
        if previous_BCHW is None:
            bytes_NHWC[:batch] = bytes_NHWC[batch : 2 * batch]
        else:
            bytes_NHWC[:batch] = self._remembered(previous_BCHW.permute(0, 2, 3, 1))
        bytes_NCHW = bytes_NHWC.permute(0, 3, 1, 2)
        mixed = self._mix.to_bytes(bytes_NCHW[:-batch], self._mixed)
        hidden = self._conv1.add_to_bytes(bytes_NCHW[batch:], mixed, self._mixed, self._hidden)
        memory = (bytes_NHWC[-batch:].float() - _MIDDLE) * self._worth
        y_NCHW = self._conv2.to_float(hidden, x_NCHW.dtype).add_(x_NCHW)
        return y_NCHW, memory.to(x_NCHW.dtype).permute(0, 3, 1, 2)

    def _remembered(self, memory_BHWC: Tensor) -> Tensor:
        """Convert a memory back to the very bytes it was made of: bfloat16 errs by a quarter of a step at most."""
        levels = memory_BHWC.float() / torch.where(self._worth == 0, 1.0, self._worth)
        return (levels + (_MIDDLE + 0.5)).clamp_(0, 255)


def _folded(conv: nn.Conv2d, gain: Tensor) -> Tensor:
    return conv.weight.detach().float() * gain.view(1, -1, 1, 1)


def _bias(conv: nn.Conv2d) -> Tensor | None:
    return None if conv.bias is None else conv.bias.detach().float()


@functools.cache
def bytes_are_right() -> bool:
    """Tell if this processor convolves bytes fast and this build of PyTorch gets the largest sums right.

    Without VNNI, sums of two products are cut at 16 bits. PyTorch may also be without oneDNN, or told to leave VNNI
    alone (ONEDNN_MAX_CPU_ISA).
    """
    if not hardware.uses_vnni():
        return False
    step = _Bytes(1.0, 0)
    x = torch.full((1, 64, 4, 4), 255, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    try:
        sums = _ByteConv(torch.full((64, 64, 1, 1), 127.0), None, step).to_float(x, torch.float32)
    except (RuntimeError, AttributeError, NotImplementedError) as e:
        log.info("no convolutions of bytes: %s", str(e).split("\n")[0])
        return False
    return bool((sums == 64 * 255 * 127).all())


def use_bytes(model: LoadedModel, dtype: str, device: torch.device) -> bool:
    """Replace the blocks of a model's decoder where that is right and fast; return whether they were.

    Args:
        model: just loaded; its decoder is changed.
        dtype: as the user asked for it; only "auto" allows bytes.
        device: of the model.
    """
    vae: Any = model.vae
    if dtype != "auto" or device.type != "cpu" or not isinstance(vae, CompactVAE) or not bytes_are_right():
        return False
    stages = [stage for stage in vae.decoder.children() if isinstance(stage, nn.ModuleList)]
    blocks = [block for stage in stages for block in stage if isinstance(block, MemoryBlock)]
    with computing_with(1):  # of small tensors more threads wait for one another
        peaks = measure(vae, blocks)
    if not all(math.isfinite(peak) for found in peaks for peak in (found.mixed, found.hidden)):
        log.info("the decoder stays in %s: its values have no bound", next(vae.parameters()).dtype)
        return False
    made = map(ByteBlock, blocks, peaks)
    for stage in stages:
        for at in range(len(stage)):
            stage[at] = next(made)
    log.info("the decoder's blocks are in 8-bit integers")
    return True


@torch.inference_mode()
def measure(vae: CompactVAE, blocks: list[MemoryBlock]) -> list[Peaks]:
    """Measure blocks while random latents are decoded: what a byte should hold, some headroom included."""
    mixed: list[list[float]] = [[] for _ in blocks]
    hidden: list[list[float]] = [[] for _ in blocks]
    handles = []
    for at, block in enumerate(blocks):

        def of_mix(module: nn.Module, args: Any, output: Tensor, at: int = at) -> None:
            mixed[at].append(float(output.abs().max()))

        def of_conv2(module: nn.Module, args: tuple[Tensor], at: int = at) -> None:
            hidden[at].append(float(args[0].max()))

        handles += [block.mix.register_forward_hook(of_mix), block.conv2.register_forward_pre_hook(of_conv2)]
    try:
        _decode_noise(vae)
    finally:
        for handle in handles:
            handle.remove()
    return [Peaks(_roomy(m), _roomy(h)) for m, h in zip(mixed, hidden, strict=True)]


def _decode_noise(vae: CompactVAE) -> None:
    """Decode random latents twice: the portrait of the second time is a picture of the first."""
    noise = torch.Generator().manual_seed(0)
    latents = torch.randn(1, vae.config.z_dim, BLOCK_LATENTS, _CELLS, _CELLS, generator=noise)
    picture = vae.decode(latents)[:, :, :1].clamp(-1, 1)
    state = vae.decoder_state(1, _CELLS, _CELLS)
    vae.set_reference(picture, latents[:, :, :1], state)
    vae.decode_stream(latents, state)


def _roomy(peaks: list[float]) -> float:
    if not all(map(math.isfinite, peaks)):
        return math.inf
    peak = max(peaks)
    return float(2 ** (math.ceil(math.log2(max(peak, 1e-3) * HEADROOM) * _FINENESS) / _FINENESS))
