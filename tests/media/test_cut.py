"""Videos that lack their end are refused by the sizes that they give themselves."""

import subprocess
from pathlib import Path

import pytest

from liveavatar.errors import InputError
from liveavatar.media.cut import missing_bytes
from liveavatar.media.ffmpeg import ffmpeg_binary, probe_video, read_frames
from tests.media.videos import tone, write

WEBM = ("-c:v", "libvpx", "-b:v", "2M", "-crf", "4", "-c:a", "libopus")


def converted(source: Path, path: Path, *options: str) -> Path:
    """Convert a video with ffmpeg."""
    subprocess.run([ffmpeg_binary(), "-v", "error", "-i", str(source), *options, str(path)], check=True)
    return path


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mp4", ()),
        ("mov", ("-c", "copy", "-movflags", "+faststart")),
        ("avi", ("-c", "copy")),
        ("mkv", ("-c", "copy")),
        ("webm", WEBM),
    ],
)
def test_a_video_that_lacks_its_end_is_refused_wherever_the_cut_is(
    kind: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    whole = write(tmp_path / "film.mp4", 48, tone(48 / 25))
    whole = converted(whole, tmp_path / f"film.{kind}", *options) if options else whole
    assert missing_bytes(whole) == 0
    assert sum(1 for _ in read_frames(whole)) == 48
    content, cut = whole.read_bytes(), tmp_path / f"cut.{kind}"
    for share in (0.5, 0.9, 0.97, 0.99):
        cut.write_bytes(content[: int(share * len(content))])
        lost = len(content) - cut.stat().st_size
        with pytest.raises(InputError, match=rf"cut.{kind} is cut off: {lost} of its {len(content)} bytes are missing"):
            probe_video(cut)


def test_boxes_of_64_bits_and_files_of_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    for size, lost in ((5_000, 4_000), (1_000, 0), (1_100, 0)):
        path.write_bytes(b"\0\0\0\x08ftyp" + b"\0\0\0\1mdat" + (size + 16).to_bytes(8) + bytes(1_000))
        assert missing_bytes(path) == lost
    path.write_bytes(b"\0\0\0\x08ftyp" + b"\0\0\0\0mdat" + bytes(1_000))
    assert missing_bytes(path) == 0, "to the end"
    path.write_bytes(b"RIFF\0\0\1\0mdat")
    assert missing_bytes(path) == 0


def test_a_stream_of_matroska_says_nothing_of_its_end(tmp_path: Path) -> None:
    live = write(tmp_path / "film.mp4", 24)
    live = converted(live, tmp_path / "live.mkv", "-c", "copy", "-f", "matroska", "-live", "1")
    live.write_bytes(live.read_bytes()[:-3000])
    assert missing_bytes(live) == 0
    for content in (b"\x1aE\xdf\xa3", b"\x1aE\xdf\xa3\0", b"\x1aE\xdf\xa3\x80" + bytes(20)):
        live.write_bytes(content)
        assert missing_bytes(live) == 0, "damaged"
