"""Export the newest weights of an unfinished run, so that losing the machine costs little.

`python -m liveavatar.training.partial_export --run RUN --out OUT` writes the newest weights as a model directory, in
parts (`cat OUT/so_far.tar.* | tar x`). Before there is a transformer it holds the autoencoder alone, enough for
`autoencoder --init`. `run.py` calls it beside the stages.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import torch

from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.load import save_model
from liveavatar.config import PRESETS
from liveavatar.training import runtime
from liveavatar.training.export import ExportSettings, export_run
from liveavatar.training.pack import pack_folder

log = logging.getLogger(__name__)

STEM = "so_far"
TRANSFORMERS = ("teacher.pt", "student.pt")
WEIGHTS = ("autoencoder.pt", *TRANSFORMERS)


def newest(run: Path) -> float:
    """Find the modification time of a run's newest weights, seconds since the epoch; 0 without weights."""
    return max((path.stat().st_mtime for path in (run / name for name in WEIGHTS) if path.is_file()), default=0.0)


def export_newest(run: Path, out: Path, preset: str = "mini", speech_tuning: Path | None = None) -> list[Path]:
    """Write the newest weights of a run to `out`; return the files, none when there are no weights yet.

    Args:
        run: folder of the run.
        out: made when missing.
        preset: of the run.
        speech_tuning: corrections of the speech encoder that the run hears with.
    """
    folder = run / STEM
    if any((run / name).is_file() for name in TRANSFORMERS) and (run / "config.json").is_file():
        export_run(run, folder, ExportSettings(speech_tuning=speech_tuning))
    elif (run / "autoencoder.pt").is_file():
        vae = runtime.load_checkpoint(runtime.autoencoder_file(run), torch.device("cpu"))["average"]
        encoded = (run / "config.json").is_file()  # only the encode stage measures the latent statistics
        save_model(folder, read_config(run) if encoded else PRESETS[preset], {"vae": vae})
    else:
        return []
    out.mkdir(parents=True, exist_ok=True)
    return pack_folder(folder, out, STEM)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="export the newest weights of an unfinished training run")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", choices=("mini", "tiny"), default="mini")
    parser.add_argument("--speech_tuning", type=Path, help="corrections of the speech encoder that the run hears with")
    args: Any = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO)
    for path in export_newest(args.run, args.out, args.preset, args.speech_tuning):
        log.info("%s: %d bytes", path, path.stat().st_size)


if __name__ == "__main__":
    main()
