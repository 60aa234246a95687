"""`python -m liveavatar.tools.audio_preprocess --input cleaned.wav --output features.pt`: driving features of a file.

The sound is taken as it is; `liveavatar preprocess` cleans it first. Exit codes as in `liveavatar.errors`.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from liveavatar.audio.features import load_any_audio, write_features
from liveavatar.audio.outputs import output_folder
from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.headers import readable_model_dir
from liveavatar.config import MINI
from liveavatar.errors import InputError
from liveavatar.isolation.caller import isolated
from liveavatar.tools import run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="liveavatar.tools.audio_preprocess", description=(__doc__ or "").strip())
    parser.add_argument("--input", required=True, type=Path, help="sound file, best the cleaned.wav of a run")
    parser.add_argument("--output", required=True, type=Path, help="features file to write, such as features.pt")
    parser.add_argument("--model", default=MINI.name, help="model whose speech encoder is used")
    args = parser.parse_args(argv)
    return run(lambda: write_features_of(args.input, args.output, args.model))


def write_features_of(source: Path, output: Path, model: str) -> str:
    """Compute the features of a sound file for a model, and return a line that says so.

    Raises:
        InputError: the sound or an option cannot be used.
    """
    output_folder(output.parent)
    if output.is_dir():
        raise InputError(f"--output {output}: it is a directory; name a file, such as features.pt")
    model_dir = readable_model_dir(model)
    speech = read_config(model_dir).speech
    load = partial(isolated, load_any_audio, beats=True)
    num_frames = write_features(source, output, speech, model_dir, load)
    return f"{output}: {num_frames} frames of {speech.num_states} x {speech.dim} features"


if __name__ == "__main__":
    sys.exit(main())
