"""The command is not taken from the working directory, whatever `PYTHONPATH` says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.search_path import ROOT, entries, leave_out_relative


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        pytest.param(("liveavatar", "check-prompt", "A woman talks", "--json"), 0, '"score"', id="liveavatar"),
        pytest.param(("noisereduce", "-i", "none.wav", "-o", "c.mp3"), 2, "name a wav file", id="noisereduce"),
    ],
)
@pytest.mark.parametrize(
    "named",
    ["{}", ":{}", "{}:", ".:{}", "theirs:{}"],
    ids=["no relative one", "empty", "empty at the end", ".", "folder"],
)
def test_files_of_the_working_directory_are_not_imported(
    named: str, command: tuple[str, ...], code: int, says: str, tmp_path: Path
) -> None:
    for name in ("flows/__init__.py", "tasks.py", "random.py", "re.py", "typing.py", "yaml.py"):
        for folder in (tmp_path, tmp_path / "theirs"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("raise SystemExit('a file of the user was imported')\n")
    script, *arguments = command
    surroundings = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": named.format(ROOT)}
    done = subprocess.run(
        [sys.executable, str(Path(ROOT, "infra/bin", script)), *arguments],
        cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
    assert "a file of the user" not in done.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_while_modules_are_imported_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").write_text(f"import signal; signal.raise_signal(signal.{name})\n")
    done = subprocess.run(
        [sys.executable, str(Path(ROOT, "infra/bin/liveavatar")), "render"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (4, "liveavatar: interrupted before it began; run it again\n")


@pytest.mark.parametrize("script", ["liveavatar", "noisereduce"])
def test_a_process_that_multiprocessing_spawns_does_not_run_the_command(script: str, tmp_path: Path) -> None:
    spawning = f"""
import multiprocessing, signal, sys
sys.argv = ["{script}", "--help"]
sys.modules["__main__"].__file__ = {str(Path(ROOT, "infra/bin", script))!r}
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply_async(signal.getsignal, (signal.SIGTERM,)).get(20))
"""
    done = subprocess.run(
        [sys.executable, "-c", spawning], env={"PATH": os.environ["PATH"], "PYTHONPATH": ROOT},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr  # SIG_DFL


def test_a_checkout_may_be_named_as_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [ROOT, str(tmp_path), "/lib"])
    monkeypatch.setenv("PYTHONPATH", ".:/lib")
    monkeypatch.chdir(ROOT)
    leave_out_relative()
    assert sys.path == [ROOT, str(tmp_path), "/lib"]
    monkeypatch.chdir(tmp_path)
    leave_out_relative()
    assert sys.path == [ROOT, "/lib"]
    monkeypatch.setenv("PYTHONPATH", "")
    assert entries() == []
