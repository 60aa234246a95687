"""Landmarks on a real face: openness, tracking, loss and rest; and a silent terminal while the network loads."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from liveavatar.face import landmarks
from liveavatar.face.landmarks import FaceTracker
from tests.puppet import Puppet

# The tracker is loaded as a render loads it; before, during and after that, others write to the same terminal.
SCRIPT = """
import os, sys
import ai_edge_litert.interpreter as litert

{before}
whole = litert.Interpreter.allocate_tensors

def allocate(self):
    whole(self)
    {meanwhile}

litert.Interpreter.allocate_tensors = allocate
from liveavatar.face.landmarks import FaceTracker

try:
    FaceTracker()
except RuntimeError as e:
    sys.stderr.write(f"raised {{e}}\\n")
sys.stderr.write("after\\n")
sys.stderr.flush()
os.system("echo a child >&2")
"""


@pytest.mark.parametrize(
    ("before", "meanwhile", "lines"),
    [
        pytest.param("", "", ["after", "a child"], id="nothing happens"),
        pytest.param(
            "", "os.write(2, b'ERROR: no memory\\n')", ["ERROR: no memory", "after", "a child"], id="an error"
        ),
        pytest.param("", "os.system('echo ffmpeg: no >&2')", ["ffmpeg: no", "after", "a child"], id="a child's error"),
        pytest.param("", "raise RuntimeError('broken')", ["raised broken", "after", "a child"], id="it fails"),
        pytest.param("os.close(2); os.open('later', os.O_RDWR | os.O_CREAT)", "", [], id="standard error is a file"),
    ],
)
def test_the_terminal_shows_errors_and_no_notes(
    before: str, meanwhile: str, lines: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("terminal")
    script = SCRIPT.format(before=before.replace("later", str(folder / "later")), meanwhile=meanwhile or "pass")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == lines
    if before:
        assert (folder / "later").read_text().splitlines() == ["after", "a child"]


def test_the_note_is_still_written_where_nothing_keeps_it_away() -> None:
    script = SCRIPT.format(before="", meanwhile="pass").replace("FaceTracker()", "load()")
    script = script.replace(
        "from liveavatar.face.landmarks import FaceTracker",
        "from liveavatar.face import landmarks\nimport contextlib\n"
        "landmarks._notes_dropped = contextlib.nullcontext\nload = landmarks.FaceTracker",
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert "XNNPACK" in done.stderr.splitlines()[0], "the note has gone by itself: so can the redirection"


@pytest.fixture(scope="module")
def tracker() -> FaceTracker:
    return FaceTracker(threads=1)


def test_openness_follows_the_mouth(puppet: Puppet, tracker: FaceTracker) -> None:
    tracker.reset()
    read = []
    for opening in (0.0, 0.06, 0.12, 0.2, 0.28):
        face = tracker.track(puppet.frame(opening))
        assert face is not None
        read.append(face.openness)
    assert np.all(np.diff(read) > 0.02)
    assert read[0] < 0.07


def test_tracking_reads_what_detection_reads(puppet: Puppet, tracker: FaceTracker) -> None:
    picture = puppet.frame(0.15, sway=(5.0, -3.0))
    tracker.reset()
    found = tracker.find(picture)
    tracker.reset()
    tracker.track(puppet.frame(0.12))
    followed = tracker.track(picture)
    assert found is not None
    assert followed is not None
    assert followed.openness == pytest.approx(found.openness, abs=0.02)


def test_a_face_is_read_where_another_picture_has_it(puppet: Puppet, tracker: FaceTracker) -> None:
    rest = tracker.find(puppet.rgb)
    assert rest is not None
    picture = puppet.frame(0.2, sway=(4.0, -2.0))
    tracker.reset()
    near = tracker.near(picture, rest)
    assert near is not None
    assert near.openness > rest.openness + 0.1
    assert (near.points - rest.points).mean(0) == pytest.approx((4, -2), abs=3)
    assert tracker.near(np.zeros_like(picture), rest) is None


@pytest.fixture(scope="module")
def pair(puppet: Puppet) -> np.ndarray:
    """A large face on the left and a smaller one on the right."""
    height, width = puppet.rgb.shape[:2]
    both = np.full((height, width + width // 2, 3), 90, np.uint8)
    both[:, :width] = puppet.rgb
    both[height // 4 : height // 4 + height // 2, width : width + width // 2] = cv2.resize(
        puppet.rgb, (width // 2, height // 2)
    )[:, : width // 2]
    return both


@pytest.mark.parametrize(("chosen", "right"), [(1, False), (2, True), (5, True)])
def test_a_face_is_chosen_by_its_size_and_kept(chosen: int, right: bool, pair: np.ndarray, puppet: Puppet) -> None:
    tracker = FaceTracker(threads=1, face=chosen)
    assert tracker.count(pair) == 2
    middle = puppet.rgb.shape[1]
    for picture in (pair, pair, np.zeros_like(pair), pair):  # lost, and found again in its place
        face = tracker.track(picture)
        assert face is None or (face.points[:, 0].mean() > middle) == right
    assert face is not None


def test_a_picture_of_one_face_has_no_second(puppet: Puppet) -> None:
    tracker = FaceTracker(threads=1, face=2)
    assert tracker.count(puppet.rgb) == 1
    assert tracker.find(puppet.rgb) is not None, "the portrait of one person for a video of two"


def test_a_lost_face_is_found_again(puppet: Puppet, tracker: FaceTracker) -> None:
    height, width = puppet.rgb.shape[:2]
    tracker.reset()
    assert tracker.track(puppet.rgb) is not None
    assert tracker.track(np.zeros_like(puppet.rgb)) is None
    moved = np.zeros((height * 2, width * 2, 3), np.uint8)
    moved[height:, width:] = puppet.rgb
    assert tracker.track(moved) is not None


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(np.zeros((256, 384, 3), np.uint8), id="black"),
        pytest.param(np.full((256, 384, 3), 128, np.uint8), id="grey"),
        pytest.param(np.random.default_rng(0).integers(0, 256, (256, 384, 3), np.uint8), id="noise"),
        pytest.param(np.zeros((1, 1, 3), np.uint8), id="one pixel"),
    ],
)
def test_no_face_where_there_is_none(picture: np.ndarray, tracker: FaceTracker) -> None:
    tracker.reset()
    assert tracker.track(picture) is None


def test_landmarks_rest_on_a_real_face(puppet: Puppet, tracker: FaceTracker) -> None:
    face = tracker.find(puppet.rgb)
    assert face is not None
    assert tracker.wander(puppet.rgb, face) < landmarks.UNSTEADY / 2
