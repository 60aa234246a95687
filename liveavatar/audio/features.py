"""Driving features of a sound file.

`features.pt` is a `torch.save` of {"features": float16 [L, C, T], "fps", "sample_rate", "model", "num_frames"} that
loads with `weights_only=True`; T is `num_frames` rounded up to whole blocks.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from liveavatar.audio.encoders import encoder_kind
from liveavatar.audio.feature_file import save_features
from liveavatar.audio.ingest import load_audio
from liveavatar.audio.outputs import output_file
from liveavatar.config import MINI, SpeechConfig
from liveavatar.timing import FPS, SAMPLE_RATE, count_frames


def load_any_audio(path: Path, *, on_progress: Callable[[], None] = lambda: None) -> np.ndarray:
    """Decode a sound as `load_audio` does; it may be silent."""
    return load_audio(path, allow_silence=True, on_progress=on_progress)


def write_features(
    wav: Path,
    path: Path,
    speech: SpeechConfig = MINI.speech,
    model_dir: Path | None = None,
    load: Callable[[Path], np.ndarray] = load_any_audio,
) -> int:
    """Compute the driving features of a sound file and write features.pt.

    Args:
        wav: any sound file.
        path: where features.pt goes.
        speech: the speech encoder.
        model_dir: directory of the model, for encoders whose weights lie there.
        load: decodes the file to float32 [samples], mono 16 kHz.

    Returns:
        Video frames that the sound covers.

    Raises:
        InputError: when the file is no usable sound.
    """
    audio = load(wav)
    features = encoder_kind(speech).load(speech, model_dir).features(audio)
    num_frames = count_frames(len(audio))
    with output_file(path) as f:
        save_features(f, features, fps=FPS, sample_rate=SAMPLE_RATE, model=speech.name, num_frames=num_frames)
    return num_frames
