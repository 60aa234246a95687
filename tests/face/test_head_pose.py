"""Head pose read off the true videos of the evaluation split against their labels; directions are those of a track."""

from itertools import islice

import numpy as np
import pytest
from PIL import Image

from liveavatar.face.head_pose import face_pose, portrait_pose
from liveavatar.face.landmarks import FaceTracker
from liveavatar.media.ffmpeg import read_frames
from liveavatar.paths import REPO_ROOT
from liveavatar.pose.track import mirrored
from liveavatar.quality.split import Clip, load_split

CLIPS = (0, 1, 3, 5)  # the heads that turn furthest: yaw from -15 to 12 degrees
EVERY = 24  # frames


Sampled = list[tuple[list[np.ndarray], np.ndarray]]


@pytest.fixture(scope="module")
def sampled() -> Sampled:
    """Every 24th frame of each clip, and the true angles [N, 3]."""
    clips: list[Clip] = [load_split()[number] for number in CLIPS]
    return [
        ([f.rgb for f in islice(read_frames(c.path("film.mkv")), 0, None, EVERY)], c.labels().head[::EVERY])
        for c in clips
    ]


def poses(frames: list[np.ndarray], tracker: FaceTracker, flip: bool) -> np.ndarray:
    """Angles [N, 3] read off the frames, mirrored if `flip`."""
    read = []
    for frame in frames:
        rgb = np.ascontiguousarray(frame[:, ::-1]) if flip else frame
        face = tracker.find(rgb)
        assert face is not None
        read.append(face_pose(face, (rgb.shape[0], rgb.shape[1])))
    return np.stack(read)


@pytest.mark.parametrize("flip", [pytest.param(False, id="as filmed"), pytest.param(True, id="mirrored")])
def test_angles_are_those_of_the_labels(flip: bool, sampled: Sampled) -> None:
    import torch

    tracker = FaceTracker(1)
    read = np.concatenate([poses(frames, tracker, flip) for frames, _ in sampled])
    true = np.concatenate([angles for _, angles in sampled])
    if flip:
        true = mirrored(torch.from_numpy(true)).numpy()
    for axis, (name, error, least) in enumerate((("yaw", 3.5, 0.98), ("pitch", 5.0, 0.8), ("roll", 1.5, 0.9))):
        assert np.corrcoef(read[:, axis], true[:, axis])[0, 1] > least, name
        assert np.abs(np.degrees(read[:, axis] - true[:, axis])).mean() < error, name


def test_a_tilted_portrait_reads_as_tilted() -> None:
    image = Image.open(REPO_ROOT / "data" / "samples" / "portrait.png").convert("RGB").resize((256, 384))
    upright, tilted = (portrait_pose(np.asarray(image.rotate(a, Image.Resampling.BICUBIC))) for a in (0, 10))
    assert upright is not None
    assert tilted is not None
    assert np.degrees(tilted - upright)[2] == pytest.approx(10, abs=2)


def test_a_picture_without_a_face_has_no_pose() -> None:
    assert portrait_pose(np.full((192, 128, 3), 128, np.uint8)) is None
