"""Face reader: a small network from latents to mouth and eye values, for the face loss of training.

Lips that are a pixel off hardly change the flow's error, but viewers notice them first. So a small network learns, for
some seconds of the encode stage, to predict mouth openness and width of each frame, lid closure and gaze. Then it is
frozen, and its values on the clean latents predicted by a flow must equal those on the true ones: a loss of the kind
of Wav2Lip's (arXiv 2008.10010). It is not used for evaluation: `probe.py` and the product's landmarks read pictures.

Shapes: B batch, T latents, C latent channels, h/w latent cells.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from liveavatar.media.portrait import EYE_HEIGHT, WIDE_EYE_HEIGHT
from liveavatar.pose.track import EYES
from liveavatar.timing import LATENT_FRAMES
from liveavatar.training import runtime
from liveavatar.training.face_values import MOUTH
from liveavatar.training.latent_set import LatentSet

VALUES = MOUTH + EYES
EYES_SHARE = 0.5  # weight of a value of the eyes against one of the mouth
SIDE = 14  # cells of the input square: a face with room to turn
BELOW_EYES = 1.6  # cells from the eyes down to the middle of the square
WIDTHS = (96, 128)
NOISE = 0.3  # largest deviation added to latents in training, because predicted latents are not exact
RATE, BATCH = 2e-3, 512
FILE = "face_reader.pt"


class FaceReader(nn.Module):
    """Convolutional network from latents to standardised values, about 1 M weights."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.channels, self.side = channels, side
        a, b = WIDTHS
        self.features = nn.Sequential(
            nn.Conv2d(2 * channels, a, 3, 1, 1), nn.SiLU(),
            nn.Conv2d(a, a, 3, 1, 1), nn.GroupNorm(8, a), nn.SiLU(),
            nn.Conv2d(a, b, 3, 2, 1), nn.SiLU(),
            nn.Conv2d(b, b, 3, 1, 1), nn.GroupNorm(8, b), nn.SiLU(),
        )  # fmt: skip
        self.out = nn.Sequential(
            nn.Flatten(), nn.Linear(b * ((side + 1) // 2) ** 2, 96), nn.SiLU(), nn.Linear(96, VALUES)
        )
        self.register_buffer("mean", torch.zeros(VALUES))
        self.register_buffer("std", torch.ones(VALUES))
        self.register_buffer("share", torch.tensor([1.0] * MOUTH + [EYES_SHARE] * EYES))
        self.mean: Tensor
        self.std: Tensor
        self.share: Tensor

    def forward(self, x_BCThw: Tensor) -> Tensor:
        """Return standardised values [B, T, VALUES]."""
        h, w = x_BCThw.shape[-2:]
        middle = (WIDE_EYE_HEIGHT if w > h else EYE_HEIGHT) * h + BELOW_EYES
        top = min(max(0, round(middle - self.side / 2)), h - self.side)
        left = (w - self.side) // 2
        face = x_BCThw[..., top : top + self.side, left : left + self.side]
        before = torch.cat((face[:, :, :1], face[:, :, :-1]), dim=2)
        cells = torch.cat((before, face), dim=1).transpose(1, 2)  # [B, T, 2 C, side, side]
        return self.out(self.features(cells.flatten(0, 1))).unflatten(0, cells.shape[:2])

    def error(self, predicted_BCThw: Tensor, true_BCThw: Tensor) -> Tensor:
        """Return the mean squared difference of the values read, in units of their variance."""
        with torch.no_grad():
            target = self(true_BCThw).float()
        return ((self(predicted_BCThw).float() - target).square() * (self.share / self.share.mean())).mean()


def train_face_reader(sets: list[LatentSet], rank: runtime.TrainRank, seconds: float) -> FaceReader:
    """Train a face reader on this rank's latents; gradients are averaged over ranks."""
    h, w = sets[0].latents.shape[-2:]
    reader = FaceReader(sets[0].latents.shape[1], min(SIDE, h, w)).to(rank.device)
    truth = torch.cat([_values(s).flatten(0, 1) for s in sets])
    mean, square = (rank.mean(v) for v in (truth.mean(0), truth.square().mean(0)))
    reader.mean.copy_(mean)
    reader.std.copy_((square - mean.square()).clamp(min=1e-6).sqrt())
    optim = torch.optim.AdamW(reader.parameters(), RATE, weight_decay=0.02)
    generator, host = rank.generator(9), torch.Generator().manual_seed(rank.rank)
    shares = torch.tensor([float(len(s.latents)) for s in sets])
    budget, step = runtime.Budget(rank, seconds), 0
    while (fraction := budget.fraction(step)) < 1:
        latents, values = _batch(sets[int(torch.multinomial(shares, 1, generator=host))], generator)
        with rank.autocast():
            read = reader(latents)[:, 1]
        error = ((read.float() - (values - reader.mean) / reader.std).square() * reader.share).mean()
        optim.zero_grad(set_to_none=True)
        error.backward()
        runtime.average_gradients(list(reader.parameters()), rank)
        for group in optim.param_groups:
            group["lr"] = RATE * (1 - fraction) + 1e-6
        optim.step()
        step += 1
    return reader.eval().requires_grad_(False)


def _values(data: LatentSet) -> Tensor:
    return torch.cat((data.mouth, data.eyes), dim=-1)  # [n, T, VALUES]


def _batch(data: LatentSet, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw noised pairs of consecutive latents [BATCH, C, 2, h, w], and the values of the second."""
    device = data.latents.device
    clips = torch.randint(len(data.latents), (BATCH,), device=device, generator=generator)
    times = torch.randint(1, data.latents.shape[2], (BATCH,), device=device, generator=generator)
    pair = torch.stack([data.latents.transpose(1, 2)[clips, times + i] for i in (-1, 0)], dim=2).float()
    rough = NOISE * torch.rand(BATCH, 1, 1, 1, 1, device=device, generator=generator)
    noise = torch.randn(pair.shape, device=device, generator=generator)
    return pair + rough * noise, _values(data)[clips, times]


@torch.no_grad()
def reading_skill(reader: FaceReader, sets: list[LatentSet]) -> dict[str, float]:
    """Measure the explained share of the variance of openness, width and eyes on the latents of `sets`."""
    unexplained = []
    for s in sets:
        predicted = torch.cat([reader(part.float()) for part in s.latents.split(32)])
        target = (_values(s) - reader.mean) / reader.std
        unexplained.append(((predicted - target).square().mean((0, 1)) / target.var((0, 1))).cpu())
    parts = (1 - torch.stack(unexplained).mean(0)).split((LATENT_FRAMES, LATENT_FRAMES, EYES))
    return {name: round(float(p.mean()), 4) for name, p in zip(("openness", "width", "eyes"), parts, strict=True)}


def save_face_reader(folder: Path, reader: FaceReader) -> None:
    """Write the reader into a run's folder."""
    state: dict[str, Any] = {"channels": reader.channels, "side": reader.side, "weights": reader.state_dict()}
    runtime.save_checkpoint(folder / FILE, state)


def load_face_reader(folder: Path, device: torch.device) -> FaceReader:
    """Load a face reader of `save_face_reader`, frozen."""
    state = runtime.load_checkpoint(folder / FILE, device)
    reader = FaceReader(state["channels"], state["side"]).to(device)
    reader.load_state_dict(state["weights"])
    return reader.eval().requires_grad_(False)
