"""An audio stage's work in a process of its own, which then writes the source files of ours that it loaded.

Arguments: "enhance" or "features", a WAV file, and a folder for what is made.
"""

import json
import sys
from pathlib import Path

from tests.tasks.render_alone import loaded_files


def enhance(wav: Path, folder: Path) -> None:
    """Clean and transcribe a sound as `tasks.enhance` does."""
    import soundfile

    from liveavatar.audio import enhance, outputs

    result = enhance.enhance(soundfile.read(wav, dtype="float32")[0], denoise="auto", whisper="tiny.en")
    outputs.write_wav(folder / "cleaned.wav", result.audio)
    enhance.write_words(folder / "words.json", result)


def features(wav: Path, folder: Path) -> None:
    """Compute the features of a sound as `tasks.features` does."""
    from liveavatar.audio.features import write_features

    write_features(wav, folder / "features.pt")


if __name__ == "__main__":
    {"enhance": enhance, "features": features}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
    sys.stdout.write(json.dumps(loaded_files()))
