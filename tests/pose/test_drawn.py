"""Skeleton videos: drawn ones as they are, faces followed to the portrait's place, angles that turn its points."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from liveavatar.errors import InputError
from liveavatar.media.ffmpeg import Frame
from liveavatar.paths import REPO_ROOT
from liveavatar.pose import drawn
from liveavatar.pose.drawn import fitted, on_clock_25, read_drawn
from liveavatar.pose.files import check_pose, is_drawn
from liveavatar.pose.packed import DrawnPose
from liveavatar.pose.skeleton import COLOURS
from tests.pose.test_files import film

PORTRAIT = REPO_ROOT / "data" / "samples" / "portrait.png"
SIDE, RIGHT_EYE = 256, 14


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's picture."""
    path = tmp_path_factory.mktemp("portrait") / "portrait.png"
    Image.open(PORTRAIT).convert("RGB").resize((SIDE, SIDE)).save(path)
    return path


def eye(picture: np.ndarray) -> np.ndarray:
    """Middle (x, y) of the pixels in the colour of the right eye, which no white point covers."""
    return np.argwhere((picture == COLOURS[RIGHT_EYE]).all(2)).mean(0)[::-1]


def skeleton(x: int) -> np.ndarray:
    picture = np.zeros((128, 192, 3), np.uint8)
    picture[40:90, x : x + 12] = 255, 85, 0
    return picture


def test_a_drawn_video_is_taken_as_it_is(portrait: Path, tmp_path: Path) -> None:
    path = film(tmp_path / "drawn.mp4", [skeleton(60 + 2 * t) for t in range(30)], fps=50)
    assert is_drawn(path)
    check_pose(path, True)
    with pytest.raises(InputError, match="shows no face"):
        check_pose(path)
    made = DrawnPose(read_drawn(path, str(portrait)))
    assert (made.num_frames, made.height, made.width) == (15, SIDE, SIDE)
    lit = [np.argwhere(made.frame(t).max(2) > 100)[:, 1].mean() for t in (0, 14)]
    middle = [(60 + 2 * t + 6 - 96) * 2 + 128 for t in (0, 28)]
    np.testing.assert_allclose(lit, middle, atol=3), "twice as large, cut around the middle, every second picture"
    assert DrawnPose(read_drawn(path, str(portrait), 4)).num_frames == 4


def faces(path: Path, fps: int, count: int) -> Path:
    """A video of the portrait, half as large and moving to the right by four pixels a picture."""
    small = np.asarray(Image.open(PORTRAIT).convert("RGB").resize((160, 160)))
    frames = []
    for t in range(count):
        picture = np.full((200, 300, 3), 200, np.uint8)
        picture[20:180, 40 + 4 * t : 200 + 4 * t] = small
        frames.append(picture)
    return film(path, frames, fps)


def test_a_face_is_followed_to_where_the_portrait_has_it(portrait: Path, tmp_path: Path) -> None:
    path = faces(tmp_path / "face.mp4", 25, 9)
    assert not is_drawn(path)
    made = DrawnPose(read_drawn(path, str(portrait)))
    assert made.num_frames == 9
    places = [eye(made.frame(t)) for t in range(9)]
    still = DrawnPose(read_drawn(csv(tmp_path, "0,0,0,0"), str(portrait)))
    assert np.abs(np.median(places, axis=0) - eye(still.frame(0))).max() < 12, "on the portrait's face"
    steps = np.diff(places, axis=0)[2:-2]
    np.testing.assert_allclose(steps[:, 0], 4 * SIDE / 160, atol=1.5), "as large as the portrait's face"
    assert np.abs(steps[:, 1]).max() < 2
    assert (made.frame(0).max(2) == 0).mean() > 0.7, "on black"


def csv(folder: Path, *rows: str) -> Path:
    path = folder / "pose.csv"
    path.write_text("\n".join(["frame,yaw,pitch,roll", *rows, ""]))
    return path


def test_angles_turn_the_portraits_own_points(portrait: Path, tmp_path: Path) -> None:
    table = csv(tmp_path, "0,0,0,0", "1,20,0,0", "2,-20,0,0", "3,0,20,0", "4,0,0,20")
    made = DrawnPose(read_drawn(table, str(portrait)))
    assert made.num_frames == 5
    front, right, left, down, turned = (eye(made.frame(t)) for t in range(5))
    assert right[0] - front[0] > 5, "positive yaw turns the face to the right of the picture"
    assert front[0] - left[0] > 5
    assert down[1] - front[1] > 4, "positive pitch lowers the face"
    assert turned[1] - front[1] > 4, "positive roll is counter-clockwise: the eye on the left goes down"


def test_a_portrait_without_a_face_cannot_be_turned(tmp_path: Path) -> None:
    Image.new("RGB", (128, 128), (120, 120, 120)).save(tmp_path / "grey.png")
    with pytest.raises(InputError, match="the portrait shows no face"):
        read_drawn(csv(tmp_path, "0,0,0,0"), str(tmp_path / "grey.png"))
    made = DrawnPose(read_drawn(faces(tmp_path / "face.mp4", 25, 3), str(tmp_path / "grey.png")))
    assert (made.num_frames, made.width) == (3, 128), "a video keeps its own place"


def test_a_dark_video_of_a_face_is_not_drawn(tmp_path: Path) -> None:
    small = np.asarray(Image.open(PORTRAIT).convert("RGB").resize((120, 120)))
    picture = np.zeros((240, 400, 3), np.uint8)
    picture[60:180, 140:260] = small
    assert not is_drawn(film(tmp_path / "dark.mp4", [picture] * 5, 25))
    assert not is_drawn(film(tmp_path / "black.mp4", [np.zeros((64, 64, 3), np.uint8)] * 5, 25))


def clock(seconds: list[float]) -> Iterator[Frame]:
    for index, at in enumerate(seconds):
        yield Frame(index=index, seconds=at, rgb=np.full((1, 1, 3), index, np.uint8))


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        pytest.param([0.0, 0.04, 0.08], [0, 1, 2], id="25 frames a second"),
        pytest.param([0.0, 0.02, 0.04, 0.06, 0.08], [0, 2, 4], id="50: every second one"),
        pytest.param([0.0, 0.1, 0.2], [0, 0, 1, 1, 2, 2], id="10: each as long as it is shown"),
        pytest.param([0.0, 0.04, 0.2], [0, 1, 1, 1, 2, 2], id="a gap is held"),
        pytest.param([0.0], [0], id="one picture"),
        pytest.param([], [], id="none"),
    ],
)
def test_times_count_and_not_numbers(seconds: list[float], chosen: list[int]) -> None:
    assert [int(picture[0, 0, 0]) for picture in on_clock_25(clock(seconds))] == chosen
    assert len(list(on_clock_25(clock(seconds), 2))) == min(2, len(chosen))


def test_a_picture_is_fitted_as_the_released_code_does() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    assert np.array_equal(fitted(picture, (96, 64)), picture)
    assert np.array_equal(fitted(picture, (64, 64)), picture[:, 16:80]), "the middle"
    wide = fitted(np.full((64, 64, 3), 255, np.uint8), (128, 64))
    assert wide[:, 32:96].all()
    assert not wide[:, :32].any(), "what is missing is black"
    assert fitted(picture, (32, 48)).shape == (48, 32, 3)


def test_reading_calls_back_after_every_frame(portrait: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[int] = []
    monkeypatch.setattr(drawn, "pack", list)
    path = film(tmp_path / "drawn.mp4", [skeleton(20)] * 6, fps=25)
    read_drawn(path, str(portrait), on_progress=lambda: beats.append(1))
    assert len(beats) == 6
