"""Head pose conditioning: a track of angles, and the condition latents computed from it.

Angles are *yaw, pitch, roll* in radians against the camera, in the corpus's convention: the rotation is roll first,
then pitch, then yaw, with x to the right of the picture, y up and z towards the camera. So positive yaw turns the face
to the right of the picture, positive pitch lowers the nose, positive roll turns the picture counter-clockwise.

Users, files and labels always use angles against the camera. The transformer's input depends on
`ModelConfig.pose_origin`: these angles ("camera"), or these minus the angles of the portrait's head ("portrait",
`conditioning_track`), so that zero is the head as the portrait shows it. A network conditioned on angles against the
camera has to guess the portrait's to know how far to turn, and stays too near to it.

A *frame track* [F, 3] has one row a frame at 25 fps, a *latent track* [T, 3] the mean of each latent's four frames.
`files` reads frame tracks. Three more columns may hold the eyes (`liveavatar.pose.blinks`): [F, 4] has the closure of
the lids, [F, 6] the gaze's yaw and pitch behind it. NaN there, and frames after the track's end, are seeded.
Shapes: F frames, T latents, h/w latent height and width, C columns.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from liveavatar.config import FROM_PORTRAIT, SKELETON_VIDEO, ModelConfig, refuse_pose
from liveavatar.errors import InputError
from liveavatar.timing import FPS, LATENT_FRAMES

POSE_SCALE = 0.3  # radians that become 1; the corpus seldom turns a head further
LOOK_SCALE = 0.1  # radians of the gaze that become 1
HEAD = 4  # channels of the head: yaw, pitch, roll, and a presence flag
EYES = 3  # channels of the eyes, behind those of the head: closure of the lids, yaw and pitch of the gaze
TRACK_COLUMNS = (3, 4, 6)  # of a frame track: the head, its lids, its gaze
LIMIT_KNEE = 0.8  # share of a model's limit up to which angles stay as they are
EASE_FRAMES = FPS  # frames in which a track that ends early eases to its mean


def pose_latents(track: Tensor | None, h: int, w: int, eyes: Tensor | None = None, channels: int = HEAD) -> Tensor:
    """Build condition latents [..., channels, T, h, w], each channel constant over the picture.

    The first three are the head's angles over `POSE_SCALE`, the fourth is 1 where a head pose is set; then come the
    closure of the lids and the angles of the gaze over `LOOK_SCALE`. Unset channels are zero. For the transformer all
    zeros are the same as None.

    Args:
        track: head pose [..., T, 3] in radians; None lets the head move by itself.
        h, w: latent height and width.
        eyes: eye track [..., T, 1 or 3] (`liveavatar.pose.blinks`), for models conditioned on it.
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
    """Clear the head's channels of pose latents [..., C, T, h, w]; the eyes' remain."""
    return torch.cat((torch.zeros_like(pose[..., :HEAD, :, :, :]), pose[..., HEAD:, :, :, :]), dim=-4)


def latent_track(frames_F3: Tensor) -> Tensor:
    """Average a frame track [..., F, 3] over the frames of each latent: [..., F/4, 3]."""
    return frames_F3.unflatten(-2, (-1, LATENT_FRAMES)).mean(-2)


def mirrored(track: Tensor) -> Tensor:
    """Mirror a head track [..., 3] left to right: yaw and roll change sign."""
    return track * track.new_tensor([-1.0, 1.0, -1.0])


def mirrored_eyes(track: Tensor) -> Tensor:
    """Mirror an eye track [..., 3] left to right: its yaw changes sign."""
    return track * track.new_tensor([1.0, -1.0, 1.0])


