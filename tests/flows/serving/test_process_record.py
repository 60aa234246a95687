"""Records of processes: whether the one that is named still runs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.serving.process_record import own_process, process_of
from liveavatar.files import write_json
from tests.browser import wait_for


@pytest.mark.parametrize(
    ("change", "lives"),
    [
        pytest.param({}, True, id="this process"),
        pytest.param({"created": 1.0}, False, id="another process of the same number"),
        pytest.param({"pid": 2**22 + 1}, False, id="no such process"),
        pytest.param({"pid": None}, False, id="damaged"),
    ],
)
def test_a_record_names_a_living_process_or_none(tmp_path: Path, change: dict[str, Any], lives: bool) -> None:
    write_json(tmp_path / "a.json", own_process() | change)
    found = process_of(tmp_path / "a.json")
    assert (found is not None and found.pid == os.getpid()) is lives


def test_a_record_that_is_gone_names_none(tmp_path: Path) -> None:
    assert process_of(tmp_path / "a.json") is None


def test_a_process_that_was_killed_is_gone_before_its_parent_takes_note(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        process = psutil.Process(child.pid)
        write_json(tmp_path / "a.json", {"pid": child.pid, "created": process.create_time()})
        assert process_of(tmp_path / "a.json") == process
        process.kill()
        wait_for(lambda: process.status() == psutil.STATUS_ZOMBIE)
        assert process_of(tmp_path / "a.json") is None
    finally:
        child.communicate()
