"""Skeleton videos: pictures at the model's size and 25 fps that guide a model, from a video, a table, or as drawn.

A *drawn* video, on black, is taken as it is: resized to the shorter side and cut around its middle, as the released
code does. In any other video the face is followed (`liveavatar.face.landmarks`), its key points are moved to where the
portrait has its face, and drawn (`liveavatar.pose.skeleton`). A table of head angles turns the portrait's own key
points. Times count, not numbers of frames, whatever the rate of the video.

Shapes: F frames at 25 fps.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from liveavatar.errors import InputError
from liveavatar.face.landmarks import Face
from liveavatar.media.ffmpeg import Frame, read_frames
from liveavatar.pose.files import is_drawn, is_table, read_pose_csv, smooth, tracked_share, tracker_of
from liveavatar.pose.packed import pack
from liveavatar.pose.skeleton import draw, eyes_of, head_keypoints, with_resting_lips
from liveavatar.timing import FPS


def read_drawn(
    path: Path,
    portrait: str,
    max_frames: int | None = None,
    *,
    on_progress: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Make the packed skeleton video of a pose file for a portrait.

    Args:
        path: a drawn video, a video of a face, or a csv of head angles as `read_pose_csv` takes it.
        portrait: file of the model's picture; the result has its size, and the drawn face is where its face is.
        max_frames: at most so many.
        on_progress: called after every frame of a video.

    Raises:
        InputError: the file cannot be used, or a csv is given and the portrait shows no face.
    """
    from PIL import Image

    picture = np.asarray(Image.open(portrait).convert("RGB"))
    size = picture.shape[1], picture.shape[0]
    if not is_table(path) and is_drawn(path):
        return pack(fitted(frame, size) for frame in on_clock_25(read_frames(path), max_frames, on_progress))
    own = tracker_of(path).find(picture)
    if is_table(path):
        points = _turned(path, own, size, max_frames)
    else:
        points = with_resting_lips(_followed(path, own, size, max_frames, on_progress))
    return pack(draw(keypoints, size) for keypoints in head_keypoints(points))


def on_clock_25(
    frames: Iterable[Frame], max_frames: int | None = None, on_progress: Callable[[], None] = lambda: None
) -> Iterator[np.ndarray]:
    """Yield the picture uint8 [H, W, 3] nearest to each moment of 25 fps, by the time stamps of the frames.

    Args:
        frames: in the order of their times.
        max_frames: at most so many.
        on_progress: called after every frame.
    """
    made, before = 0, None
    for frame in frames:
        on_progress()
        while before is not None and made / FPS <= (before.seconds + frame.seconds) / 2:
            if made == max_frames:
                return
            yield before.rgb
            made += 1
        before = frame
    while before is not None and made != max_frames and made / FPS < before.seconds + 0.5 / FPS:
        yield before.rgb
        made += 1


def fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a picture [H, W, 3] to the shorter side of `size` (width, height) and cut its middle; missing is black."""
    from PIL import Image

    width, height = size
    image = Image.fromarray(picture)
    if image.size != size:
        scale = min(size) / min(image.size)
        longer = int(scale * max(image.size))
        resized = (min(size), longer) if image.width <= image.height else (longer, min(size))
        image = image.resize(resized, Image.Resampling.BILINEAR)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return np.asarray(image.crop((left, top, left + width, top + height)))


def _followed(
    path: Path, own: Face | None, size: tuple[int, int], max_frames: int | None, on_progress: Callable[[], None]
) -> np.ndarray:
    """Follow the face of a video: meshes [F, 478, 2] at 25 fps, where the portrait has its face."""
    tracker, times, seen, found = tracker_of(path), [], [], []
    shape = (0, 0)
    for frame in read_frames(path):
        on_progress()
        if max_frames is not None and frame.seconds * FPS > max_frames:
            break
        times.append(frame.seconds)
        shape = (frame.rgb.shape[1], frame.rgb.shape[0])
        face = tracker.track(frame.rgb)
        if face is not None:
            seen.append(frame.seconds)
            found.append(face.points)
    tracked_share(path, len(seen), len(times))
    clock_25 = np.arange(max(1, math.floor(times[-1] * FPS + 0.5) + 1)) / FPS
    flat = np.stack(found).reshape(len(found), -1)
    points = smooth(np.stack([np.interp(clock_25, seen, column) for column in flat.T], 1)).reshape(len(clock_25), -1, 2)
    middle, distance = eyes_of(points)
    if own is None:  # the video's own place, as `fitted` would cut it
        scale = min(size) / min(shape)
        placed = (points - np.array(shape) / 2) * scale + np.array(size) / 2
    else:
        there, own_distance = eyes_of(own.points[None])
        placed = (points - middle) * (own_distance / distance) + there
    return placed.astype(np.float32)[:max_frames]


def _turned(path: Path, own: Face | None, size: tuple[int, int], max_frames: int | None) -> np.ndarray:
    """Turn the portrait's mesh by a table of angles: [F, 478, 2]."""
    from liveavatar.face.head_pose import face_pose, rotation

    if own is None:
        raise InputError(
            f"{path}: the portrait shows no face that angles could turn; give a video, or another portrait"
        )
    track = read_pose_csv(path)[:max_frames, :3]
    assert own.depths is not None
    solid = np.c_[own.points, own.depths].astype(np.float64)
    centre = np.array([*eyes_of(own.points[None])[0], solid[:, 2].max()])  # the neck lies behind the face
    from_picture = np.diag([1.0, -1.0, -1.0])  # of the angles: y up, z to the camera
    rest = rotation(face_pose(own, (size[1], size[0])))
    turns = np.stack([from_picture @ rotation(angles) @ rest.T @ from_picture for angles in track])
    return (((solid - centre) @ turns.transpose(0, 2, 1)) + centre)[..., :2].astype(np.float32)
