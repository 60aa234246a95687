"""A video against the true one: the same, late, still, another frame rate, none."""

from pathlib import Path

import numpy as np
import pytest

from liveavatar.errors import InputError
from liveavatar.quality.against import compare_videos
from tests.puppet import Puppet, babble

SECONDS = 3
LATE = 3  # frames


@pytest.fixture(scope="module")
def mouth() -> tuple[np.ndarray, np.ndarray]:
    return babble(SECONDS, seed=7)


@pytest.fixture(scope="module")
def truth(puppet: Puppet, mouth: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    audio, openness = mouth
    return puppet.video(tmp_path_factory.mktemp("truth") / "true.mp4", openness, audio)


def test_the_true_video_against_itself(truth: Path) -> None:
    found = compare_videos(truth, truth)
    assert (found.frames, found.lag_frames) == (SECONDS * 25, 0)
    assert found.openness_corr == pytest.approx(1)
    assert found.width_corr == pytest.approx(1)
    assert found.texture_psnr is not None
    assert found.texture_psnr > 40


def test_lips_that_are_late_and_a_mouth_that_stops(
    puppet: Puppet, mouth: tuple[np.ndarray, np.ndarray], truth: Path, tmp_path: Path
) -> None:
    audio, openness = mouth
    late = puppet.video(tmp_path / "late.mp4", np.r_[openness[:1].repeat(LATE), openness[:-LATE]], audio)
    found = compare_videos(late, truth)
    assert found.lag_frames == LATE
    assert found.openness_corr is not None
    assert found.openness_corr < 0.9
    still = compare_videos(puppet.video(tmp_path / "still.mp4", np.full(SECONDS * 25, 0.1), audio), truth)
    assert still.openness_corr is None or abs(still.openness_corr) < 0.5


def test_two_videos_that_show_no_face_together_are_refused(truth: Path, puppet: Puppet, tmp_path: Path) -> None:
    blank = Puppet.__new__(Puppet)
    blank.__dict__.update(puppet.__dict__, rgb=np.zeros_like(puppet.rgb))
    other = blank.video(tmp_path / "blank.mp4", np.zeros(30), np.zeros(30 * 640, np.float32))
    with pytest.raises(InputError, match=r"--against .*show a face together for 0.00 s"):
        compare_videos(other, truth)
