"""Inputs of golden jobs, made on demand from the samples and the evaluation split of the repository.

A file option of a golden job may say `made:NAME`, with a name of `MAKERS`. The same files come out on every machine.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from liveavatar import paths
from liveavatar.errors import InputError
from liveavatar.files import replacing
from liveavatar.timing import FPS, SAMPLE_RATE

PREFIX = "made:"
SECONDS = 8.0
NOISE_DB = 12.0  # of the voice above the noise
GRAIN = 6.0  # standard deviation, of 255
LEVELS = 5  # of a colour, in a picture with flat areas
HEIGHT = 512  # of a picture


def make_input(name: str, folder: Path) -> Path:
    """Make the file `name` in a folder and return its path.

    Raises:
        InputError: nobody makes such a file.
    """
    if name not in MAKERS:
        raise InputError(f"{PREFIX}{name}: no such input is made; there are {', '.join(MAKERS)}")
    suffix, make = MAKERS[name]
    path = folder / f"{name}{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        make(unfinished)
    return path


def _voice() -> np.ndarray:
    """Read the first seconds of the sample, as float32."""
    from scipy.io import wavfile

    rate, samples = wavfile.read(paths.DATA / "samples" / "speech.wav")
    assert rate == SAMPLE_RATE
    return (samples[: round(SECONDS * rate)] / 32768).astype(np.float32)


def _write_sound(path: Path, samples: np.ndarray) -> None:
    from scipy.io import wavfile

    with path.open("wb") as file:
        wavfile.write(file, SAMPLE_RATE, (32767 * np.clip(samples, -1, 1)).round().astype(np.int16))


def _voice_alone(path: Path) -> None:
    _write_sound(path, _voice())


def _noisy_voice(path: Path) -> None:
    """Add the hum of a fan: noise that falls with its frequency."""
    voice = _voice()
    white = np.fft.rfft(np.random.default_rng(0).standard_normal(len(voice)))
    noise = np.fft.irfft(white / np.sqrt(np.maximum(1, np.arange(len(white)))), len(voice))
    level = np.std(voice) / np.std(noise) / 10 ** (NOISE_DB / 20)
    _write_sound(path, voice + level * noise)


def _silence(path: Path) -> None:
    """Silence the voice from its first quarter to its last."""
    voice = _voice()
    voice[len(voice) // 4 : 3 * len(voice) // 4] = 0
    _write_sound(path, voice)


def _photo(number: int) -> Image.Image:
    """Read a reference photo of the evaluation split."""
    with Image.open(paths.EVALUATION_SPLIT / f"{number:02d}.photo.webp") as picture:
        photo = picture.convert("RGB")
    return photo.resize((round(HEIGHT * photo.width / photo.height), HEIGHT), Image.Resampling.LANCZOS)


def _write_picture(path: Path, picture: Image.Image) -> None:
    picture.save(path, format="png")


def _two_people(path: Path) -> None:
    """Put two photos side by side, the second smaller."""
    left, right = _photo(0), _photo(1)
    right = right.resize((round(0.8 * right.width), round(0.8 * right.height)), Image.Resampling.LANCZOS)
    both = Image.new("RGB", (left.width + right.width, HEIGHT), right.getpixel((0, 0)))
    both.paste(left, (0, 0))
    both.paste(right, (left.width, HEIGHT - right.height))
    _write_picture(path, both)


def _photograph(path: Path) -> None:
    """Make a photo as a small camera takes it in warm light: soft, with grain and dark corners."""
    pixels = np.asarray(_photo(2).filter(ImageFilter.GaussianBlur(0.8)), np.float32)
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, size) for size in pixels.shape[:2]), indexing="ij")
    corners = 1 - 0.25 * (rows**2 + columns**2) / 2
    grain = np.random.default_rng(1).normal(0, GRAIN, pixels.shape[:2])
    warm = np.array([1.05, 1.0, 0.9], np.float32)
    taken = pixels * corners[..., None] * warm + grain[..., None]
    _write_picture(path, Image.fromarray(np.clip(taken.round(), 0, 255).astype(np.uint8)))


def _stylised(path: Path) -> None:
    """Make a poster of a photo: flat areas of a few colours."""
    smooth = np.asarray(_photo(4).filter(ImageFilter.MedianFilter(7)), np.float32)
    flat = np.round(smooth / 255 * (LEVELS - 1)) / (LEVELS - 1) * 255
    _write_picture(path, Image.fromarray((0.7 * flat + 0.3 * smooth).round().astype(np.uint8)))


def _pose(path: Path) -> None:
    """Write a head that turns slowly from side to side and nods, in degrees."""
    seconds = np.arange(round(SECONDS * FPS)) / FPS
    yaw, pitch = 8 * np.sin(2 * np.pi * seconds / 4), 4 * np.sin(2 * np.pi * seconds / 2.5)
    rows = [f"{t},{a:.3f},{b:.3f},0.000" for t, (a, b) in enumerate(zip(yaw, pitch, strict=True))]
    path.write_text("\n".join(["frame,yaw,pitch,roll", *rows]) + "\n")


MAKERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "voice": (".wav", _voice_alone),
    "noisy-voice": (".wav", _noisy_voice),
    "silence": (".wav", _silence),
    "two-people": (".png", _two_people),
    "photograph": (".png", _photograph),
    "stylised": (".png", _stylised),
    "pose": (".csv", _pose),
}
