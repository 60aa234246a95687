"""A bent clip moves all its frames, photos and weight maps alike, and clips bend differently."""

import pytest
import torch

from liveavatar.training import data
from liveavatar.training.data import bend

HEIGHT, WIDTH = 192, 128


def _dots(batch: int, frames: int) -> torch.Tensor:
    """Blurred bright dots on black, at the same place in every frame, [B, 3, T, H, W]."""
    y, x = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)[None]
    dot = torch.exp(-((y - 70.0) ** 2 + (x - 50.0) ** 2) / 18)
    return (2 * dot - 1).expand(batch, 3, frames, -1, -1)


def _centre(picture_HW: torch.Tensor) -> torch.Tensor:
    light = (picture_HW + 1).clamp(min=0.05) - 0.05
    y, x = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)[None]
    return torch.stack([(light * x).sum(), (light * y).sum()]) / light.sum()


def test_frames_and_maps_move_alike_and_clips_differently() -> None:
    video = _dots(4, 3)
    maps = (video[:, 0] + 1) / 2
    bent, moved = bend(video, maps, torch.Generator().manual_seed(5))
    assert bent.shape == video.shape
    assert moved.shape == maps.shape
    centres = torch.stack([_centre(clip[0, 0]) for clip in bent])
    for clip, weights, centre in zip(bent, moved, centres, strict=True):
        assert torch.equal(clip[:, 0], clip[:, 2])
        assert (_centre(2 * weights[1] - 1) - centre).abs().max() < 0.5
    away = (centres - torch.tensor([50.0, 70.0])).norm(dim=1)
    assert away.max() > 2
    assert away.max() < 30
    assert (centres[0] - centres[1]).norm() > 1


def test_a_bend_of_nothing_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BEND", "SIZE", "ASPECT", "TILT", "SHIFT"):
        monkeypatch.setattr(data, name, 0.0)
    video = 2 * torch.rand(1, 3, 2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) - 1
    bent, maps = bend(video, video[:, 0], torch.Generator().manual_seed(5))
    assert (bent - video).abs().max() < 1e-3
    assert (maps - video[:, 0]).abs().max() < 1e-3
