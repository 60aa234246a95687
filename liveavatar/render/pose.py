"""The pose of a render as its engine takes it: a frame track of angles, or the pictures of a drawn skeleton.

A .npy file holds either: float32 [F, 3, 4 or 6] (`liveavatar.pose.track`), or packed pictures, uint8 [bytes]
(`liveavatar.pose.packed`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from liveavatar.config import FROM_PORTRAIT, SKELETON_VIDEO, ModelConfig
from liveavatar.pose.packed import DrawnPose
from liveavatar.pose.track import angles_beyond, eyes_ignored


@dataclass(frozen=True, kw_only=True, slots=True)
class JobPose:
    """Guidance of a job's head; without any it moves by itself."""

    track: np.ndarray | None = None  # float32 [F, 3, 4 or 6]
    portrait: np.ndarray | None = None  # angles [3] of the picture's head, radians
    skeleton: DrawnPose | None = None


def read_pose(
    config: ModelConfig,
    path: Path | None,
    image: np.ndarray,
    portrait_pose: tuple[float, ...] | None,
    note: Callable[[str], None],
) -> JobPose:
    """Read the pose file of a job.

    Args:
        config: of the model.
        path: the file; None: there is none.
        image: the model's picture uint8 [H, W, 3].
        portrait_pose: angles of its head, where they are known.
        note: receives remarks for the user: what the model does not take, or not so far.

    Raises:
        InputError: it holds no pictures, and the model takes some.
    """
    if path is None:
        return JobPose()
    if config.pose_input == SKELETON_VIDEO:
        return JobPose(skeleton=DrawnPose(np.load(path, mmap_mode="r")))
    track: np.ndarray = np.load(path)
    ignored = eyes_ignored(config, track)
    if ignored:
        note(f"the model {config.name} has no input for {ignored} of the pose track, and ignores it")
    portrait = _portrait_pose(config, image, track, portrait_pose, note)
    beyond = angles_beyond(config, track[:, :3], portrait)
    if beyond:
        note(
            f"the head turns less far than the pose track asks: {beyond}; {config.name} was not trained on more, and a "
            "face would dissolve"
        )
    return JobPose(track=track, portrait=portrait)


def _portrait_pose(
    config: ModelConfig,
    image: np.ndarray,
    track: np.ndarray,
    known: tuple[float, ...] | None,
    note: Callable[[str], None],
) -> np.ndarray | None:
    """Return angles [3] of the picture's head, for a model that takes the track [F, 3, 4 or 6] relative to them.

    Without a face in the picture they are those of the track's mean, which a note then says.
    """
    if config.pose_origin != FROM_PORTRAIT:
        return None
    if known is not None:
        return np.array(known, np.float32)
    from liveavatar.face.head_pose import portrait_pose

    angles = portrait_pose(image)
    if angles is not None:
        return angles
    note("no face is found in the portrait; its head pose is taken for the mean of the given poses")
    mean: np.ndarray = track[:, :3].mean(0)
    return mean
