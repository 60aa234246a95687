"""Head pose as the transformer is told it: a track of angles, and the condition latents made of it.

Angles are *yaw, pitch, roll* in radians against the camera, in the corpus's convention: the rotation is roll first,
then pitch, then yaw, with x to the right of the picture, y up and z towards the camera. So positive yaw turns the face
to the right of the picture, positive pitch lowers the nose, positive roll turns the picture counter-clockwise.

Users, files and labels always speak of the camera. What the transformer is told depends on `ModelConfig.pose_origin`:
these angles ("camera"), or these minus the angles of the portrait's head ("portrait", `conditioning_track`), so that
zero is the head as the portrait shows it. A network that is told angles against the camera has to guess the portrait's
to know how far to turn, and stays too near to it.

A *frame track* [F, 3] has one row a frame at 25 fps, a *latent track* [T, 3] the mean of each latent's four frames.
`files` reads frame tracks. Three more columns may hold the eyes (`liveavatar.pose.blinks`): [F, 4] has
the closure of the lids, [F, 6] the gaze's yaw and pitch behind it. NaN, there and after the track's end: as seeded.
Shapes: F frames, T latents, h/w latent height and width, C columns.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from liveavatar.config import FROM_PORTRAIT, ModelConfig, refuse_pose
from liveavatar.errors import InputError
from liveavatar.timing import FPS, LATENT_FRAMES

POSE_SCALE = 0.3  # radians that become 1; the corpus seldom turns a head further
LOOK_SCALE = 0.1  # radians of the gaze that become 1
HEAD = 4  # channels of the head: yaw, pitch, roll, and whether these are told
EYES = 3  # channels of the eyes, behind those of the head: closure of the lids, yaw and pitch of the gaze
TRACK_COLUMNS = (3, 4, 6)  # of a frame track: the head, its lids, its gaze
EASE_FRAMES = FPS  # a track that ends early is left within one second


def pose_latents(track: Tensor | None, h: int, w: int, eyes: Tensor | None = None, channels: int = HEAD) -> Tensor:
    """Condition latents [..., channels, T, h, w], each channel constant over the picture.

    The first three are the head's angles over `POSE_SCALE`, the fourth is 1 for "these are told"; then come the closure
    of the lids and the angles of the gaze over `LOOK_SCALE`. Whatever is not told is zero. All zeros the transformer
    takes exactly as None.

    Args:
        track: head pose [..., T, 3] in radians; None lets the head move by itself.
        h, w: latent height and width.
        eyes: eye track [..., T, 1 or 3] (`liveavatar.pose.blinks`), for models that are told it.
        channels: `DiTConfig.cond_dim`.
    """
    parts = []
    if track is not None:
        parts = [track / POSE_SCALE, torch.ones_like(track[..., :1])]
    if eyes is not None:
        head = parts or [eyes.new_zeros(*eyes.shape[:-1], HEAD)]
        parts = [*head, eyes[..., :1], eyes[..., 1:] / LOOK_SCALE]
    rows = torch.cat(parts, dim=-1)
    rows = F.pad(rows, (0, channels - rows.shape[-1])).transpose(-1, -2)
    return rows[..., None, None].expand(*rows.shape, h, w)


def free_head(pose: Tensor) -> Tensor:
    """Pose latents [..., C, T, h, w] without the head's pose; what the eyes do stays told."""
    return torch.cat((torch.zeros_like(pose[..., :HEAD, :, :, :]), pose[..., HEAD:, :, :, :]), dim=-4)


def latent_track(frames_F3: Tensor) -> Tensor:
    """Means [..., F/4, 3] of a frame track [..., F, 3] over the frames of each latent."""
    return frames_F3.unflatten(-2, (-1, LATENT_FRAMES)).mean(-2)


def mirrored(track: Tensor) -> Tensor:
    """The track [..., 3] of the mirrored picture: yaw and roll change sign."""
    return track * track.new_tensor([-1.0, 1.0, -1.0])


