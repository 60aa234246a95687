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
from liveavatar.checkpoints.directory import read_config, resolve_model_dir
from liveavatar.config import MINI
from liveavatar.errors import InputError, LiveAvatarError
from liveavatar.isolation.caller import isolated


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="liveavatar.tools.audio_preprocess", description=(__doc__ or "").strip())
    parser.add_argument("--input", required=True, type=Path, help="sound file, best the cleaned.wav of a run")
    parser.add_argument("--output", required=True, type=Path, help="features file to write, such as features.pt")
    parser.add_argument("--model", default=MINI.name, help="model whose speech encoder is used")
    args = parser.parse_args(argv)
    try:
        output_folder(args.output.parent)
        if args.output.is_dir():
            raise InputError(f"--output {args.output}: it is a directory; name a file, such as features.pt")
        speech = read_config(resolve_model_dir(args.model)).speech
        load = partial(isolated, load_any_audio, beats=True)
        num_frames = write_features(args.input, args.output, speech, load=load)
    except LiveAvatarError as e:
        sys.stderr.write(f"{e}\n")
        return e.exit_code
    sys.stdout.write(f"{args.output}: {num_frames} frames of {speech.num_states} x {speech.dim} features\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
