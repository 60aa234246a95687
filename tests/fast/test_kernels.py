"""The fused kernels on Triton's interpreter equal their torch references, and a stream on them the plain engine's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from liveavatar.paths import REPO_ROOT
from tests.fast.cases import CASES
from tests.fast.interpreter import needs_triton


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize(
    ("chosen", "least"),
    [
        pytest.param("not nightly", len(CASES), id="kernels"),
        pytest.param("nightly", 4, id="whole streams", marks=[pytest.mark.nightly, pytest.mark.timeout(900)]),
    ],
)
def test_interpreted_kernels_equal_their_references(chosen: str, least: int) -> None:
    """Start a process of its own: Triton decides at its first import whether it interprets."""
    cases = Path(__file__).with_name("interpreted.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", chosen, str(cases)]
    done = subprocess.run(
        command, cwd=REPO_ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stdout.count(".") >= least
