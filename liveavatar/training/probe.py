"""Probe: a small network that reads the face's state from a picture, for held-out measures of generated video.

Trained for seconds on rendered frames with exact landmarks: mouth openness and width, eye opening, the face's position
and the head's rotation. The picture is first cut to a square around the face of the *reference photo*, which generated
video has, too. The probe evaluates the generator and is never used to train it.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveavatar.quality import reference
from liveavatar.training import runtime
from liveavatar.training.data import Clips

SIDE = 160  # pixels of the probe's square input
REACH = 3.8  # side of the square over the distance between the eyes
VALUES = ("openness", "width", "eyes", "x", "y", "yaw", "pitch", "roll")
PLACE, HEAD = slice(3, 5), slice(5, 8)  # of `VALUES`; angles in radians
SCALE = torch.tensor([10.0, 4.0, 10.0, 2.0, 2.0, 8.0, 12.0, 15.0])  # scales them to about unit spread for the loss
RATE = 1e-3
BATCH = 96


class Probe(nn.Module):
    """Convolutional network from a face square to `VALUES`, about 0.9 M weights."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128, 128)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(8, b), nn.SiLU(), nn.Conv2d(b, b, 3, 1, 1), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.out = nn.Sequential(
            nn.Flatten(), nn.Linear(widths[-1] * (SIDE // 32) ** 2, 128), nn.SiLU(), nn.Linear(128, len(VALUES))
        )

    def forward(self, x_N3SS: Tensor) -> Tensor:
        """Predict values [N, 8] in the order of `VALUES`."""
        return self.out(self.features(x_N3SS)) / SCALE.to(x_N3SS.device)


def face_square(landmarks_B682: Tensor) -> Tensor:
    """Compute centre x, y and half side [B, 3] in pixels of the square around a face."""
    centre = (landmarks_B682.amin(-2) + landmarks_B682.amax(-2)) / 2
    return torch.cat([centre, reference.eye_distance(landmarks_B682)[:, None] * REACH / 2], 1)


def cut_square(frames_N3HW: Tensor, square_N3: Tensor) -> Tensor:
    """Resample squares to [N, 3, SIDE, SIDE]."""
    height, width = frames_N3HW.shape[-2:]
    axis = (torch.arange(SIDE, device=frames_N3HW.device) + 0.5) / SIDE * 2 - 1
    x = (square_N3[:, 0:1] + axis * square_N3[:, 2:3] + 0.5) / width * 2 - 1
    y = (square_N3[:, 1:2] + axis * square_N3[:, 2:3] + 0.5) / height * 2 - 1
    grid = torch.stack([x[:, None].expand(-1, SIDE, -1), y[:, :, None].expand(-1, -1, SIDE)], -1)
    return F.grid_sample(frames_N3HW, grid, padding_mode="border", align_corners=False)


def face_values(landmarks: Tensor, head_N3: Tensor, square_N3: Tensor) -> Tensor:
    """Compute the probe's target values [N, 8] from landmarks and head angles."""
    centre = (landmarks.amin(-2) + landmarks.amax(-2)) / 2
    place = (centre - square_N3[:, :2]) / square_N3[:, 2:3]
    parts = [reference.openness(landmarks), reference.mouth_width(landmarks), reference.eye_opening(landmarks)]
    return torch.cat([torch.stack(parts, -1), place, head_N3], -1)


def train_probe(clips: list[Clips], rank: runtime.TrainRank, seconds: float) -> Probe:
    """Train a probe on this rank's frames; gradients are averaged over ranks."""
    probe = Probe().to(rank.device)
    optim = torch.optim.AdamW(probe.parameters(), RATE, weight_decay=1e-2)
    generator = rank.generator(7)
    budget, step = runtime.Budget(rank, seconds), 0
    host = torch.Generator().manual_seed(rank.rank)
    shares = torch.tensor([float(len(c.frames)) for c in clips])
    while (fraction := budget.fraction(step)) < 1:
        data = clips[int(torch.multinomial(shares, 1, generator=host))]
        frames, truth, square = _batch(data, generator)
        with rank.autocast():
            read = probe(_degrade(cut_square(frames, square), generator))
        error = ((read.float() - face_values(*truth, square)) * SCALE.to(rank.device)).square().mean()
        optim.zero_grad(set_to_none=True)
        error.backward()
        runtime.average_gradients(list(probe.parameters()), rank)
        for group in optim.param_groups:
            group["lr"] = RATE * (1 - fraction) + 1e-6
        optim.step()
        step += 1
    return probe.eval().requires_grad_(False)


def _batch(data: Clips, generator: torch.Generator) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    device = data.frames.device
    clip = torch.randint(len(data.frames), (BATCH,), device=device, generator=generator)
    time = torch.randint(data.num_frames, (BATCH,), device=device, generator=generator)
    square = face_square(data.landmarks[clip, -1])
    shake = torch.rand(BATCH, 3, device=device, generator=generator) * 2 - 1
    square = square + shake * square[:, 2:] * torch.tensor([0.08, 0.08, 0.06], device=device)
    frames = data.frames[clip, time].permute(0, 3, 1, 2).float() / 127.5 - 1
    return frames, (data.landmarks[clip, time], data.head[clip, time]), square


def _degrade(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blur half of the pictures and add noise, so that the probe does not take blur for a closed mouth."""
    soft = F.avg_pool2d(x, 3, 1, 1)
    half = torch.rand(len(x), 1, 1, 1, device=x.device, generator=generator) < 0.5
    gain = 1 + 0.2 * (torch.rand(len(x), 3, 1, 1, device=x.device, generator=generator) - 0.5)
    return torch.where(half, soft, x) * gain + 0.04 * torch.randn(x.shape, device=x.device, generator=generator)


@torch.no_grad()
def read_video(probe: Probe, video: Tensor, photo_landmarks_B682: Tensor) -> Tensor:
    """Read values [B, T, 8] from every frame of a video [B, 3, T, H, W] in [-1, 1]."""
    rows = []
    for clip, square in zip(video, face_square(photo_landmarks_B682), strict=True):
        frames = clip.transpose(0, 1).float()
        read = [probe(cut_square(part, square.expand(len(part), -1))) for part in frames.split(128)]
        rows.append(torch.cat(read).float())
    return torch.stack(rows)
