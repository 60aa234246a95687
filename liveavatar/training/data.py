"""Rendered clips on the training device: loading, cropping, augmentation, region weights.

A rank keeps its share of the corpus as uint8 on its own device, so batches are index arithmetic and there is no
loader. The last frame of every clip is the reference photo: the same avatar at rest, in another pose. Its other photo
has the same pose in another light; the caption of that photo names the clip's light and place.

Shapes: n clips, B batch, T frames, H/W pixels. Video is [B, 3, T, H, W] in [-1, 1].
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from liveavatar.errors import InputError
from liveavatar.quality.reference import MOUTH_POINTS, region_weights, to_video
from liveavatar.training.corpus.layout import ClipFile, list_clips

GAIN, GAMMA = 0.15, 0.25  # spread of the colour augmentation: gain per channel, log of the exponent
SHIFT_REACH = 3  # largest shift of the second crop of a clip, pixels
CELL = 16  # pixels a side of one latent cell
# Spread of the bend: pixels between knots, deviation at a knot (pixels), size, aspect ratio, radians, pixels.
KNOT, BEND, SIZE, ASPECT, TILT, SHIFT = 64, 2.5, 0.05, 0.04, 0.05, 5.0


@dataclass(frozen=True, slots=True)
class Crop:
    """Square crop of one clip."""

    frames: Tensor  # uint8 [T, S, S, 3]
    weights: Tensor  # [T, S, S]
    mouth: tuple[float, float]  # centre, x and y in pixels of the crop


@dataclass(frozen=True, slots=True)
class CropBatch:
    """Batch of square crops."""

    video: Tensor  # [B, 3, T, S, S]
    weights: Tensor  # [B, T, S, S]
    mouths: list[tuple[float, float]]  # centres, x and y in pixels of the crops


@dataclass(frozen=True, slots=True)
class ShiftedCrops:
    """Batch of crops and of shifted crops of the same clips."""

    video: Tensor  # [B, 3, T, S, S]
    moved: Tensor  # [B/2, 3, T, S, S] the first half of the batch, shifted by a few pixels
    weights: Tensor  # [B, T, S, S], mean 1
    mouths: list[tuple[float, float]]  # centres, x and y in pixels


def two_crops(video: Tensor, host: torch.Generator) -> tuple[Tensor, Tensor]:
    """Crop a video twice, smaller by one latent cell, the second time shifted by up to `SHIFT_REACH` pixels."""
    side = video.shape[-1] - CELL
    down, right = (int(n) for n in torch.randint(SHIFT_REACH + 1, (2,), generator=host))
    return video[..., :side, :side], video[..., down : down + side, right : right + side]


@dataclass(slots=True)
class Clips:
    """Clips of one orientation."""

    frames: Tensor  # uint8 [n, T+1, H, W, 3]; the last one is the reference photo
    landmarks: Tensor  # [n, T+1, 68, 2] pixels, x then y
    head: Tensor  # [n, T+1, 3] yaw, pitch, roll, radians
    eyes: Tensor  # [n, T+1, 3] eye tracks, see `liveavatar.pose.blinks`
    tracks: Tensor  # [n] index of the speech track
    blocks: Tensor  # [n] block of the track at which the clip starts
    captions: list[str]
    others: Tensor  # uint8 [n, H, W, 3] the other photos; the reference photos where there are none
    other_captions: list[str]

    def first(self, count: int, num_frames: int) -> "Clips":
        """Copy the first clips, cut to their first frames; the photos remain."""
        most = min(num_frames, self.num_frames)
        part, times = slice(0, count), [*range(most), -1]
        return Clips(
            self.frames[part, times], self.landmarks[part, times], self.head[part, times], self.eyes[part, times],
            self.tracks[part], self.blocks[part], self.captions[part], self.others[part], self.other_captions[part],
        )  # fmt: skip

    @property
    def num_frames(self) -> int:
        """Number of frames of a clip, without the photo."""
        return self.frames.shape[1] - 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.frames.shape[2], self.frames.shape[3]


def load_clips(folder: Path, split: str, device: torch.device, rank: int = 0, world: int = 1) -> list[Clips]:
    """Load a rank's share of a split ("train" or "eval"), one `Clips` per orientation that occurs.

    Raises:
        InputError: when there is nothing to load.
    """
    files = list_clips(folder, split)
    by_size: dict[tuple[int, ...], list[ClipFile]] = {}
    for file in files[rank::world] or files[:1]:
        by_size.setdefault(tuple(file.frames.shape[1:]), []).append(file)
    if not by_size:
        raise InputError(
            f"{folder} holds no {split} clips; render some with `python -m liveavatar.training.corpus.clips`"
        )
    return [_join(group, device) for _, group in sorted(by_size.items())]


def _join(files: list[ClipFile], device: torch.device) -> Clips:
    total = sum(len(f.frames) for f in files)
    frames = torch.empty((total, *files[0].frames.shape[1:]), dtype=torch.uint8, device=device)
    others = torch.empty((total, *files[0].others.shape[1:]), dtype=torch.uint8, device=device)
    at = 0
    for file in files:
        for start in range(0, len(file.frames), 16):  # a few clips at a time: the file is a memory map
            part = torch.tensor(file.frames[start : start + 16])
            frames[at : at + len(part)] = part.to(device)
            others[at : at + len(part)] = torch.tensor(file.others[start : start + 16]).to(device)
            at += len(part)
    return Clips(
        frames,
        torch.cat([torch.as_tensor(f.landmarks, dtype=torch.float32) for f in files]).to(device),
        torch.cat([torch.as_tensor(f.head, dtype=torch.float32) for f in files]).to(device),
        torch.cat([torch.as_tensor(f.eyes, dtype=torch.float32) for f in files]).to(device),
        torch.cat([torch.as_tensor(f.tracks, dtype=torch.long) for f in files]).to(device),
        torch.cat([torch.as_tensor(f.blocks, dtype=torch.long) for f in files]).to(device),
        [caption for f in files for caption in f.captions],
        others,
        [caption for f in files for caption in f.other_captions],
    )


def colour_jitter(video: Tensor, generator: torch.Generator) -> Tensor:
    """Change exposure and tint of every clip: a gain per channel and a gamma, constant over time."""
    batch = len(video)
    device = video.device
    gain = 1 + GAIN * (2 * torch.rand(batch, 3, 1, 1, 1, device=device, generator=generator) - 1)
    gamma = torch.exp(GAMMA * (2 * torch.rand(batch, 1, 1, 1, 1, device=device, generator=generator) - 1))
    return (((video + 1) / 2).clamp(1e-4, 1) ** gamma * gain).clamp(0, 1) * 2 - 1


def bend(video: Tensor, maps: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Change proportions and framing of every clip by a smooth distortion, constant over time.

    Detected eyes, by which photographs are framed, are a few pixels off, and real heads differ from a morphable model.

    Args:
        video: [B, 3, T, H, W].
        maps: [B, T, H, W], distorted in the same way.
        generator: of the distortions, on the video's device.
    """
    batch, _, _, height, width = video.shape
    device = video.device
    u = 2 * torch.rand(5, batch, device=device, generator=generator) - 1
    size, tilt, aspect = 1 + SIZE * u[0], TILT * u[1], 1 + ASPECT * u[2]
    ratio = height / width  # coordinates run from -1 to 1 along either side
    theta = torch.stack(
        [
            torch.stack([size * tilt.cos() * aspect, -size * tilt.sin() * ratio, 2 * SHIFT / width * u[3]], -1),
            torch.stack([size * tilt.sin() / ratio, size * tilt.cos() / aspect, 2 * SHIFT / height * u[4]], -1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [batch, 1, height, width], align_corners=False)
    knots = torch.randn(batch, 2, height // KNOT + 1, width // KNOT + 1, device=device, generator=generator)
    offsets = BEND * F.interpolate(knots, (height, width), mode="bicubic", align_corners=True)
    grid = grid + offsets.permute(0, 2, 3, 1) * (2 / torch.tensor([width, height], device=device))
    bent = F.grid_sample(video.flatten(1, 2), grid, "bicubic", "reflection", align_corners=False).clamp(-1, 1)
    return bent.view(video.shape), F.grid_sample(maps, grid, "bilinear", "border", align_corners=False)


class CropSampler:
    """Sampler of square crops of short clips with their weight maps, for the autoencoder.

    Convolutions are translation invariant, so crops of one shape train both orientations at once. A crop nearly always
    contains the mouth; a share `STILL` of the clips is the still photo, like the video of a reference latent.
    """

    STILL = 0.08  # share of still clips

    def __init__(self, clips: list[Clips], num_frames: int, generator: torch.Generator) -> None:
        self.clips, self.num_frames, self.generator = clips, num_frames, generator
        self.side = min(clips[0].size)
        counts = torch.tensor([float(len(c.frames)) for c in clips])
        self.shares = counts / counts.sum()
        self.host = torch.Generator().manual_seed(generator.initial_seed())
        self.mouths = [c.landmarks[:, :, MOUTH_POINTS].mean(2).cpu() for c in clips]

    def sample(self, batch: int) -> CropBatch:
        """Draw a batch of crops, with colour jitter."""
        crops = [self._one() for _ in range(batch)]
        video = colour_jitter(to_video(torch.stack([crop.frames for crop in crops])), self.generator)
        return CropBatch(video, torch.stack([crop.weights for crop in crops]), [crop.mouth for crop in crops])

    def _integer(self, high: int) -> int:
        return int(torch.randint(max(1, high), (), generator=self.host))

    def _chance(self, share: float) -> bool:
        return float(torch.rand((), generator=self.host)) < share

    def _one(self) -> Crop:
        # All choices are drawn on the CPU: reading one back from the GPU would wait for the training step before.
        which = int(torch.multinomial(self.shares, 1, generator=self.host))
        clips = self.clips[which]
        clip = self._integer(len(clips.frames))
        start = self._integer(clips.num_frames - self.num_frames + 1)
        times = slice(start, start + self.num_frames)
        if self._chance(self.STILL):
            start, times = clips.num_frames, slice(clips.num_frames, clips.num_frames + 1)
        x, y = self.mouths[which][clip, start].tolist()
        height, width = clips.size
        top, left = self._offset(height, y), self._offset(width, x)
        window = (slice(top, top + self.side), slice(left, left + self.side))
        frames = clips.frames[clip, times][:, *window].expand(self.num_frames, -1, -1, -1)
        origin = torch.tensor([left, top], dtype=torch.float32).to(frames.device, non_blocking=True)
        landmarks = (clips.landmarks[clip, times] - origin).expand(self.num_frames, -1, -1)
        weights = region_weights(landmarks, (self.side, self.side))
        if self._chance(0.5):
            return Crop(frames.flip(-2), weights.flip(-1), (self.side - 1 - x + left, y - top))
        return Crop(frames, weights, (x - left, y - top))

    def _offset(self, extent: int, mouth: float) -> int:
        """Draw an offset of the crop with the mouth well inside."""
        keep = self.side // 5
        offset = self._integer(extent - self.side + 1)
        offset = min(max(offset, round(mouth) + keep - self.side), round(mouth) - keep)
        return max(0, min(offset, extent - self.side))
