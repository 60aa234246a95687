"""Head pose from tables and videos: the angles and directions of the corpus, and one clear line for bad files."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from liveavatar.errors import InputError
from liveavatar.paths import REPO_ROOT
from liveavatar.pose.files import check_pose, read_pose, read_pose_csv
from liveavatar.quality.split import load_split

PORTRAIT = REPO_ROOT / "data" / "samples" / "portrait.png"
GREY = np.full((192, 128, 3), 128, np.uint8)


def film(path: Path, frames: list[np.ndarray], fps: int) -> Path:
    """A video of pictures uint8 [H, W, 3]."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(fps))
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.bit_rate = 4_000_000
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("text", "degrees"),
    [
        pytest.param("frame,yaw,pitch,roll\n0,10,0,-5\n1,20,0,-5\n2,30,3,-5\n", [10, 20, 30], id="every frame"),
        pytest.param("Frame, Yaw, Pitch, Roll, note\n0,10,0,-5,a\n2,30,3,-5,b\n", [10, 20, 30], id="gap interpolated"),
        pytest.param("frame;yaw;pitch;roll\n0;10;0;-5\n2;30,0;3;-5\n", [10, 20, 30], id="semicolons, decimal commas"),
        pytest.param("frame\tyaw\tpitch\troll\n0\t10\t0\t-5\n2\t30\t3\t-5\n", [10, 20, 30], id="tabs"),
        pytest.param("time;x\n", None, id="another separator"),
        pytest.param("time,roll,pitch,yaw\n0.0,-5,0,10\n0.08,-5,3,30\n", [10, 20, 30], id="seconds, other order"),
        pytest.param("frame,yaw,pitch,roll\n2,30,3,-5\n", [30, 30, 30], id="starts late: held before"),
    ],
)
def test_tables(tmp_path: Path, text: str, degrees: list[float] | None) -> None:
    path = tmp_path / "pose.csv"
    path.write_text(text)
    if degrees is None:
        with pytest.raises(InputError, match="no rows"):
            read_pose_csv(path)
        return
    track = read_pose(path)
    assert track.dtype == np.float32
    np.testing.assert_allclose(np.degrees(track[:, 0]), degrees, atol=1e-4)
    np.testing.assert_allclose(np.degrees(track[:, 2]), -5, atol=1e-4)
    assert len(read_pose(path, max_frames=2)) == 2


@pytest.mark.parametrize(
    ("header", "rows", "eyes"),
    [
        pytest.param("lids", "0\n2,10,0,-5,1", [[0], [0.5], [1]], id="lids"),
        pytest.param("Gaze_Pitch, gaze_yaw", "-9,9\n2,10,0,-5,9,18", [[9, -9], [13.5, 0], [18, 9]], id="gaze"),
        pytest.param("gaze_yaw,lids,gaze_pitch", "9,1,0", [[1, 9, 0]], id="both, any order"),
    ],
)
def test_tables_of_eyes(tmp_path: Path, header: str, rows: str, eyes: list[list[float]]) -> None:
    path = tmp_path / "pose.csv"
    path.write_text(f"frame,yaw,pitch,roll,{header}\n0,10,0,-5,{rows}\n")
    check_pose(path)
    track = read_pose(path)
    np.testing.assert_allclose(np.degrees(track[:, :3]), [[10, 0, -5]] * len(eyes), atol=1e-4)
    given = np.array(eyes)
    lids, gaze = (given[:, :-2], given[:, -2:]) if given.shape[1] > 1 else (given, given[:, :0])
    if not lids.size:
        lids = np.full((len(given), 1), np.nan)
    np.testing.assert_allclose(track[:, 3:4], lids, atol=1e-6)
    np.testing.assert_allclose(np.degrees(track[:, 4:]), gaze, atol=1e-4)


