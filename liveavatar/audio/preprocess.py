"""Files of the audio stages in one folder: cleaned.wav, words.json, features.pt and audio_report.json.

Features are computed from the written cleaned.wav, so the file alone reproduces them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from liveavatar.audio.enhance import enhance, write_words
from liveavatar.audio.features import write_features
from liveavatar.audio.ingest import load_audio, stage_bytes
from liveavatar.audio.outputs import output_file, output_folder, write_wav
from liveavatar.config import MINI, SpeechConfig
from liveavatar.files import require_disk
from liveavatar.timing import SAMPLE_RATE


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessed:
    """Paths of the written files and the enhancement's verdict."""

    cleaned: Path
    words: Path
    features: Path
    report: Path
    num_frames: int
    verdict: dict[str, Any]


def preprocess(
    audio_path: str | Path,
    out_dir: str | Path,
    *,
    denoise: str = "auto",
    whisper: str = "tiny.en",
    reference_text: str | None = None,
    speech: SpeechConfig = MINI.speech,
    model_dir: Path | None = None,
    load: Callable[[Path], np.ndarray] = load_audio,
) -> Preprocessed:
    """Run ingest, enhance and features on one file.

    Args:
        audio_path: any audio or video file.
        out_dir: made when missing; gets cleaned.wav, words.json, features.pt, audio_report.json.
        load: decodes the file to float32 [samples], mono 16 kHz.

    Raises:
        InputError: unusable sound or choice, or an output path that is a file.
        CapacityError: when the disk is too full.
    """
    folder = output_folder(out_dir)
    audio = load(Path(audio_path))
    needed = stage_bytes(len(audio) / SAMPLE_RATE, speech.num_states, speech.dim)
    require_disk(folder, needed, str(audio_path), "choose another --output")
    enhanced = enhance(audio, denoise, whisper, reference_text)
    cleaned, words = folder / "cleaned.wav", folder / "words.json"
    features, report = folder / "features.pt", folder / "audio_report.json"
    write_wav(cleaned, enhanced.audio)
    write_words(words, enhanced)
    num_frames = write_features(cleaned, features, speech, model_dir=model_dir)
    body = {
        "input": str(audio_path),
        "num_frames": num_frames,
        "verdict": enhanced.verdict,
        "candidates": enhanced.candidates,
    }
    with output_file(report) as f:
        # names of files may be no UTF-8
        f.write(json.dumps(body, indent=2, ensure_ascii=False).encode(errors="replace") + b"\n")
    return Preprocessed(
        cleaned=cleaned, words=words, features=features, report=report, num_frames=num_frames, verdict=enhanced.verdict
    )
