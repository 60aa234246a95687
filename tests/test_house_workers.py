"""The workers that run the tests: one that is lost costs one test."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LOST = """
import os
import pytest

@pytest.mark.parametrize("number", range(4))
def test_number(number):
    if number == 1:
        os._exit(1)
"""
SHORT = "def test_alone(): pass"


@pytest.mark.nightly
def test_a_lost_worker_fails_its_test_and_the_rest_is_run(tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    tests.mkdir()
    shutil.copy(Path(__file__).with_name("conftest.py"), tests / "conftest.py")
    (tests / "test_lost.py").write_text(LOST)
    for number in range(6):
        (tests / f"test_short_{number}.py").write_text(SHORT)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--no-loadscope-reorder", "--rootdir", tmp_path, tests]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert "1 failed, 9 passed" in run.stdout, run.stdout
    assert "test_lost.py::test_number[1]" in run.stdout
