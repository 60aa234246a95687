"""Videos with a known mouth: a still portrait whose lower lip is moved by a curve, on a gently swaying head.

The true openness of every frame is known, so offsets and verdicts can be tested on real video files with a real,
detectable face, without any model.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from liveavatar.face.landmarks import FaceTracker
from liveavatar.media.film import FilmWriter
from liveavatar.paths import REPO_ROOT
from liveavatar.timing import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

LIPS, CORNERS, CHIN = (13, 14), (61, 291), 152
DARK = np.array([60, 25, 25], np.uint8)  # inside of the mouth


class Puppet:
    """A portrait that can open its mouth."""

    def __init__(self, rgb: np.ndarray) -> None:
        face = FaceTracker().find(rgb)
        assert face is not None, "the test portrait has no detectable face"
        self.rgb = rgb
        self.eye_distance = face.eye_distance
        points = face.points
        self.x0, self.y0 = points[list(LIPS)].mean(0)
        self.half_width = float(np.hypot(*(points[CORNERS[1]] - points[CORNERS[0]]))) / 2
        self.chin = float(points[CHIN, 1])

    def frame(self, openness: float, sway: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
        """The portrait with the lips apart by `openness` eye distances, moved by `sway` pixels."""
        height, width = self.rgb.shape[:2]
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        gap = openness * self.eye_distance * np.maximum(0, 1 - ((x - self.x0) / self.half_width) ** 2)
        depth = (y - self.y0 - gap) / max(1.0, 1.1 * self.chin - self.y0)
        source_y = np.where(y > self.y0, y - gap * (1 - np.clip(depth, 0, 1)), y)
        opened = cv2.remap(self.rgb, x, source_y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        opened[(y > self.y0) & (y < self.y0 + gap)] = DARK
        shift = np.float32([[1, 0, sway[0]], [0, 1, sway[1]]])
        return cv2.warpAffine(opened, shift, (width, height), borderMode=cv2.BORDER_REPLICATE)

    def video(self, path: Path, openness: np.ndarray, audio: np.ndarray, still: bool = False) -> Path:
        """A video of a mouth curve, one value a frame in eye distances; the head sways unless `still`."""
        height, width = self.rgb.shape[:2]
        with FilmWriter(path, size=(width, height), audio=audio) as writer:
            for t, opening in enumerate(openness):
                sway = (0.0, 0.0) if still else (3 * np.sin(t / 11), 1.5 * np.sin(t / 7))
                writer.write(self.frame(float(opening), sway)[None])
            return writer.close()


def babble(seconds: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Speech-like sound and the mouth that makes it.

    Syllables of random length and loudness (smoothed noise bursts over a hum), with pauses; the mouth opens with the
    smoothed loudness.

    Returns:
        audio float32 [seconds * 16000], openness float64 [seconds * 25] in eye distances.
    """
    rng = np.random.default_rng(seed)
    num_frames = round(seconds * FPS)
    loudness = np.zeros(num_frames)
    t = 6
    while t < num_frames - 8:
        if rng.random() < 0.12:
            t += int(rng.integers(14, 24))
            continue
        length = int(rng.integers(3, 8))
        loudness[t : t + length] = rng.uniform(0.3, 1.0) * np.hanning(length + 2)[1:-1]
        t += length
    kernel = np.hanning(5) / np.hanning(5).sum()
    openness = 0.28 * np.convolve(loudness, kernel, "same")
    carrier = rng.standard_normal(num_frames * SAMPLES_PER_FRAME) * 0.3
    carrier += np.sin(2 * np.pi * 140 * np.arange(len(carrier)) / SAMPLE_RATE)
    envelope = np.interp(np.arange(len(carrier)) / SAMPLES_PER_FRAME, np.arange(num_frames) + 0.5, loudness)
    return (0.25 * envelope * carrier).astype(np.float32), openness


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """A rendered head looking at the camera, mouth shut, uint8 RGB."""
    image = Image.open(REPO_ROOT / "data" / "samples" / "portrait.png").convert("RGB")
    image.thumbnail((384, 384), Image.Resampling.LANCZOS)  # the size that videos are made at
    return np.asarray(image)


@pytest.fixture(scope="session")
def puppet(portrait: np.ndarray) -> Puppet:
    """The portrait with a mouth to pull."""
    height, width = portrait.shape[:2]
    return Puppet(np.ascontiguousarray(portrait[: height // 2 * 2, : width // 2 * 2]))
