"""Write the speech encoder to a file, for training machines without Whisper and without a network.

`python -m liveavatar.training.speech_encoder OUT` writes the file for `--speech_encoder` of `training.run`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from liveavatar.audio.encoders.whisper_network import save_encoder
from liveavatar.errors import LiveAvatarError


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="write the encoder of a Whisper model, float16")
    parser.add_argument("out", type=Path)
    parser.add_argument("--whisper", default="tiny.en", help="name of the model")
    args: Any = parser.parse_args(argv)
    try:
        save_encoder(args.out, args.whisper)
    except LiveAvatarError as e:
        sys.stderr.write(f"{e}\n")
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
