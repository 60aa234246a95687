"""Small videos for the media tests: pictures whose brightness is their number, and a tone."""

import signal
import time
from pathlib import Path

import numpy as np
import psutil

from liveavatar.media.film import FilmWriter
from liveavatar.timing import SAMPLE_RATE

WIDTH, HEIGHT = 96, 64


def picture(index: int) -> np.ndarray:
    """A smooth picture whose brightness tells its number."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    shade = 40 + index % 160
    return np.stack([shade + x * 0.3, shade + y * 0.3, np.full_like(x, shade, float)], -1).astype(np.uint8)


def pictures(start: int, end: int) -> np.ndarray:
    return np.stack([picture(i) for i in range(start, end)])


def tone(seconds: float, hertz: float = 440) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)


def write(path: Path, num_frames: int, audio: np.ndarray | None = None, live: bool = False) -> Path:
    live_dir = path.with_suffix(".live") if live else None
    with FilmWriter(path, size=(WIDTH, HEIGHT), audio=audio, live_dir=live_dir) as writer:
        for start in range(0, num_frames, 12):
            writer.write(pictures(start, min(start + 12, num_frames)))
        return writer.close()


def kill_encoder(number: int = signal.SIGKILL) -> None:
    """Send a signal to the ffmpeg that this process has started; one that it catches ends it at its next frame."""
    (encoder,) = (child for child in psutil.Process().children() if "ffmpeg" in child.name())
    encoder.send_signal(number)
    # until it is gone; its parent, the writer, collects it
    while number == signal.SIGKILL and encoder.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.001)
