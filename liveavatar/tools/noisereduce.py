"""`noisereduce -i input.wav -o cleaned.wav --stationary`: lower the noise of one sound file.

The sound comes out mono at 16 kHz, as long as it was; `liveavatar preprocess` also levels it, and decides whether
cleaning helps. Exit codes as in `liveavatar.errors`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from liveavatar.audio.denoise import reduce_noise
from liveavatar.audio.ingest import load_audio
from liveavatar.audio.outputs import write_wav
from liveavatar.errors import InputError
from liveavatar.isolation.caller import isolated
from liveavatar.timing import SAMPLE_RATE
from liveavatar.tools import run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="noisereduce", description=(__doc__ or "").strip())
    parser.add_argument("-i", "--input", required=True, type=Path, help="sound file of any format")
    parser.add_argument("-o", "--output", required=True, type=Path, help="wav file to write, 16 bit")
    parser.add_argument("--stationary", action="store_true", help="one noise profile for the whole file")
    parser.add_argument("--strength", type=float, default=0.9, help="share by which noise is lowered, 0 to 1 (0.9)")
    args = parser.parse_args(argv)
    return run(
        lambda: write_cleaned(
            args.input, args.output, "stationary" if args.stationary else "nonstationary", args.strength
        )
    )


def write_cleaned(source: Path, output: Path, mode: str, strength: float) -> str:
    """Clean a sound file, and return a line that says so.

    Raises:
        InputError: the sound or an option cannot be used.
    """
    if output.suffix.lower() != ".wav" or output.is_dir():
        raise InputError(f"--output {output}: name a wav file, such as cleaned.wav")
    if not output.parent.is_dir():
        raise InputError(f"--output {output}: there is no folder {output.parent}; make it first")
    cleaned = reduce_noise(isolated(load_audio, source, beats=True), mode, strength)
    write_wav(output, cleaned)
    return f"{output}: {len(cleaned) / SAMPLE_RATE:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
