"""Pose files: head pose and eyes from a table of angles, or from a video whose face is tracked.

A table (csv) has a header with `frame` (at 25 fps) or `time` (seconds), and `yaw`, `pitch`, `roll` in degrees,
directions as in `liveavatar.pose.track`. It may have `lids`, 0 open to 1 shut, and `gaze_yaw` with `gaze_pitch` in
degrees, 0 at the camera. In a video the rotation of every frame is solved from landmarks that neither speech nor facial
expression moves, and the eyes are read as in `liveavatar.face.eye_reading`. Both give a frame track [F, 3, 4 or 6] at
25 fps, angles in radians.
"""

import csv
import io
import logging
import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from liveavatar.errors import InputError
from liveavatar.face.eye_reading import eye_reading, seen_eyes
from liveavatar.face.head_pose import face_pose
from liveavatar.face.landmarks import FaceTracker
from liveavatar.face.models import FaceModelUnavailable
from liveavatar.files import exists
from liveavatar.media.ffmpeg import probe_video, read_frames
from liveavatar.pose.csv_text import read_csv_text
from liveavatar.timing import FPS

log = logging.getLogger(__name__)

ANGLES = ("yaw", "pitch", "roll")
LIDS, GAZE = "lids", ("gaze_yaw", "gaze_pitch")
CLOCKS = {"frame": 1.0 / FPS, "time": 1.0}  # name of the first column and its unit in seconds
MAX_ANGLE = 45.0  # degrees; beyond, an eye is hidden
MAX_SECONDS = 3 * 3600.0
LOOK_SECONDS, LOOK_EVERY = 60.0, 10  # `check_pose` searches every 10th frame of this time for a face
MIN_FOUND = 1 / 3  # share of a video's frames in which a face must be found
DARK_LEVEL, DARK_SHARE = 24, 0.75  # a picture is drawn on black where so many of its pixels are darker than that
LOOKED_AT = 5  # pictures of a video by which it is called drawn
SMOOTHING = np.array([1, 2, 3, 2, 1]) / 9  # frames; landmarks tremble by about half a degree


def is_table(path: Path) -> bool:
    """Tell whether a pose file is a table; anything else is treated as a video."""
    return path.suffix.lower() == ".csv"


