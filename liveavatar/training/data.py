"""Rendered clips on the training device: loading, cropping, augmentation, region weights.

A rank keeps its share of the corpus as uint8 on its own device, so batches are index arithmetic and there is no
loader. The last frame of every clip is the reference photo: the same avatar at rest, in another pose.

Shapes: n clips, B batch, T frames, H/W pixels. Video is [B, 3, T, H, W] in [-1, 1].
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from liveavatar.errors import InputError
from liveavatar.training.corpus.clips import ClipFile, list_clips

MOUTH, EYES = 5.0, 3.0  # weight of a region against the rest of the picture
MOUTH_POINTS, RIGHT_EYE, LEFT_EYE = slice(48, 68), slice(36, 42), slice(42, 48)  # of the 68 landmarks
MOUTH_MARGIN, EYE_MARGIN = 0.2, 0.12  # of the distance between the eyes, around a region's landmarks
GAIN, GAMMA = 0.15, 0.25  # spread of the colour augmentation: gain per channel, log of the exponent


@dataclass(slots=True)
class Clips:
    """Clips of one orientation."""

    frames: Tensor  # uint8 [n, T+1, H, W, 3]; the last one is the reference photo
    landmarks: Tensor  # [n, T+1, 68, 2] pixels, x then y
    tracks: Tensor  # [n] index of the speech track
    blocks: Tensor  # [n] block of the track at which the clip starts
    captions: list[str]

    @property
    def num_frames(self) -> int:
        """Frames of a clip, the photo not counted."""
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
    at = 0
    for file in files:
        for start in range(0, len(file.frames), 16):  # a few clips at a time: the file is a memory map
            part = torch.tensor(file.frames[start : start + 16])
            frames[at : at + len(part)] = part.to(device)
            at += len(part)
    return Clips(
        frames,
        torch.cat([torch.as_tensor(f.landmarks, dtype=torch.float32) for f in files]).to(device),
        torch.cat([torch.as_tensor(f.tracks, dtype=torch.long) for f in files]).to(device),
        torch.cat([torch.as_tensor(f.blocks, dtype=torch.long) for f in files]).to(device),
        [caption for f in files for caption in f.captions],
    )


def to_video(frames_BTHWC: Tensor) -> Tensor:
    """uint8 [B, T, H, W, 3] -> [B, 3, T, H, W] in [-1, 1]."""
    return frames_BTHWC.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def region_weights(
    landmarks: Tensor, size: tuple[int, int], mouth: float = MOUTH, eyes: float = EYES, rest: float = 1.0
) -> Tensor:
    """Weight maps [..., H, W] from landmarks [..., 68, 2]: boxes around the mouth and the eyes."""
    height, width = size
    y = torch.arange(height, device=landmarks.device, dtype=torch.float32)[:, None]
    x = torch.arange(width, device=landmarks.device, dtype=torch.float32)[None]
    eye_distance = (landmarks[..., RIGHT_EYE, :].mean(-2) - landmarks[..., LEFT_EYE, :].mean(-2)).norm(dim=-1)
    weights = torch.full((*landmarks.shape[:-2], height, width), rest, device=landmarks.device)
    regions = ((RIGHT_EYE, EYE_MARGIN, eyes), (LEFT_EYE, EYE_MARGIN, eyes), (MOUTH_POINTS, MOUTH_MARGIN, mouth))
    for points, margin, value in regions:
        lo, hi = box(landmarks[..., points, :], margin * eye_distance)
        lo, hi = lo[..., None, None, :], hi[..., None, None, :]
        inside = (x >= lo[..., 0]) & (x <= hi[..., 0]) & (y >= lo[..., 1]) & (y <= hi[..., 1])
        weights = torch.where(inside, torch.clamp(weights, min=value), weights)
    return weights


def box(points: Tensor, margin: Tensor) -> tuple[Tensor, Tensor]:
    """Corners [..., 2] of the box around points [..., P, 2], widened by margin [...]."""
    return points.amin(-2) - margin[..., None], points.amax(-2) + margin[..., None]


def colour_jitter(video: Tensor, generator: torch.Generator) -> Tensor:
    """Another exposure and tint for every clip: a gain per channel and a gamma, constant over time."""
    batch = len(video)
    device = video.device
    gain = 1 + GAIN * (2 * torch.rand(batch, 3, 1, 1, 1, device=device, generator=generator) - 1)
    gamma = torch.exp(GAMMA * (2 * torch.rand(batch, 1, 1, 1, 1, device=device, generator=generator) - 1))
    return (((video + 1) / 2).clamp(1e-4, 1) ** gamma * gain).clamp(0, 1) * 2 - 1


class CropSampler:
    """Square crops of short clips with their weight maps, for the autoencoder.

    Convolutions do not know where they are, so crops train both orientations at once and with one shape. A crop
    nearly always holds the mouth; now and then the clip is the still photo, as the reference latent will be.
    """

    STILL = 0.08  # share of still clips

    def __init__(self, clips: list[Clips], num_frames: int, generator: torch.Generator) -> None:
        self.clips, self.num_frames, self.generator = clips, num_frames, generator
        self.side = min(clips[0].size)
        counts = torch.tensor([float(len(c.frames)) for c in clips])
        self.shares = counts / counts.sum()
        self.host = torch.Generator().manual_seed(generator.initial_seed())

    def sample(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Video [B, 3, T, S, S], weights [B, T, S, S], mouth centres [B, 2] in the crop, in pixels."""
        parts = [self._one() for _ in range(batch)]
        video = colour_jitter(to_video(torch.stack([p[0] for p in parts])), self.generator)
        weights = torch.stack([p[1] for p in parts])
        mouths = torch.stack([p[2] for p in parts])
        flip = torch.rand(batch, device=video.device, generator=self.generator) < 0.5
        video = torch.where(flip[:, None, None, None, None], video.flip(-1), video)
        weights = torch.where(flip[:, None, None, None], weights.flip(-1), weights)
        mouths[:, 0] = torch.where(flip, self.side - 1 - mouths[:, 0], mouths[:, 0])
        return video, weights, mouths

    def _integer(self, high: int) -> int:
        return int(torch.randint(max(1, high), (), generator=self.host))

    def _one(self) -> tuple[Tensor, Tensor, Tensor]:
        clips = self.clips[int(torch.multinomial(self.shares, 1, generator=self.host))]
        clip = self._integer(len(clips.frames))
        if float(torch.rand((), generator=self.host)) < self.STILL:
            times = torch.full((self.num_frames,), clips.num_frames)
        else:
            times = self._integer(clips.num_frames - self.num_frames + 1) + torch.arange(self.num_frames)
        landmarks = clips.landmarks[clip, times.to(clips.landmarks.device)]
        mouth = landmarks[0, MOUTH_POINTS].mean(0)
        height, width = clips.size
        keep = self.side // 5  # pixels that must stay around the mouth's centre
        top, left = (
            min(max(self._integer(extent - self.side + 1), round(at) + keep - self.side), round(at) - keep)
            for extent, at in ((height, float(mouth[1])), (width, float(mouth[0])))
        )
        top, left = max(0, min(top, height - self.side)), max(0, min(left, width - self.side))
        frames = clips.frames[clip, times.to(clips.frames.device), top : top + self.side, left : left + self.side]
        origin = torch.tensor([float(left), float(top)], device=landmarks.device)
        return frames, region_weights(landmarks - origin, (self.side, self.side)), mouth - origin
