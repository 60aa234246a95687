"""A transport stream that lacks its end is named; one that is whole, and other files, are not."""

import subprocess
from pathlib import Path

import pytest

from liveavatar.audio.ingest import load_audio
from liveavatar.media.ffmpeg import ffmpeg_binary, probe_video
from liveavatar.media.transport import transport_cut
from tests.media.videos import tone, write

PACKET = 188


def converted(folder: Path, name: str, *options: str) -> Path:
    source = write(folder / "film.mp4", 48, tone(48 / 25))
    subprocess.run([ffmpeg_binary(), "-v", "error", "-i", str(source), *options, str(folder / name)], check=True)
    return folder / name


@pytest.mark.parametrize(
    ("name", "step", "options"),
    [
        pytest.param("a.ts", PACKET, ("-c", "copy"), id="H.264 and AAC"),
        pytest.param("a.ts", PACKET, ("-c:v", "mpeg2video", "-c:a", "mp2"), id="MPEG-2"),
        pytest.param("a.m2ts", 192, ("-c:v", "copy", "-c:a", "ac3", "-mpegts_m2ts_mode", "1"), id="of a camera"),
    ],
)
def test_a_stream_that_lacks_its_end_is_named(name: str, step: int, options: tuple[str, ...], tmp_path: Path) -> None:
    path = converted(tmp_path, name, *options)
    assert transport_cut(path) is None
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 // step * step + 50])
    assert transport_cut(path) == "its last packet is incomplete"
    num_packets = len(content) // step
    told = set()
    for kept in range(num_packets // 2, num_packets * 3 // 4):
        path.write_bytes(content[: kept * step])
        told.add(transport_cut(path))
    assert told <= {None, "its last picture or sound is incomplete"}, "nothing shows where one has just ended"
    assert len(told) == 2


def test_the_line_names_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = converted(tmp_path, "a.ts", "-c", "copy")
    probe_video(path)
    load_audio(path)
    assert not caplog.records
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 7])
    probe_video(path)
    assert f"{path}: it is cut off (its last packet is incomplete); what is there is read" in caplog.text
    caplog.clear()
    load_audio(path)
    assert f"{path}: it is cut off (its last packet is incomplete); " in caplog.text
    assert "s are there and were read, copy it again for the rest" in caplog.text


@pytest.mark.parametrize("content", [b"", b"G" * 100, b"RIFF" + bytes(1000), bytes(4000)])
def test_other_files_are_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.ts").write_bytes(content)
    assert transport_cut(tmp_path / "a.ts") is None
