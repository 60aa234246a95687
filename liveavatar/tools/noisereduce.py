"""`noisereduce -i input.wav -o cleaned.wav --stationary`: lower the noise of one sound file.

The sound comes out mono at 16 kHz, as long as it was; `liveavatar preprocess` also levels it, and decides whether
cleaning helps. Exit codes as in `liveavatar.errors`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from liveavatar.audio.denoise import denoise
from liveavatar.audio.ingest import load_audio
from liveavatar.errors import InputError, LiveAvatarError
from liveavatar.files import disk_errors, replacing
from liveavatar.isolation.caller import isolated
from liveavatar.timing import SAMPLE_RATE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="noisereduce", description=(__doc__ or "").strip())
    parser.add_argument("-i", "--input", required=True, type=Path, help="sound file of any format")
    parser.add_argument("-o", "--output", required=True, type=Path, help="wav file to write, 16 bit")
    parser.add_argument("--stationary", action="store_true", help="one noise profile for the whole file")
    parser.add_argument("--strength", type=float, default=0.9, help="share by which noise is lowered, 0 to 1 (0.9)")
    args = parser.parse_args(argv)
    try:
        if args.output.suffix.lower() != ".wav" or args.output.is_dir():
            raise InputError(f"--output {args.output}: name a wav file, such as cleaned.wav")
        if not args.output.parent.is_dir():
            raise InputError(f"--output {args.output}: there is no folder {args.output.parent}; make it first")
        audio = isolated(load_audio, args.input, beats=True)
        cleaned = denoise(audio, "stationary" if args.stationary else "nonstationary", args.strength)
        with disk_errors(args.output), replacing(args.output) as file:
            soundfile.write(file, np.clip(cleaned, -1, 1), SAMPLE_RATE, "PCM_16", format="WAV")
    except LiveAvatarError as e:
        sys.stderr.write(f"{e}\n")
        return e.exit_code
    sys.stdout.write(f"{args.output}: {len(cleaned) / SAMPLE_RATE:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
