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


def poses(clip: Clip, tracker: FaceTracker, flip: bool) -> tuple[np.ndarray, np.ndarray]:
    """Angles [N, 3] read off every 24th frame, mirrored if `flip`, and the true ones."""
    read = []
    for frame in islice(read_frames(clip.path("film.mkv")), 0, None, EVERY):
        rgb = np.ascontiguousarray(frame.rgb[:, ::-1]) if flip else frame.rgb
        face = tracker.find(rgb)
        assert face is not None
        read.append(face_pose(face, (rgb.shape[0], rgb.shape[1])))
    return np.stack(read), clip.labels().head[::EVERY]


@pytest.mark.parametrize("flip", [pytest.param(False, id="as filmed"), pytest.param(True, id="mirrored")])
def test_angles_are_those_of_the_labels(flip: bool) -> None:
    import torch

    tracker, split = FaceTracker(1), load_split()
    pairs = [poses(split[number], tracker, flip) for number in CLIPS]
    read, true = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
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
