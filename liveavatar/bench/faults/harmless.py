"""Table of the harmless treatments: what a user may do to a good video, or a good recording, without spoiling it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from liveavatar.timing import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

PEAK = 0.95  # of full scale, above which a louder sound would clip


@dataclass(frozen=True, slots=True)
class Coding:
    """Coding of a video: codec, its quality, and the container."""

    codec: str = "libx264"
    crf: int = 12
    container: str = "mp4"


@dataclass(frozen=True, slots=True)
class Picture:
    """Treatment of pictures: a change of every frame (float32 [H, W, 3], to any even size), and the coding."""

    change: Callable[[np.ndarray, int], np.ndarray] = lambda frame, _: frame
    coding: Coding = Coding()
    part: tuple[int, int] | None = None  # first frame that is kept, and the one after the last; None: all


def gain(decibels: float) -> Callable[[np.ndarray], np.ndarray]:
    """Make a sound louder or quieter, never clipped."""
    return lambda sound: sound * min(10 ** (decibels / 20), PEAK / max(float(np.abs(sound).max()), 1e-9))


def noise(decibels: float) -> Callable[[np.ndarray], np.ndarray]:
    """Add white noise so many dB under the speech."""

    def treated(sound: np.ndarray) -> np.ndarray:
        level = float(np.sqrt((sound.astype(np.float64) ** 2).mean())) * 10 ** (-decibels / 20)
        return sound + level * np.random.default_rng(7).standard_normal(len(sound))

    return treated


def band(low: float, high: float) -> Callable[[np.ndarray], np.ndarray]:
    """Keep the frequencies between two, Hz, as a telephone or a small speaker does."""

    def treated(sound: np.ndarray) -> np.ndarray:
        spectrum = np.fft.rfft(sound)
        frequencies = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
        return np.fft.irfft(spectrum * ((frequencies >= low) & (frequencies <= high)), len(sound))

    return treated


def room(sound: np.ndarray) -> np.ndarray:
    """Add the echo of a small room: a tail of 0.15 s, 15 dB under the voice."""
    length = round(0.15 * SAMPLE_RATE)
    tail = np.random.default_rng(8).standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
    echo = np.convolve(sound, tail / np.sqrt((tail**2).sum()))[: len(sound)]
    return sound + 10 ** (-15 / 20) * echo


def hum(sound: np.ndarray) -> np.ndarray:
    """Add mains hum, 35 dB under the peak."""
    return sound + np.abs(sound).max() * 10 ** (-35 / 20) * np.sin(2 * np.pi * 50 * np.arange(len(sound)) / SAMPLE_RATE)


def levelled(sound: np.ndarray) -> np.ndarray:
    """Lift the quiet parts as a mild compressor does: the level of each 0.4 s, moved half way to the mean level."""
    width = round(0.4 * SAMPLE_RATE)
    level = np.sqrt(np.convolve(sound.astype(np.float64) ** 2, np.ones(width) / width, "same"))
    usual = np.sqrt((sound.astype(np.float64) ** 2).mean())
    return gain(0)(sound * np.sqrt(usual / np.maximum(level, 0.1 * usual)))


def late(frames: float) -> Callable[[np.ndarray], np.ndarray]:
    """Delay the sound by a part of a frame; negative: hear it early."""
    step = round(abs(frames) * SAMPLES_PER_FRAME)
    return lambda sound: np.r_[np.zeros(step), sound[:-step]] if frames > 0 else np.r_[sound[step:], np.zeros(step)]


def coarse(sound: np.ndarray) -> np.ndarray:
    """Store the sound with 8 bits on a curve, as telephony does (mu-law)."""
    peak = float(np.abs(sound).max())
    curve = np.sign(sound) * np.log1p(255 * np.abs(sound) / peak) / np.log(256)
    steps = np.round(curve * 127) / 127
    return peak * np.sign(steps) * (256 ** np.abs(steps) - 1) / 255


SOUND: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "quieter by 12 dB": gain(-12),
    "quieter by 30 dB": gain(-30),
    "louder by 6 dB": gain(6),
    "noise 30 dB under the speech": noise(30),
    "noise 20 dB under the speech": noise(20),
    "telephone band": band(300, 3400),
    "no bass": band(120, 8000),
    "small room": room,
    "mains hum": hum,
    "levelled": levelled,
    "8 bits": coarse,
    "sound half a frame early": late(-0.5),
    "sound half a frame late": late(0.5),
    "DC offset": lambda sound: sound + 0.01,
}


def _scaled(factor: float) -> Callable[[np.ndarray, int], np.ndarray]:
    def change(frame: np.ndarray, _: int) -> np.ndarray:
        import cv2

        height, width = (2 * round(side * factor / 2) for side in frame.shape[:2])
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(frame, (width, height), interpolation=how))

    return change


def _grain(level: float) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda frame, t: frame + level * np.random.default_rng(t).standard_normal(frame.shape).astype(np.float32)


def _zoomed(factor: float) -> Callable[[np.ndarray, int], np.ndarray]:
    """Show the middle of the picture larger."""

    def change(frame: np.ndarray, _: int) -> np.ndarray:
        import cv2

        height, width = frame.shape[:2]
        return np.asarray(cv2.getRectSubPix(
            cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC),
            (width, height), (factor * width / 2, factor * height / 2),
        ))  # fmt: skip

    return change


PICTURE: dict[str, Picture] = {
    "H.264, crf 23": Picture(coding=Coding(crf=23)),
    "H.264, crf 30": Picture(coding=Coding(crf=30)),
    "H.265, crf 28, mkv": Picture(coding=Coding("libx265", 28, "mkv")),
    "VP9, webm": Picture(coding=Coding("libvpx-vp9", 32, "webm")),
    "three quarters of the size": Picture(_scaled(0.75)),
    "one and a half times the size": Picture(_scaled(1.5), Coding(crf=20)),
    "grain": Picture(_grain(3), Coding(crf=18)),
    "darker": Picture(lambda frame, _: 255 * (frame / 255) ** 1.15),
    "brighter": Picture(lambda frame, _: 255 * (frame / 255) ** 0.87),
    "warmer": Picture(lambda frame, _: frame * np.array([1.06, 1, 0.94], np.float32), Coding(container="mov")),
    "less colour": Picture(lambda frame, _: 0.85 * frame + 0.15 * frame.mean(2, keepdims=True)),
    "zoomed by 5 %": Picture(_zoomed(1.05)),
    "its first two seconds": Picture(part=(0, 2 * FPS)),
    "its first second": Picture(part=(0, FPS + 3)),
    "three seconds of the middle": Picture(part=(FPS, 4 * FPS)),
}