def mirrored_eyes(track: Tensor) -> Tensor:
    """The eye track [..., 3] of the mirrored picture: its yaw changes sign."""
    return track * track.new_tensor([1.0, -1.0, 1.0])


def split_track(frames_FC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Head track [F, 3] and eye track float32 [F, 3] of a frame track [F, 3, 4 or 6]; NaN where eyes are not given.

    Raises:
        InputError: it has another shape, or its eyes are none.
    """
    if frames_FC.ndim != 2 or frames_FC.shape[1] not in TRACK_COLUMNS:
        raise InputError(
            f"the pose track has shape {frames_FC.shape}; give [frames, 3] angles of the head in radians, "
            "[frames, 4] with the closure of the lids, or [frames, 6] with the gaze's yaw and pitch"
        )
    head, given = frames_FC[:, :3], frames_FC[:, 3:].astype(np.float32)
    eyes = np.pad(given, ((0, 0), (0, EYES - given.shape[1])), constant_values=np.nan)
    if np.isinf(eyes).any() or (eyes[:, 0] < 0).any() or (eyes[:, 0] > 1).any():
        raise InputError("the pose track's eyes are out of range; give lids 0 (open) to 1 (shut) and a gaze in radians")
    return head, eyes


def eyes_ignored(model: ModelConfig, frames_FC: np.ndarray) -> str:
    """What of a frame track's eyes a model is not told, in words; empty where it is told all that is given."""
    given = np.isfinite(split_track(frames_FC)[1]).any(0)
    lids, gaze = given[0] and not model.lids_conditioned, given[1:].any() and not model.gaze_conditioned
    return " and ".join(["the lids"] * bool(lids) + ["the gaze"] * bool(gaze))


def conditioning_track(model: ModelConfig, frames_F3: np.ndarray, portrait_3: np.ndarray | None) -> np.ndarray:
    """What a model is told of a frame track [F, 3] against the camera: the same, or against the portrait's head.

    Args:
        model: decides which.
        frames_F3: radians.
        portrait_3: angles of the portrait's head, radians; only needed where they are subtracted.

    Raises:
        InputError: the model knows no head pose, or these are no such angles.
    """
    refuse_pose(model)
    if frames_F3.ndim != 2 or frames_F3.shape[1] != 3 or not len(frames_F3) or not np.isfinite(frames_F3).all():
        raise InputError(f"the head pose has shape {frames_F3.shape}; give finite angles [frames, 3] in radians")
    if model.pose_origin != FROM_PORTRAIT:
        return frames_F3
    if portrait_3 is None:
        raise InputError(
            f"the model {model.name} is told the head pose against the portrait's, which is not known; "
            "give portrait_pose along with pose"
        )
    if portrait_3.shape != (3,) or not np.isfinite(portrait_3).all():
        raise InputError(f"the portrait's head pose has shape {portrait_3.shape}; give 3 finite angles in radians")
    return (frames_F3 - portrait_3).astype(np.float32)


def fit_eyes(frames_F3: np.ndarray, num_frames: int) -> np.ndarray:
    """Cut an eye track [F, 3], or lengthen it: after its end eyes do as seeded, NaN."""
    missing = max(0, num_frames - len(frames_F3))
    return np.pad(frames_F3[:num_frames], ((0, missing), (0, 0)), constant_values=np.nan)


def fit_length(frames_F3: np.ndarray, num_frames: int) -> np.ndarray:
    """Cut a frame track [F, 3], or lengthen it: within a second it eases to its mean pose and stays there."""
    missing = num_frames - len(frames_F3)
    if missing <= 0:
        return frames_F3[:num_frames]
    share = np.clip(np.arange(1, missing + 1) / EASE_FRAMES, 0, 1)[:, None]
    share = share * share * (3 - 2 * share)
    rest = (1 - share) * frames_F3[-1] + share * frames_F3.mean(0)
    return np.concatenate((frames_F3, rest)).astype(np.float32)
