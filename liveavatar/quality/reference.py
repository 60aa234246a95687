"""Picture measures against ground truth, on tensors: for training and its evaluation.

Video is [B, 3, T, H, W] in [-1, 1] on any device. All results are plain floats.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from liveavatar.quality import motion
from liveavatar.timing import BLOCK_FRAMES

MOUTH, EYES = 5.0, 3.0  # weight of a region against the rest of the picture
MOUTH_POINTS, RIGHT_EYE, LEFT_EYE = slice(48, 68), slice(36, 42), slice(42, 48)  # of the 68 landmarks
MOUTH_MARGIN, EYE_MARGIN = 0.2, 0.12  # of the distance between the eyes, around a region's landmarks


def to_video(frames_BTHWC: Tensor) -> Tensor:
    """Convert uint8 [B, T, H, W, 3] to [B, 3, T, H, W] in [-1, 1]."""
    return frames_BTHWC.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def region_weights(
    landmarks: Tensor, size: tuple[int, int], mouth: float = MOUTH, eyes: float = EYES, rest: float = 1.0
) -> Tensor:
    """Build weight maps [..., H, W] from landmarks [..., 68, 2]: boxes around the mouth and the eyes."""
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
    """Compute the corners [..., 2] of the box around points [..., P, 2], widened by margin [...]."""
    return points.amin(-2) - margin[..., None], points.amax(-2) + margin[..., None]


def psnr(video: Tensor, truth: Tensor, mask_BTHW: Tensor | None = None) -> float:
    """Compute the PSNR in dB (peak = 2, the range), per frame, then averaged; inside `mask` if given."""
    error = (video.clamp(-1, 1).float() - truth.float()).div(2).square().mean(1)
    per_frame = error.mean((-1, -2)) if mask_BTHW is None else _masked_mean(error, mask_BTHW)
    return float(-10 * per_frame.clamp(min=1e-10).log10().mean())


def error_share(video: Tensor, truth: Tensor, mask_BTHW: Tensor, part_BTHW: Tensor) -> float:
    """Compute the share of the squared error inside `mask` that lies in `part` of it, 0..1."""
    error = (video.clamp(-1, 1).float() - truth.float()).square().mean(1) * mask_BTHW
    return float((error * part_BTHW).sum() / error.sum().clamp(min=1e-12))


def _masked_mean(x_BTHW: Tensor, mask: Tensor) -> Tensor:
    return (x_BTHW * mask).sum((-1, -2)) / mask.sum((-1, -2)).clamp(min=1)


def face_ellipse(landmarks: Tensor, size: Sequence[int]) -> Tensor:
    """Draw masks [..., H, W] of the ellipse that landmarks [..., 68, 2] fill: the face from the jaw to the brows."""
    y = torch.arange(size[0], device=landmarks.device)[:, None]
    x = torch.arange(size[1], device=landmarks.device)[None]
    low, high = landmarks.amin(-2)[..., None, None, :], landmarks.amax(-2)[..., None, None, :]
    centre, half = (low + high) / 2, ((high - low) / 2).clamp(min=1)
    away = ((x - centre[..., 0]) / half[..., 0]).square() + ((y - centre[..., 1]) / half[..., 1]).square()
    return (away < 1).float()


def gradient_energy(video: Tensor, mask_BTHW: Tensor | None = None) -> Tensor:
    """Compute the gradient energy per frame [B, T]: mean squared horizontal and vertical difference."""
    grey = video.float().clamp(-1, 1).mean(1)
    dx = (grey[..., 1:] - grey[..., :-1]).square()[..., :-1, :]
    dy = (grey[..., 1:, :] - grey[..., :-1, :]).square()[..., :-1]
    energy = dx + dy
    return energy.mean((-1, -2)) if mask_BTHW is None else _masked_mean(energy, mask_BTHW[..., :-1, :-1])


def energy_kept(video: Tensor, truth: Tensor, mask_BTHW: Tensor | None = None) -> float:
    """Compute the gradient energy over the ground truth's; 1 = as sharp as the truth."""
    return float((gradient_energy(video, mask_BTHW) / gradient_energy(truth, mask_BTHW).clamp(min=1e-9)).mean())


