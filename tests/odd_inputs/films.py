"""Films that the head follows: how phones and editors save them, and files without a face."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.odd_inputs.case import Case, Check, Maker, changed, ffmpeg, portrait, written

SIZE = (256, 384)  # width, height
FRAMES = 15
UPRIGHT = (-2.0, 4.5)  # degrees; roll of the portrait's head, give or take what codecs change
CODED = ("-c:v", "libx264", "-pix_fmt", "yuv420p")


def still(name: str, degrees: int = 0, aspect: Fraction | None = None, fps: int = 25) -> Maker:
    """Film the portrait with the camera held turned, or with pixels that are not square."""

    def make(folder: Path) -> Path:
        width, height = SIZE[0] // (aspect or 1), SIZE[1]
        pixels = np.asarray(portrait().resize((int(width), height)))
        pixels = np.ascontiguousarray(np.rot90(pixels, -degrees // 90))
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps))
            stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuv420p"
            if aspect:
                stream.codec_context.sample_aspect_ratio = aspect
            if degrees:
                stream.set_display_rotation(degrees)
            for _ in range(FRAMES):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        return folder / name

    return make


def coded(name: str, *options: str) -> Maker:
    """Convert the film with ffmpeg."""

    def make(folder: Path) -> Path:
        ffmpeg("-i", still("source.mp4")(folder), *options, folder / name)
        return folder / name

    return make


def picture(name: str) -> Maker:
    """Save the portrait alone."""

    def make(folder: Path) -> Path:
        portrait().resize(SIZE).save(folder / name)
        return folder / name

    return make


def test_pictures(folder: Path) -> Path:
    """Film a test card."""
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=160x120:r=25:d=1", *CODED, folder / "card.mp4")
    return folder / "card.mp4"


def sound_alone(folder: Path) -> Path:
    """Save a film without pictures."""
    ffmpeg("-f", "lavfi", "-i", "sine=440:d=1", "-c:a", "aac", folder / "sound.mp4")
    return folder / "sound.mp4"


def followed(frames: int = FRAMES, within: int = 1) -> Check:
    """Assert the length of the track at 25 fps, and that the head is upright."""

    def check(track: np.ndarray) -> None:
        assert abs(len(track) - frames) <= within
        assert track.shape[1:] in ((3,), (6,))
        assert np.isfinite(track[:, :3]).all()
        roll = float(np.degrees(track[:, 2]).mean())
        assert UPRIGHT[0] < roll < UPRIGHT[1], f"roll {roll:.1f} degrees"

    return check


CASES = [
    Case(name="MP4", make=still("a.mp4"), check=followed()),
    *(Case(name=f"held at {degrees} degrees", make=still("a.mp4", degrees), check=followed())
      for degrees in (90, -90, 180)),
    Case(name="QuickTime held at 90 degrees", make=still("a.mov", 90), check=followed()),
    Case(name="pixels twice as wide as high", make=still("a.mp4", aspect=Fraction(2)), check=followed()),
    Case(name="50 frames a second", make=still("a.mp4", fps=50), check=followed(8)),
    Case(name="10 frames a second", make=still("a.mp4", fps=10), check=followed(36, 3)),
    Case(name="29.97 frames a second", make=coded("a.mp4", "-r", "30000/1001", *CODED), check=followed(FRAMES, 2)),
    Case(name="HEVC in 10 bits", check=followed(),
         make=coded("a.mov", "-pix_fmt", "yuv420p10le", "-c:v", "libx265", "-tag:v", "hvc1")),
    Case(name="WebM", make=coded("a.webm", "-c:v", "libvpx-vp9", "-b:v", "500k"), check=followed()),
    Case(name="Matroska", make=coded("a.mkv", "-c", "copy"), check=followed()),
    Case(name="AVI", make=coded("a.avi", "-c:v", "mpeg4", "-q:v", "3"), check=followed()),
    Case(name="moving GIF", make=coded("a.gif"), check=followed(FRAMES, 2)),
    Case(name="transport stream", make=coded("a.ts", *CODED), check=followed(FRAMES, 2)),
    Case(name="fragmented", make=coded("a.mp4", "-movflags", "frag_keyframe+empty_moov", *CODED), check=followed()),
    Case(name="full range", make=coded("a.mp4", "-pix_fmt", "yuvj420p", "-c:v", "libx264"), check=followed()),
    Case(name="a picture", make=picture("a.jpg"), words="a still picture, not a video"),
    Case(name="Latin-1 tag", check=followed(),
         make=changed(coded("a.mp4", "-metadata", "title=JosX", *CODED), lambda d: d.replace(b"JosX", b"Jos\xe9"))),
    Case(name="no face", make=test_pictures, words="no face"),
    Case(name="no pictures", make=sound_alone, words="no picture"),
    Case(name="half of it", make=changed(still("a.mp4"), lambda d: d[: len(d) // 2]), words="cut off"),
    Case(name="empty", make=written("a.mp4", b""), words="empty"),
    Case(name="text", make=written("a.mp4", b"hello\n" * 100), words="no media file"),
    Case(name="playlist", make=written("a.mp4", b"#EXTM3U\n#EXTINF:3,\nsource.mp4\n"), words="is a playlist"),
]  # fmt: skip
