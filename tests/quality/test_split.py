"""Files of the evaluation split hold what was written."""

from pathlib import Path

import numpy as np
import pytest

from liveavatar.errors import InputError
from liveavatar.face.head_pose import portrait_pose
from liveavatar.quality.split import FOLDER, Clip, load_split
from liveavatar.timing import FPS, SAMPLE_RATE


def test_a_stored_clip_holds_together(stored: list[Clip]) -> None:
    clip = stored[-1]
    frames, labels, photo = clip.frames(), clip.labels(), clip.photo()
    assert frames.shape == (clip.info.num_frames, *photo.shape)
    assert len(labels.landmarks) == len(labels.head) == len(labels.expression) == len(labels.eyes) == len(frames)
    assert len(clip.speech()) == len(frames) * SAMPLE_RATE // FPS
    height, width = photo.shape[:2]
    inside = (labels.landmarks > 0).all(-1) & (labels.landmarks < [width, height]).all(-1)
    assert inside.mean() > 0.99
    assert clip.info.film_psnr > 42
    read = portrait_pose(photo)
    assert read is not None
    assert np.abs(np.degrees(read - labels.photo_head)).max() < 6


def test_true_eyes_blink_and_look_at_the_camera_most_of_the_time(stored: list[Clip]) -> None:
    eyes = np.stack([clip.labels().eyes for clip in stored])
    lids, look = eyes[..., 0], eyes[..., 1:]
    assert (lids.min(), lids.max()) == (0, 1)
    assert ((lids > 0.3).mean(1) > 0.02).all(), "everyone blinks"
    assert 0.4 < (np.abs(look).max(-1) < 1e-4).mean() < 0.85
    assert 0.02 < look[..., 1].std() < look[..., 0].std() < 0.1


def test_labels_without_eyes_are_refused(short: Path, tmp_path: Path) -> None:
    clip = load_split(short)[0]
    with np.load(clip.path("labels.npz")) as raw:
        np.savez(tmp_path / clip.path("labels.npz").name, **{k: raw[k] for k in raw.files if k != "eyes"})
    with pytest.raises(InputError, match="holds no eyes"):
        Clip(tmp_path, clip.info).labels()


def test_there_is_a_way_out_when_it_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="evaluation_pack"):
        load_split(tmp_path)
    with pytest.raises(InputError, match="at least 1"):
        load_split(FOLDER, 0)
