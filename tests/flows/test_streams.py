"""A command does its work whatever becomes of its standard streams."""

import subprocess
import sys
from pathlib import Path

import pytest

from flows import streams
from liveavatar.paths import REPO_ROOT

COMMAND = f'"{sys.executable}" -P -m flows.cli check-prompt'


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of the shell, without the tests' coverage."""
    surroundings = {"PYTHONPATH": str(REPO_ROOT), "LIVEAVATAR_HOME": str(folder / "home"), "PATH": "/usr/bin:/bin"}
    return subprocess.run(["sh", "-c", line], cwd=folder, env=surroundings, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full", "| true"])
def test_streams_that_are_closed_or_full_do_not_matter(closed: str, tmp_path: Path) -> None:
    done = shell(f"{COMMAND} 'A woman talks' {closed}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("lost", ["2>&-", "2>/dev/full"])
def test_a_refusal_that_cannot_be_written_keeps_its_exit_code(lost: str, tmp_path: Path) -> None:
    assert shell(f"{COMMAND} {lost}", tmp_path).returncode == 2


def test_a_full_output_is_named(tmp_path: Path) -> None:
    done = shell(f"{COMMAND} 'A woman talks' >/dev/full", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "standard output cannot be written" in done.stderr


def test_a_deleted_folder_is_named(tmp_path: Path) -> None:
    done = shell(f"mkdir gone; cd gone; rmdir ../gone; {COMMAND} 'A woman talks'", tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr == "liveavatar: the folder that this command was started in is gone; go to another one with `cd`\n"
    )


def test_what_is_written_to_a_lost_stream_goes_nowhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    streams.lose("stderr")
    sys.stderr.write("lost\n")
    sys.stderr.close()
    assert capsys.readouterr().err == ""
