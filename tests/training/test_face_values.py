"""Mouth values of the frames of each latent."""

import torch

from liveavatar.training.face_values import MOUTH, mouth_track


def test_frames_of_a_latent_lie_side_by_side() -> None:
    points = torch.zeros(1, 8, 68, 2)
    points[..., 36:42, 0], points[..., 42:48, 0] = 0.0, 10.0  # eyes 10 pixels apart
    points[..., 54, 0] = torch.arange(8.0)  # the corner of a mouth that widens
    points[..., 65:68, 1] = 2 * torch.arange(8.0)[:, None]
    track = mouth_track(points)
    assert track.shape == (1, 2, MOUTH)
    torch.testing.assert_close(track[0, 1, :4], torch.tensor([0.8, 1.0, 1.2, 1.4]))
    torch.testing.assert_close(track[0, 1, 4:], torch.tensor([0.4, 0.5, 0.6, 0.7]))