def read_pose(
    path: Path, max_frames: int | None = None, *, on_progress: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Read the frame track [F, 3, 4 or 6] of a table or a video, at most `max_frames` long.

    Calls `on_progress` after every frame of a video.

    Raises:
        InputError: the file cannot be used.
    """
    return read_pose_csv(path)[:max_frames] if is_table(path) else pose_from_video(path, max_frames, on_progress)


def check_pose(path: Path, drawn: bool = False, *, on_progress: Callable[[], None] = lambda: None) -> None:
    """Check a pose file quickly.

    Args:
        path: the file.
        drawn: whether a skeleton on black will do.
        on_progress: called after every frame of a video.

    Raises:
        InputError: a wrong table, a file that is no video, or a video without a face in its first minute.
    """
    if is_table(path):
        read_pose_csv(path)
        return
    probe_video(path)
    if drawn and is_drawn(path):
        return
    tracker = tracker_of(path)
    for frame in read_frames(path):
        on_progress()
        if frame.seconds > LOOK_SECONDS:
            break
        if frame.index % LOOK_EVERY == 0 and tracker.find(frame.rgb) is not None:
            return
    raise InputError(f"{path} shows no face in its first minute; give a video of one face that looks at the camera")


def is_drawn(path: Path) -> bool:
    """Tell if a video is a skeleton on black: in its first pictures most pixels are dark, not all, and no face is."""
    first = [frame.rgb for frame in islice(read_frames(path), LOOKED_AT)]
    dark = [float((picture.max(2) < DARK_LEVEL).mean()) for picture in first]
    if not dark or min(dark) < DARK_SHARE or min(dark) == 1.0:
        return False
    try:
        tracker = FaceTracker()
    except FaceModelUnavailable:
        return True
    return all(tracker.find(picture) is None for picture in first)


def read_pose_csv(path: Path) -> np.ndarray:
    """Read the frame track float32 [F, 3, 4 or 6] of a table, interpolated between its rows.

    Angles are in radians. A gaze without `lids` has NaN for them: seeded blinks are used.

    Raises:
        InputError: the table is missing, empty, or holds values that are no pose.
    """
    if not (exists(path) and path.is_file()):
        raise InputError(f"{path} is not there; give a csv of head angles or a video")
    rows = _rows(path)
    columns = {str(name).strip().lower(): name for name in (rows[0] if rows else {})}
    clock = next((name for name in CLOCKS if name in columns), None)
    if not rows:
        raise InputError(f"{path} holds no rows; give a header (frame or time, yaw, pitch, roll) and a row a frame")
    if clock is None or not columns.keys() >= set(ANGLES):
        missing = [name for name in ANGLES if name not in columns] + ["frame or time"] * (clock is None)
        raise InputError(
            f"{path} has no column {', '.join(missing)}; name its columns frame (or time), yaw, pitch, roll"
        )
    names = (*ANGLES, *_eye_columns(path, set(columns)))
    selected = [columns[name] for name in (clock, *names)]
    table = np.array([_numbers(path, line, [row[name] for name in selected]) for line, row in enumerate(rows, 2)])
    times = table[:, 0] * CLOCKS[clock]
    if times[0] < 0 or (np.diff(times) <= 0).any() or times[-1] > MAX_SECONDS:
        raise InputError(f"{path}: column {clock} must start at 0 or later, rise from row to row and end within 3 h")
    is_lids = np.array([name == LIDS for name in names])
    _check_ranges(path, table[:, 1:], is_lids)
    clock_25 = np.arange(max(1, math.floor(times[-1] * FPS + 1e-6) + 1)) / FPS
    track = _resample(times, table[:, 1:], clock_25)
    track = np.where(is_lids, track, np.radians(track))
    if names == (*ANGLES, *GAZE):
        track = np.insert(track, len(ANGLES), np.nan, axis=1)
    return track.astype(np.float32)


def _rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a csv by the names in its header; cells are divided by commas, semicolons or tabs."""
    try:
        text, delimiter = read_csv_text(path)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        rows = list(reader)
    except (ValueError, csv.Error) as e:
        raise InputError(f"{path} is no csv ({e}); save the table as csv in UTF-8") from e
    header = [name.strip().lower() for name in reader.fieldnames or []]
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice:
        raise InputError(f"{path} names the column {twice} twice; name each once")
    for line, row in enumerate(rows, 2):
        if any(cell.strip() for cell in row.pop(None, [])):
            raise InputError(f"{path}, line {line}: it has more cells than the header names; repair the row")
    if delimiter != ",":  # numbers are then written with a comma in half of Europe
        rows = [{name: (cell or "").replace(",", ".") for name, cell in row.items()} for row in rows]
    return rows


def _eye_columns(path: Path, columns: set[str]) -> tuple[str, ...]:
    """Select a table's eye columns, in the order of a track."""
    gaze = [name for name in GAZE if name in columns]
    if len(gaze) == 1:
        raise InputError(f"{path} has a column {gaze[0]} alone; give {' and '.join(GAZE)}, or neither")
    return (*([LIDS] if LIDS in columns else []), *gaze)


def _check_ranges(path: Path, values: np.ndarray, is_lids: np.ndarray) -> None:
    far = np.flatnonzero((~is_lids & (np.abs(values) > MAX_ANGLE)).any(1))
    if len(far):
        raise InputError(
            f"{path}, line {far[0] + 2}: an angle exceeds {MAX_ANGLE:.0f} degrees; the face would not be seen"
        )
    outside = np.flatnonzero((is_lids & ((values < 0) | (values > 1))).any(1))
    if len(outside):
        raise InputError(f"{path}, line {outside[0] + 2}: {LIDS} is not between 0 (open) and 1 (shut); repair the row")


def _numbers(path: Path, line: int, cells: list[str | None]) -> list[float]:
    try:
        values = [float(cell or "") for cell in cells]
    except ValueError as e:
        raise InputError(f"{path}, line {line}: a number is missing or no number ({e}); repair the row") from e
    if not all(math.isfinite(v) for v in values):
        raise InputError(f"{path}, line {line}: holds nan or infinity; leave the row out, gaps are interpolated")
    return values


def _resample(times: np.ndarray, values: np.ndarray, new_times: np.ndarray) -> np.ndarray:
    return np.stack([np.interp(new_times, times, column) for column in values.T], 1)


def pose_from_video(
    path: Path, max_frames: int | None = None, on_progress: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Read the frame track float32 [F, 6] of the most prominent face in a video of any frame rate, angles in radians.

    Frames without a face are interpolated, and the head is smoothed over five frames of 25 fps. Of the gaze only the
    yaw is read (`liveavatar.face.eye_reading`); when the eyes are too small to be read the track is [F, 3].

    Args:
        path: any video file.
        max_frames: length of the track at most, at 25 fps; the video is not read further.
        on_progress: called after every frame.

    Raises:
        InputError: no video, no face, or a face in too few frames.
    """
    tracker = tracker_of(path)
    times, seen, angles, eyes = [], [], [], []
    for frame in read_frames(path):
        on_progress()
        if max_frames is not None and frame.seconds * FPS > max_frames:
            break
        times.append(frame.seconds)
        face = tracker.track(frame.rgb)
        if face is not None:
            seen.append(frame.seconds)
            angles.append(face_pose(face, frame.rgb.shape[:2]))
            eyes.append(eye_reading(face))
    tracked_share(path, len(seen), len(times))
    num_frames = max(1, math.floor(times[-1] * FPS + 0.5) + 1)
    clock_25 = np.arange(num_frames) / FPS
    track, readings = (_resample(np.array(seen), np.stack(rows), clock_25) for rows in (angles, eyes))
    track = smooth(track)
    limit = math.radians(MAX_ANGLE)
    if np.abs(track).max() > limit:
        log.warning("%s turns further than %.0f degrees; it is followed up to there", path, MAX_ANGLE)
    track = np.clip(track, -limit, limit)
    looks = seen_eyes(readings, track[:, 0])
    if looks is None:
        log.warning("%s shows eyes too small or too shut to be read; only its head is followed", path)
    return np.concatenate([track] if looks is None else [track, looks], 1, dtype=np.float32)[:max_frames]


def tracked_share(path: Path, found: int, frames: int) -> None:
    """Refuse a video whose face was found in too few of its frames. Raises InputError."""
    if found < max(1, MIN_FOUND * frames):
        shown = f"a face in only {found} of its {frames} frames" if found else "no face"
        raise InputError(f"{path} shows {shown}; give a video of one face that looks at the camera, or a csv")


def smooth(track_FC: np.ndarray) -> np.ndarray:
    """Smooth the columns of a track [F, C] over five frames."""
    edge = len(SMOOTHING) // 2
    padded = np.pad(track_FC, ((edge, edge), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, SMOOTHING, "valid") for column in padded.T], 1)


def tracker_of(path: Path) -> FaceTracker:
    """Make the tracker of a pose file. Raises InputError where face models are missing."""
    try:
        return FaceTracker()
    except FaceModelUnavailable as e:
        raise InputError(f"{path}: the faces of a video cannot be followed here ({e}); give a csv of angles") from e
