"""Pairs of a short video and a picture of the same person, for the decoder that copies from the portrait.

Three kinds. A *clip pair* is a stretch of a rendered clip and its photo, its other photo (another light and backdrop)
or another frame of it; the 68 landmarks of both tell where points of a frame lie in the picture. A *still pair* needs
one picture only: the video is the picture under a smooth distortion that moves, so where its points come from is known
exactly, and natural pictures teach texture without any video. Half of them get a random grain, which no latent holds.
A *drawn pair* is a stretch of a clip and its photo, with latents that the transformer drew of the clip (`drawn`); crops
then begin at whole latent cells, and colours stay as they are.

The photo's lips are shut, and a decoder that copies them shuts mouths that are open by a little. A share of the pairs
of both kinds is therefore cut where the mouth is.

Shapes: B batch, T frames, S side of a crop, P = 68 points. Video is [B, 3, T, S, S] in [-1, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from liveavatar.quality.reference import openness, region_weights, to_video
from liveavatar.timing import LATENT_FRAMES
from liveavatar.training.data import CELL, Clips, colour_jitter

POINTS = 68
OTHER_SHARE, FRAME_SHARE = 0.25, 0.35  # of clip pairs: the other photo, another frame; the rest has the photo
REFERENCE_SHIFT = 12  # largest shift of a reference's crop against its clip's, pixels
RECOLOURED = 0.3  # share of references in other colours
MOUTH, EYES = 8.0, 5.0  # weight of a region against the rest of the picture
# Mean gap of the lips, eye distances, of a mouth that is open by a little; share of clip and drawn pairs that show one.
PARTED, PARTED_SHARE = (0.03, 0.08), 0.3
# Largest distortion of a still pair: size, radians, pixels, deviation at a knot (pixels), pixels between knots.
SIZE, TILT, SHIFT, BEND, KNOT = 0.1, 0.12, 12.0, 3.0, 48
GRAIN, LARGEST_GRAIN = 0.15, 4  # largest strength of a still pair's grain, of a range of 2; its largest cell, pixels


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Batch of videos, pictures of the same people, and points found in both."""

    video: Tensor  # [B, 3, T, S, S]
    reference: Tensor  # [B, 3, 1, S, S]
    weights: Tensor  # [B, T, S, S], mean 1
    points: Tensor  # [B, T, P, 2] in the frames, x and y, pixels
    targets: Tensor  # [B, T, P, 2] where they lie in the reference
    same_light: Tensor  # [B] 1 where colours of video and picture agree, else 0
    drawn: Tensor  # bool [B]: the transformer drew the latents
    latents: Tensor | None  # [B, C, T/4, S/16, S/16] those latents, zeros elsewhere; None: no pair has any


def load_stills(folder: Path, side: int, device: torch.device) -> list[Tensor]:
    """Load the pictures of a folder, uint8 [H, W, 3], their short side one to two crops long."""
    stills = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg")):
        picture = Image.open(path).convert("RGB")
        short = min(picture.size)
        scale = min(max(short, side), 2 * side) / short
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
        )
        stills.append(torch.from_numpy(np.array(picture)).to(device))
    return stills


