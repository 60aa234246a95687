"""Sounds for the tests: spoken text, noise, tones, and files of every kind made with soundfile and PyAV."""

import struct
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

from liveavatar.timing import SAMPLE_RATE


def tone(seconds: float = 3.0, rate: int = 44_100, level: float = 0.3) -> np.ndarray:
    """A 220 Hz sine, float32."""
    return (level * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    """White noise at 16 kHz, float32."""
    return (level * np.random.default_rng(seed).standard_normal(int(seconds * SAMPLE_RATE))).astype(np.float32)


def syllables(seconds: float, seed: int = 0) -> np.ndarray:
    """A voiced, syllable-like sound at 16 kHz with pauses; enough for features, not for recognition."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 120 + 20 * np.sin(2 * np.pi * 0.7 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 20))
    envelope = np.clip(np.sin(2 * np.pi * 3.1 * t), 0, 1) * (np.sin(2 * np.pi * 0.23 * t) > -0.5)
    return (0.1 * voice * envelope + 0.001 * rng.standard_normal(len(t))).astype(np.float32)


def espeak(text: str, path: Path) -> None:
    """Speak text into a WAV file with espeak-ng."""
    subprocess.run(["espeak-ng", "-v", "en-us", "-s", "140", "-w", str(path), text], check=True)


def write(path: Path, audio: np.ndarray, rate: int = 44_100, subtype: str | None = None) -> Path:
    """Write samples [n] or [n, channels] in the format of the path's suffix."""
    soundfile.write(path, audio, rate, subtype=subtype)
    return path


def wav_header(size: int, riff: int | None = None, byte_rate: int = 32_000, rate: int = 16_000) -> bytes:
    """The header of a WAV file of 16-bit mono sound with `size` announced bytes."""
    riff = 36 + size if riff is None else riff
    return struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", riff & 0xFFFF_FFFF, b"WAVEfmt ", 16, 1, 1, rate, byte_rate, 2, 16,
                       b"data", size)  # fmt: skip


def pcm(audio: np.ndarray) -> bytes:
    """Samples as signed 16-bit."""
    return (audio * 32_767).astype("<i2").tobytes()


def write_with_hole(path: Path, audio: np.ndarray, at: float, seconds: float, codec: str = "libopus") -> Path:
    """Write mono float samples at 48 kHz whose time stamps jump by `seconds` at a time, s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48_000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(audio[None], format="fltp", layout="mono")
        frame.rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=48_000)
        parts = [*resampler.resample(frame), *resampler.resample(None)]
        for packet in [p for part in parts for p in stream.encode(part)] + stream.encode(None):
            if packet.pts is not None and packet.pts * packet.time_base >= at:
                packet.pts += round(seconds / packet.time_base)
                packet.dts = packet.pts
            container.mux(packet)
    return path


def write_av(path: Path, audio: np.ndarray | None, codec: str, *, pictures: bool, rate: int = 48_000) -> Path:
    """Write a container with PyAV: mono float samples (None: no sound), and one second of black pictures."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25) if pictures else None
        if video is not None:
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
        sound = container.add_stream(codec, rate=rate) if audio is not None else None
        if sound is not None:
            sound.layout = "stereo"
        if video is not None:
            black = np.zeros((64, 64, 3), np.uint8)
            for _ in range(25):
                container.mux(video.encode(av.VideoFrame.from_ndarray(black, format="rgb24")))
            container.mux(video.encode(None))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(np.stack([audio, audio]), format="fltp", layout="stereo")
            frame.rate = rate
            resampler = av.AudioResampler(format=sound.format, layout="stereo", rate=rate)
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(sound.encode(part))
            container.mux(sound.encode(None))
    return path
