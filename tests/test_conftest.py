"""The hooks of the test run itself."""

import subprocess
import sys
from pathlib import Path

from liveavatar.paths import REPO_ROOT


def test_a_failure_that_names_odd_bytes_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "test_odd.py").write_text("""
def test_fails():
    assert "Jos\\udce9.wav" == "Jose.wav"

def test_passes():
    pass
""")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "1",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=",
    ]
    done = subprocess.run(
        [*command, f"--rootdir={tmp_path}", str(tmp_path)], cwd=REPO_ROOT, capture_output=True, text=True, timeout=120
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert r"Jos\udce9.wav" in done.stdout
