"""Files of the audio stages: cleaned.wav, words.json, features.pt and audio_report.json.

`features.pt` is a `torch.save` of {"features": float16 [L, C, T], "fps", "sample_rate", "model", "num_frames"} that
loads with `weights_only=True`; T is `num_frames` rounded up to whole blocks. Features are computed from the written
cleaned.wav, so the file alone reproduces them. Every file appears whole or not at all.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from liveavatar.audio.encoders import encoder_kind
from liveavatar.audio.enhance import Enhanced, enhance
from liveavatar.audio.feature_file import save_features
from liveavatar.audio.ingest import load_audio, stage_bytes
from liveavatar.config import MINI, SpeechConfig
from liveavatar.errors import InputError
from liveavatar.files import disk_errors, replacing, require_disk
from liveavatar.timing import FPS, SAMPLE_RATE, count_frames


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
    require_disk(folder, stage_bytes(len(audio) / SAMPLE_RATE, speech.num_states, speech.dim), str(audio_path))
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
    with _output(report) as f:
        # names of files may be no UTF-8
        f.write(json.dumps(body, indent=2, ensure_ascii=False).encode(errors="replace") + b"\n")
    return Preprocessed(
        cleaned=cleaned, words=words, features=features, report=report, num_frames=num_frames, verdict=enhanced.verdict
    )


def output_folder(path: str | Path) -> Path:
    """Create an output folder. Raises InputError when it cannot be created."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"{folder}: no folder can be made there ({e.strerror}); choose another output folder") from e
    return folder


def write_wav(path: Path, audio: np.ndarray) -> None:
    """Write float32 mono 16 kHz as a 16-bit WAV file."""
    with _output(path) as f:
        soundfile.write(f, audio, SAMPLE_RATE, format="WAV", subtype="PCM_16")


def write_words(path: Path, enhanced: Enhanced) -> None:
    """Write the transcript as {"text", "language", "words": [{"start", "end", "text", "probability"}]}, seconds."""
    body = {"text": enhanced.text, "language": enhanced.language, "words": [asdict(w) for w in enhanced.words]}
    with _output(path) as f:
        f.write(json.dumps(body, indent=1, ensure_ascii=False).encode() + b"\n")


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
    with _output(path) as f:
        save_features(f, features, fps=FPS, sample_rate=SAMPLE_RATE, model=speech.name, num_frames=num_frames)
    return num_frames


@contextmanager
def _output(path: Path) -> Iterator[BinaryIO]:
    """Open an output file that appears whole or not at all.

    Raises:
        CapacityError: when the disk is full or the folder may not be written.
        InputError: when it cannot be written for another reason.
    """
    try:
        with disk_errors(path), replacing(path) as temporary, temporary.open("wb") as f:
            yield f
    except OSError as e:
        raise InputError(f"{path}: it cannot be written ({e.strerror or e}); choose another folder") from e