class PairSampler:
    """Sampler of pairs with weight maps; all choices are drawn on the CPU."""

    def __init__(
        self,
        clips: list[Clips],
        stills: list[Tensor],
        num_frames: int,
        still_share: float,
        generator: torch.Generator,
        drawn: Sequence[Tensor] = (),
        drawn_share: float = 0.0,
    ) -> None:
        """Draw from clips and, for half of the still pairs if there are any, from `stills`.

        Args:
            clips: of every orientation.
            stills: pictures of `load_stills`.
            num_frames: of a video, whole latents.
            still_share: of the pairs.
            generator: on the device of the clips.
            drawn: latents of the clips [n, 2, C, T, h, w], plain and mirrored, one tensor an orientation.
            drawn_share: of the pairs; without `drawn` there are none.
        """
        self.clips, self.stills, self.num_frames, self.still_share = clips, stills, num_frames, still_share
        self.drawn, self.drawn_share = drawn, drawn_share if drawn else 0.0
        self.generator = generator
        self.side = min(clips[0].size) // CELL * CELL
        counts = torch.tensor([float(len(c.frames)) for c in clips])
        self.shares = counts / counts.sum()
        self.host = torch.Generator().manual_seed(generator.initial_seed())
        self.parted = [parted_starts(c.landmarks, num_frames) for c in clips]

    def sample(self, batch: int) -> PairBatch:
        """Draw a batch of pairs: clip pairs, then drawn pairs, then still pairs."""
        kinds = torch.rand(batch, generator=self.host)
        num_stills = int((kinds < self.still_share).sum())
        num_drawn = int((kinds >= 1 - self.drawn_share).sum())
        parts = [self._clip_pair() for _ in range(batch - num_stills - num_drawn)]
        pairs = [self._drawn_pair() for _ in range(num_drawn)]
        first, parts = len(parts), [*parts, *(p[:-1] for p in pairs), *(self._still_pair() for _ in range(num_stills))]
        video, reference, weights, points, targets, same = (torch.stack(x) for x in zip(*parts, strict=True))
        drawn = torch.zeros(batch, dtype=torch.bool)
        drawn[first : first + num_drawn] = True
        drawn = drawn.to(video.device)
        plain = drawn[:, None, None, None, None]
        both = torch.cat((video, reference), 2)
        both = torch.where(plain, both, colour_jitter(both, self.generator))
        video, reference = both[:, :, : self.num_frames], both[:, :, self.num_frames :]
        recolour = (torch.rand(batch, generator=self.host) < RECOLOURED).to(video.device) & ~drawn
        other = colour_jitter(reference, self.generator)
        reference = torch.where(recolour[:, None, None, None, None], other, reference)
        same = same * (~recolour).float()
        return PairBatch(
            video, reference, weights / weights.mean(), points, targets, same, drawn, self._latents(pairs, first, batch)
        )

    def _latents(self, pairs: list[tuple[Tensor, ...]], first: int, batch: int) -> Tensor | None:
        if not self.drawn:
            return None
        cells, channels = self.side // CELL, self.drawn[0].shape[2]
        shape = (batch, channels, self.num_frames // LATENT_FRAMES, cells, cells)
        latents = torch.zeros(shape, device=self.drawn[0].device)
        if pairs:
            latents[first : first + len(pairs)] = torch.stack([p[-1] for p in pairs]).float()
        return latents

    def _integer(self, high: int) -> int:
        return int(torch.randint(max(1, high), (), generator=self.host))

    def _chance(self, share: float) -> bool:
        return float(torch.rand((), generator=self.host)) < share

    def _crop(self, size: tuple[int, int]) -> tuple[int, int]:
        return self._integer(size[0] - self.side + 1), self._integer(size[1] - self.side + 1)

    def _any_kind(self) -> int:
        """Draw an orientation, by its number of clips."""
        return int(torch.multinomial(self.shares, 1, generator=self.host))

    def _any_clip(self) -> tuple[Clips, int]:
        clips = self.clips[self._any_kind()]
        return clips, self._integer(len(clips.frames))

    def _stretch(self) -> tuple[int, int, int]:
        """Draw a stretch: number of the orientation, clip, first frame; a share of them with parted lips."""
        kind = self._any_kind()
        clips, parted = self.clips[kind], self.parted[kind]
        if len(parted) and self._chance(PARTED_SHARE):
            clip, start = parted[self._integer(len(parted))].tolist()
            return kind, clip, start
        return kind, self._integer(len(clips.frames)), self._integer(clips.num_frames - self.num_frames + 1)

    def _drawn_pair(self) -> tuple[Tensor, ...]:
        """Draw a pair and, last, the transformer's latents of it."""
        kind, clip, start = self._stretch()
        clips, latents = self.clips[kind], self.drawn[kind]
        last = min(clips.num_frames, latents.shape[3] * LATENT_FRAMES) - self.num_frames
        start = min(start, last) // LATENT_FRAMES * LATENT_FRAMES
        top, left = (CELL * self._integer((extent - self.side) // CELL + 1) for extent in clips.size)
        flip = self._chance(0.5)
        pair = self._pair(clips, clip, start, clips.num_frames, clips.frames[clip, -1], (top, left), flip)
        if flip:
            left = clips.size[1] - self.side - left  # of the mirrored picture
        h, w, t, cells = top // CELL, left // CELL, start // LATENT_FRAMES, self.side // CELL
        part = latents[clip, int(flip), :, t : t + self.num_frames // LATENT_FRAMES, h : h + cells, w : w + cells]
        return *pair, torch.ones((), device=part.device), part

    def _clip_pair(self) -> tuple[Tensor, ...]:
        number, clip, start = self._stretch()
        clips = self.clips[number]
        last = clips.num_frames
        kind = float(torch.rand((), generator=self.host))
        other, at = kind < OTHER_SHARE, last
        if OTHER_SHARE <= kind < OTHER_SHARE + FRAME_SHARE:
            at = self._integer(last)
        picture = clips.others[clip] if other else clips.frames[clip, at]
        crop = self._crop(clips.size)
        pair = self._pair(clips, clip, start, at, picture, crop, self._chance(0.5))
        return *pair, torch.tensor(0.0 if other else 1.0, device=pair[0].device)

    def _pair(
        self, clips: Clips, clip: int, start: int, at: int, picture: Tensor, crop: tuple[int, int], flip: bool
    ) -> tuple[Tensor, ...]:
        """Cut a stretch and a picture whose landmarks are those of frame `at`; both mirrored with `flip`."""
        times = slice(start, start + self.num_frames)
        top, left = crop
        moved = [
            min(max(0, x + self._integer(2 * REFERENCE_SHIFT + 1) - REFERENCE_SHIFT), extent - self.side)
            for x, extent in zip((top, left), clips.size, strict=True)
        ]
        frames = to_video(clips.frames[clip, times][None, :, top : top + self.side, left : left + self.side])[0]
        rows, columns = (slice(x, x + self.side) for x in moved)
        reference = to_video(picture[None, None, rows, columns])[0]
        device = frames.device
        points = clips.landmarks[clip, times] - torch.tensor([left, top], dtype=torch.float32).to(device)
        targets = clips.landmarks[clip, at] - torch.tensor(moved[::-1], dtype=torch.float32).to(device)
        targets = targets.expand_as(points)
        weights = region_weights(points, (self.side, self.side), MOUTH, EYES)
        if flip:
            frames, reference, weights = frames.flip(-1), reference.flip(-1), weights.flip(-1)
            mirror = torch.tensor([-1.0, 1.0], device=device), torch.tensor([self.side - 1.0, 0.0], device=device)
            points, targets = points * mirror[0] + mirror[1], targets * mirror[0] + mirror[1]
        return frames, reference, weights, points, targets

    def _still_pair(self) -> tuple[Tensor, ...]:
        weights = None
        if self.stills and self._chance(0.5):
            picture = self.stills[self._integer(len(self.stills))]
            top, left = self._crop((picture.shape[0], picture.shape[1]))
        else:
            clips, clip = self._any_clip()
            at = self._integer(clips.num_frames + 1)
            picture = clips.frames[clip, at]
            top, left = self._crop(clips.size)
            landmarks = clips.landmarks[clip, at] - torch.tensor([left, top], dtype=torch.float32).to(picture.device)
            weights = region_weights(landmarks, (self.side, self.side), MOUTH, EYES)
        window = picture[top : top + self.side, left : left + self.side]
        reference = to_video(window[None, None])[0]
        if self._chance(0.5):
            reference = (reference + self._grain(picture.device)).clamp(-1, 1)
        grid = moving_grid(self.num_frames, self.side, self.host, picture.device)  # [T, S, S, 2]
        frames = F.grid_sample(
            reference.transpose(0, 1).expand(self.num_frames, -1, -1, -1), grid, "bicubic", "reflection",
            align_corners=False,
        ).clamp(-1, 1).transpose(0, 1)  # fmt: skip
        if weights is None:
            warped = torch.ones(self.num_frames, self.side, self.side, device=picture.device)
        else:
            maps = weights.expand(self.num_frames, 1, -1, -1)
            warped = F.grid_sample(maps, grid, "bilinear", "border", align_corners=False)[:, 0]
        spots = torch.rand(POINTS, 2, generator=self.host).to(picture.device) * (self.side - 1)
        points = spots.expand(self.num_frames, -1, -1)
        places = ((grid + 1) * self.side - 1) / 2  # pixels
        targets = at_points(places.permute(0, 3, 1, 2), points)
        return frames, reference, warped, points, targets, torch.ones((), device=picture.device)

    def _grain(self, device: torch.device) -> Tensor:
        """Draw a random texture [1, 1, S, S]."""
        cell = 2 + self._integer(LARGEST_GRAIN - 1)
        noise = torch.randn(1, 1, self.side // cell, self.side // cell, device=device, generator=self.generator)
        strength = GRAIN * float(torch.rand((), generator=self.host))
        return strength * F.interpolate(noise, (self.side, self.side), mode="bicubic", align_corners=False)


def parted_starts(landmarks_nTP2: Tensor, num_frames: int) -> Tensor:
    """List stretches of `num_frames` frames whose mouth is open by a little: clip and first frame, [k, 2], on the CPU.

    The last frame, the photo, is no part of a stretch; every stretch begins with a latent.
    """
    gap = openness(landmarks_nTP2[:, :-1]).unfold(1, num_frames, LATENT_FRAMES).mean(-1)
    found = ((gap >= PARTED[0]) & (gap <= PARTED[1])).nonzero()
    return (found * found.new_tensor([1, LATENT_FRAMES])).cpu()


def moving_grid(num_frames: int, side: int, host: torch.Generator, device: torch.device) -> Tensor:
    """Draw a smooth distortion that moves evenly between two random ones: a sampling grid [T, S, S, 2]."""
    u = (2 * torch.rand(2, 4, generator=host) - 1).to(device, non_blocking=True)
    knots = torch.randn(2, 2, side // KNOT + 1, side // KNOT + 1, generator=host).to(device, non_blocking=True)
    time = torch.linspace(0, 1, num_frames, device=device)[:, None]
    size, tilt, right, down = (u[0] + (u[1] - u[0]) * time).unbind(1)
    size, tilt = 1 + SIZE * size, TILT * tilt
    theta = torch.stack(
        [
            torch.stack([size * tilt.cos(), -size * tilt.sin(), 2 * SHIFT / side * right], -1),
            torch.stack([size * tilt.sin(), size * tilt.cos(), 2 * SHIFT / side * down], -1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [num_frames, 1, side, side], align_corners=False)
    bends = knots[0] + (knots[1] - knots[0]) * time[:, :, None, None]
    offsets = BEND * F.interpolate(bends, (side, side), mode="bicubic", align_corners=True)
    return grid + offsets.permute(0, 2, 3, 1) * (2 / side)


def at_points(maps_NCHW: Tensor, points_NP2: Tensor) -> Tensor:
    """Read maps at points given in pixels of a picture that the maps fill: [N, P, C]."""
    return _read(maps_NCHW, points_NP2, (maps_NCHW.shape[-2], maps_NCHW.shape[-1]))


def flow_loss(flow_N2hw: Tensor, points_NP2: Tensor, targets_NP2: Tensor, side: int) -> Tensor:
    """Compute the mean error, in pixels, of a flow at points that both pictures show."""
    found = points_NP2 + _read(flow_N2hw.float(), points_NP2, (side, side))
    inside = ((points_NP2 >= 0) & (points_NP2 < side) & (targets_NP2 >= 0) & (targets_NP2 < side)).all(-1)
    error = F.smooth_l1_loss(found, targets_NP2, reduction="none").sum(-1)
    return (error * inside).sum() / inside.sum().clamp(min=1)


def _read(maps_NCHW: Tensor, points_NP2: Tensor, size: tuple[int, int]) -> Tensor:
    scale = torch.tensor([size[1], size[0]], dtype=torch.float32).to(points_NP2.device)
    grid = ((2 * points_NP2 + 1) / scale - 1)[:, None]
    read = F.grid_sample(maps_NCHW, grid, "bilinear", "border", align_corners=False)  # [N, C, 1, P]
    return read[:, :, 0].mT
