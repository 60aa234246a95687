"""Head pose as the transformer is told it: a track of angles, and the condition latents made of it.

Angles are *yaw, pitch, roll* in radians against the camera, in the corpus's convention: the rotation is roll first,
then pitch, then yaw, with x to the right of the picture, y up and z towards the camera. So positive yaw turns the face
to the right of the picture, positive pitch lowers the nose, positive roll turns the picture counter-clockwise.

A *frame track* [F, 3] has one row a frame at 25 fps, a *latent track* [T, 3] the mean of each latent's four frames.
`pose_file` reads frame tracks from files. Shapes: F frames, T latents, h/w latent height and width.
"""

import numpy as np
import torch
from torch import Tensor

from liveavatar.timing import FPS, LATENT_FRAMES

POSE_SCALE = 0.3  # radians that become 1; the corpus seldom turns a head further
EASE_FRAMES = FPS  # a track that ends early is left within one second


def pose_latents(track: Tensor, h: int, w: int) -> Tensor:
    """Condition latents [..., 4, T, h, w] of latent tracks [..., T, 3] in radians.

    Each channel is constant over the picture: three angles over `POSE_SCALE`, and 1 for "there is a pose". No pose is
    all zeros, which the transformer takes exactly as it takes None.
    """
    channels = torch.cat((track / POSE_SCALE, torch.ones_like(track[..., :1])), dim=-1).transpose(-1, -2)
    return channels[..., None, None].expand(*channels.shape, h, w)


def latent_track(frames_F3: Tensor) -> Tensor:
    """Means [..., F/4, 3] of a frame track [..., F, 3] over the frames of each latent."""
    return frames_F3.unflatten(-2, (-1, LATENT_FRAMES)).mean(-2)


def mirrored(track: Tensor) -> Tensor:
    """The track [..., 3] of the mirrored picture: yaw and roll change sign."""
    return track * track.new_tensor([-1.0, 1.0, -1.0])


def fit_length(frames_F3: np.ndarray, num_frames: int) -> np.ndarray:
    """Cut a frame track [F, 3], or lengthen it: within a second it eases to its mean pose and stays there."""
    missing = num_frames - len(frames_F3)
    if missing <= 0:
        return frames_F3[:num_frames]
    share = np.clip(np.arange(1, missing + 1) / EASE_FRAMES, 0, 1)[:, None]
    share = share * share * (3 - 2 * share)
    rest = (1 - share) * frames_F3[-1] + share * frames_F3.mean(0)
    return np.concatenate((frames_F3, rest)).astype(np.float32)
