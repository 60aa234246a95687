"""Render jobs of noise: a picture, a sound and speech features that any model of the tiny preset takes."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import wavfile

from liveavatar.audio.feature_file import save_features
from liveavatar.engine.settings import RenderSettings
from liveavatar.render.job import RenderJob
from liveavatar.render.sound import FileSound
from liveavatar.timing import SAMPLE_RATE, SAMPLES_PER_FRAME

SIZE = (256, 384)  # width, height of a portrait; the noise lies across


def noise_job(folder: Path, num_frames: int, digest: str = "d" * 64) -> RenderJob:
    """A job whose files lie in `folder`."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(folder / "face.png")
    sound = rng.normal(scale=0.1, size=SAMPLES_PER_FRAME * num_frames).astype(np.float32)
    wavfile.write(folder / "voice.wav", SAMPLE_RATE, sound)
    save_features(folder / "features.pt", torch.from_numpy(rng.normal(size=(5, 768, num_frames))).float())
    return RenderJob(
        digest=digest,
        work_dir=folder / "work",
        image=folder / "face.png",
        sound=FileSound(features=folder / "features.pt", audio=folder / "voice.wav", num_frames=num_frames),
        settings=RenderSettings(prompt="a calm woman"),
        online=True,
    )