HEADER = b"frame,yaw,pitch,roll\n"
EYED = b"frame,yaw,pitch,roll,lids,gaze_yaw,gaze_pitch\n"


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        pytest.param("gone.csv", None, "not there", id="missing"),
        pytest.param("a.csv", b"", "no rows", id="empty"),
        pytest.param("a.csv", HEADER, "no rows", id="header only"),
        pytest.param("a.csv", b"frame,yaw,pitch\n0,1,2\n", "no column roll", id="column missing"),
        pytest.param("a.csv", b"yaw,pitch,roll\n0,1,2\n", "no column frame or time", id="no clock"),
        pytest.param("a.csv", HEADER + b"0,1,2,3\n1,nan,2,3\n", "line 3: holds nan", id="nan"),
        pytest.param("a.csv", HEADER + b"0,inf,2,3\n", "line 2: holds nan or infinity", id="infinity"),
        pytest.param("a.csv", HEADER + b"0,left,2,3\n", "line 2: a number is missing", id="word"),
        pytest.param("a.csv", HEADER + b"0,1,2\n", "line 2: a number is missing", id="short row"),
        pytest.param("a.csv", HEADER + b"0,1,2,90\n", "line 2: an angle exceeds 45", id="too far"),
        pytest.param("a.csv", HEADER + b"1,1,2,3\n1,1,2,3\n", "rise", id="frame twice"),
        pytest.param("a.csv", HEADER + b"-1,1,2,3\n", "start at 0", id="before the start"),
        pytest.param("a.csv", HEADER + b"1e12,1,2,3\n", "within 3 h", id="years long"),
        pytest.param(
            "a.csv", EYED + b"0,1,2,3,1,0,0\n1,1,2,3,1.2,0,0\n", "line 3: lids is not between", id="lids over 1"
        ),
        pytest.param("a.csv", EYED + b"0,1,2,3,-0.1,0,0\n", "line 2: lids is not between", id="lids below 0"),
        pytest.param("a.csv", EYED + b"0,1,2,3,1,0,60\n", "line 2: an angle exceeds 45", id="gaze too far"),
        pytest.param("a.csv", EYED + b"0,1,2,3,,0,0\n", "line 2: a number is missing", id="lids empty"),
        pytest.param("a.csv", EYED + b"0,1,2,3,0,nan,0\n", "line 2: holds nan", id="gaze nan"),
        pytest.param("a.csv", b"frame,yaw,pitch,roll,gaze_yaw\n0,1,2,3,4\n", "gaze_yaw alone", id="half a gaze"),
        pytest.param("a.csv", b"\x80\xfe\x00\x01", "no csv .*not UTF-8", id="binary"),
        pytest.param("gone.mp4", None, "not there", id="video missing"),
        pytest.param("a.mp4", b"", "empty", id="video of 0 bytes"),
        pytest.param("a.mp4", b"hello world\n" * 99, "no media file", id="text called mp4"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, data: bytes | None, says: str) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    for read in (check_pose, read_pose):
        with pytest.raises(InputError, match=says):
            read(path)


def test_videos_without_a_face_are_refused(tmp_path: Path) -> None:
    path = film(tmp_path / "grey.mp4", [GREY] * 12, 25)
    for read in (check_pose, read_pose):
        with pytest.raises(InputError, match="no face"):
            read(path)


def test_a_tilting_portrait_is_followed_at_any_frame_rate(tmp_path: Path) -> None:
    image = Image.open(PORTRAIT).convert("RGB").resize((256, 384))
    degrees = 12 * np.sin(np.arange(50) / 8)
    pictures = [np.asarray(image.rotate(a, Image.Resampling.BICUBIC, fillcolor=(90, 90, 90))) for a in degrees]
    for lost in range(20, 26):  # the face is gone for a moment
        pictures[lost] = np.full_like(pictures[0], 128)
    path = film(tmp_path / "tilt.mp4", pictures, 50)
    check_pose(path)
    track = np.degrees(read_pose(path))
    assert abs(len(track) - 25) <= 1
    wanted = degrees[::2][: len(track)]
    assert np.abs(track[: len(wanted), 2] - wanted).max() < 2.5  # the lost moment is a straight line
    assert len(read_pose(path, max_frames=7)) == 7


def test_a_video_is_followed_to_the_side_to_which_its_head_turns() -> None:
    clip = load_split()[1]
    track, true = read_pose(clip.path("film.mkv"), 75), clip.labels().head[:75]
    for axis, least in ((0, 0.95), (1, 0.9), (2, 0.9)):
        assert np.corrcoef(track[:, axis], true[:, axis])[0, 1] > least, ("yaw", "pitch", "roll")[axis]