def split_track(frames_FC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split a frame track [F, 3, 4 or 6] into head track [F, 3] and eye track float32 [F, 3]; missing eyes are NaN.

    Raises:
        InputError: it has another shape, or its eyes are out of range.
    """
    if frames_FC.ndim != 2 or frames_FC.shape[1] not in TRACK_COLUMNS:
        raise InputError(
            f"the pose track has shape {frames_FC.shape}; give [frames, 3] angles of the head in radians, "
            "[frames, 4] with the closure of the lids, or [frames, 6] with the gaze's yaw and pitch"
        )
    head, columns = frames_FC[:, :3], frames_FC[:, 3:].astype(np.float32)
    eyes = np.pad(columns, ((0, 0), (0, EYES - columns.shape[1])), constant_values=np.nan)
    if np.isinf(eyes).any() or (eyes[:, 0] < 0).any() or (eyes[:, 0] > 1).any():
        raise InputError("the pose track's eyes are out of range; give lids 0 (open) to 1 (shut) and a gaze in radians")
    return head, eyes


def eyes_ignored(model: ModelConfig, frames_FC: np.ndarray) -> str:
    """Name the eye columns of a frame track that a model is not conditioned on; empty when it uses all of them."""
    present = np.isfinite(split_track(frames_FC)[1]).any(0)
    lids, gaze = present[0] and not model.lids_conditioned, present[1:].any() and not model.gaze_conditioned
    return " and ".join(["the lids"] * bool(lids) + ["the gaze"] * bool(gaze))


def conditioning_track(model: ModelConfig, frames_F3: np.ndarray, portrait_3: np.ndarray | None) -> np.ndarray:
    """Convert a frame track [F, 3] against the camera to what conditions the model.

    Angles are counted from the model's origin, the camera or the portrait's head, and kept within its limits.

    Args:
        model: its `pose_origin` and `pose_limits` decide.
        frames_F3: radians.
        portrait_3: angles of the portrait's head, radians; only needed where they are subtracted.

    Raises:
        InputError: the model is not conditioned on head pose, or the angles have another shape or are not finite.
    """
    refuse_pose(model)
    if model.pose_input == SKELETON_VIDEO:
        raise InputError(f"the model {model.name} takes drawn pictures, not angles; give them as `skeleton`")
    if frames_F3.ndim != 2 or frames_F3.shape[1] != 3 or not len(frames_F3) or not np.isfinite(frames_F3).all():
        raise InputError(f"the head pose has shape {frames_F3.shape}; give finite angles [frames, 3] in radians")
    return limited(model, _from_origin(model, frames_F3, portrait_3))


def _from_origin(model: ModelConfig, frames_F3: np.ndarray, portrait_3: np.ndarray | None) -> np.ndarray:
    """Count angles from the model's origin."""
    if model.pose_origin != FROM_PORTRAIT:
        return frames_F3
    if portrait_3 is None:
        raise InputError(
            f"the model {model.name} takes the head pose relative to the portrait's, which is missing; "
            "give portrait_pose along with pose"
        )
    if portrait_3.shape != (3,) or not np.isfinite(portrait_3).all():
        raise InputError(f"the portrait's head pose has shape {portrait_3.shape}; give 3 finite angles in radians")
    return (frames_F3 - portrait_3).astype(np.float32)


def limited(model: ModelConfig, track_F3: np.ndarray) -> np.ndarray:
    """Keep a track [F, 3] (radians from the model's origin) within the angles that the model was trained on.

    Angles up to `LIMIT_KNEE` of a limit stay as they are; beyond, they approach the limit and never reach it.
    """
    if not model.pose_limits:
        return track_F3
    limit = np.radians(model.pose_limits)
    size = np.abs(track_F3) / limit
    eased = LIMIT_KNEE + (1 - LIMIT_KNEE) * np.tanh((size - LIMIT_KNEE) / (1 - LIMIT_KNEE))
    return np.where(size <= LIMIT_KNEE, track_F3, np.sign(track_F3) * limit * eased).astype(np.float32)


def angles_beyond(model: ModelConfig, frames_F3: np.ndarray, portrait_3: np.ndarray | None) -> str:
    """Name the angles of a frame track [F, 3] that `limited` reduces by more than a degree; empty when there are none.

    Args:
        model, frames_F3, portrait_3: as in `conditioning_track`.
    """
    if not model.pose_limits:
        return ""
    track = _from_origin(model, frames_F3, portrait_3)
    reduced = np.degrees(np.abs(track - limited(model, track)).max(0)) > 1
    largest = np.degrees(np.abs(track).max(0))
    axes = zip(("yaw", "pitch", "roll"), largest, model.pose_limits, reduced, strict=True)
    return ", ".join(f"{name} of {angle:.0f} degrees (limit {limit:g})" for name, angle, limit, less in axes if less)


def fit_eyes(frames_F3: np.ndarray, num_frames: int) -> np.ndarray:
    """Cut an eye track [F, 3], or lengthen it with NaN (seeded eyes)."""
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