def lattice_ratio(video: Tensor, side: int = 8) -> float:
    """Compute the fine structure at the strongest of side*side lattice positions over its mean; 1 = no grid.

    Fine structure is the difference from a median over 3*3 pixels, as in `liveavatar bench quality`.
    """
    grey = video.float().clamp(-1, 1).mean(1).flatten(0, 1)  # [B*T, H, W]
    rows, columns = (n // side for n in grey.shape[-2:])
    near = [grey.roll((y, x), (-2, -1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    fine = (grey - torch.stack(near).median(0).values).abs()[:, : rows * side, : columns * side]
    strength = fine.unflatten(1, (rows, side)).unflatten(3, (columns, side)).mean((0, 1, 3))
    return float(strength.max() / strength.mean().clamp(min=1e-9))


def frame_steps(video: Tensor) -> Tensor:
    """Compute the mean absolute change from each frame to the next: [B, T-1], in units of the range's half."""
    return (video[:, :, 1:].float() - video[:, :, :-1].float()).abs().mean((1, 3, 4))


def mean_edge_jump(video: Tensor, period: int = BLOCK_FRAMES) -> float:
    """Compute the mean frame step into each new block over the mean step of all frames; 1 = edges cannot be seen."""
    steps = frame_steps(video).double().cpu().numpy()
    return motion.mean_edge_jump(np.pad(steps, ((0, 0), (1, 0)), constant_values=np.nan), period)


def colour_drift(video: Tensor, reference: Tensor) -> list[float]:
    """Compute the mean absolute difference of the channels' means from the reference's: start, middle, end."""
    colour = reference.float().mean((-1, -2))  # [B, 3, 1]
    num_frames = video.shape[2]
    frames = [min(BLOCK_FRAMES // 2, num_frames - 1), num_frames // 2, num_frames - 1]
    means = video[:, :, frames].float().mean((-1, -2))
    return (means - colour).abs().mean((0, 1)).tolist()


def openness(landmarks: Tensor) -> Tensor:
    """Compute the inner-lip gap over the distance between the eyes, from landmarks [..., 68, 2]."""
    gap = (landmarks[..., [61, 62, 63], :] - landmarks[..., [67, 66, 65], :]).norm(dim=-1).mean(-1)
    return gap / eye_distance(landmarks)


def mouth_width(landmarks: Tensor) -> Tensor:
    """Compute the distance between the mouth's corners over the distance between the eyes."""
    return (landmarks[..., 48, :] - landmarks[..., 54, :]).norm(dim=-1) / eye_distance(landmarks)


def eye_opening(landmarks: Tensor) -> Tensor:
    """Compute the mean lid gap of both eyes over the distance between the eyes."""
    upper, lower = landmarks[..., [37, 38, 43, 44], :], landmarks[..., [41, 40, 47, 46], :]
    return (upper - lower).norm(dim=-1).mean(-1) / eye_distance(landmarks)


def eye_distance(landmarks: Tensor) -> Tensor:
    """Compute the distance between the eyes' centres, pixels."""
    right, left = landmarks[..., 36:42, :].mean(-2), landmarks[..., 42:48, :].mean(-2)
    return (right - left).norm(dim=-1).clamp(min=1e-3)


def stack_rows(rows: list[Tensor]) -> Tensor:
    """Draw a contact sheet uint8 [H, W, 3] from rows of frames, each [3, T, H, W] in [-1, 1]."""
    strips = [((row.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(2, 1, 3, 0).flatten(1, 2) for row in rows]
    width = min(s.shape[1] for s in strips)
    return torch.cat([s[:, :width] for s in strips]).cpu()
