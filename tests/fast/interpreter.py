"""Cases of a test file on Triton's interpreter, in a process of its own: Triton decides at its first import."""

import importlib
import importlib.util
import os
import subprocess
import sys

import pytest

from liveavatar.paths import REPO_ROOT

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def interpret(module: str) -> list[str]:
    """Hold the kernels against the cases of a test module and return the cases that passed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fast.interpreter", module],
        cwd=REPO_ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout.splitlines()


def main(module: str) -> None:
    """Run all cases of a module."""
    import torch

    from liveavatar.fast import kernels

    torch.set_num_threads(1)  # the interpreter has one grid for all threads
    for case in importlib.import_module(module).CASES:
        case.values[0](kernels, torch.device("cpu"))
        print(case.id, flush=True)  # noqa: T201 (read by `interpret`)


if __name__ == "__main__":
    main(sys.argv[1])
