"""A render in a process of its own, which then writes the source files of ours that it loaded.

The process is given a pickled `(model_dir, job, fast)`.
"""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

from liveavatar.paths import REPO_ROOT


def loaded_files() -> list[str]:
    """List source files of the loaded modules of the engine, relative to the repository, the root package aside."""
    modules = {name: module for name, module in sys.modules.items() if name.startswith("liveavatar.")}
    return sorted(Path(str(module.__file__)).relative_to(REPO_ROOT).as_posix() for module in modules.values())


def load(model_dir: Path, fast: bool) -> Any:
    """Load a model on the CPU, where `load_engine` would not take the fast path."""
    from liveavatar.load import load_engine

    if not fast:
        return load_engine(model_dir, device="cpu")
    import torch

    from liveavatar.engine.engine import Engine
    from liveavatar.engine.prompt_encoder import prompt_encoder
    from liveavatar.fast.backend import FastBackend
    from liveavatar.fast.load import load_fast_model

    device = torch.device("cpu")
    model = load_fast_model(model_dir, device, torch.float32, ("dit", "vae", "text"))
    return Engine(FastBackend(model, device), prompt_encoder(model, model_dir, device))


def main(path: Path) -> None:
    """Render the job of a file."""
    model_dir, job, fast = pickle.loads(path.read_bytes())
    from liveavatar.render.job import run_job

    run_job(load(model_dir, fast), job)
    sys.stdout.write(json.dumps(loaded_files()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
