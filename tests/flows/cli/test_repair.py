"""Repairs: what dead processes left goes, what the living and the user have stays."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.cli import ask, repair
from liveavatar import paths
from tasks.cluster import guardian, ray_folder

OLD = time.time() - 3600
GONE = 4_000_000  # larger than any process id


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of our own, and a folder for sockets."""
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LIVEAVATAR_MODELS", raising=False)
    monkeypatch.setattr(repair, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(ray_folder, "own_sockets", lambda: tmp_path / "sockets")
    return tmp_path / "home"


def left(path: Path, content: str = "") -> Path:
    """Write a file as if an hour ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (OLD, OLD))
    return path


def test_a_new_home_is_made_and_then_there_is_nothing_to_do(home: Path) -> None:
    assert repair.repair() == [f"made {home}", f"made {home / 'run'}"]
    assert repair.repair() == []


def test_half_written_files_of_dead_processes_go(home: Path) -> None:
    dead = left(home / "digests" / ".a.json.0123abcd.tmp", "x" * 100)
    kept = [
        left(home / "store" / "render" / "video.mp4"),
        left(home / "notes.tmp"),
        left(home / ".mine.tmp"),
        left(home / "models" / "14b" / ".weights.0123abcd.tmp"),
        home / "work" / ".young.0123abcd.tmp",
    ]
    kept[-1].parent.mkdir()
    kept[-1].touch()
    with left(home / "work" / ".open.0123abcd.tmp").open("rb"):
        lines = list(repair.drop_half_written())
        assert (home / "work" / ".open.0123abcd.tmp").exists(), "a living process may still write it"
    assert lines == [f"deleted {dead}, half-written, 0.0 MB"]
    assert not dead.exists()
    assert all(path.exists() for path in kept)


def test_records_of_ended_commands_go(home: Path) -> None:
    own = psutil.Process()
    alive = left(home / "run" / f"serve-{own.pid}.json", json.dumps({"pid": own.pid, "created": own.create_time()}))
    dead = left(home / "run" / f"render-{GONE}.json", json.dumps({"pid": GONE, "created": 1.0}))
    reused = left(home / "run" / "render-1.json", json.dumps({"pid": own.pid, "created": 1.0}))
    young = home / "run" / "render-2.json"
    young.write_text("{")
    assert len(list(repair.drop_records())) == 2
    assert (alive.exists(), young.exists()) == (True, True)
    assert not dead.exists()
    assert not reused.exists(), "its number belongs to another process by now"


def test_sockets_of_dead_rays_go(tmp_path: Path) -> None:
    folder = tmp_path / "sockets"
    for name in (f"session_2026-01-01_{GONE}", f"session_2026-01-01_{os.getpid()}", "other"):
        left(folder / name / "file")
    (folder / "session_latest").symlink_to(folder / "other")
    assert len(list(repair.drop_sessions())) == 1
    assert {path.name for path in folder.iterdir()} == {
        f"session_2026-01-01_{os.getpid()}",
        "other",
        "session_latest",
    }


def test_the_token_is_for_the_user_only(home: Path) -> None:
    token = left(home / "ray_token", "secret")
    token.chmod(0o644)
    assert len(list(repair.protect_token())) == 1
    assert token.stat().st_mode & 0o777 == 0o600
    assert not list(repair.protect_token())


@pytest.fixture
def sleeper() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that are ended at the latest with the test."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("watched", "foreign", "ended"),
    [
        pytest.param(False, False, True, id="nobody watches it"),
        pytest.param(True, False, False, id="its guardian lives, and so may its driver"),
        pytest.param(False, True, False, id="of another home"),
    ],
)
def test_orphans_of_a_dead_command_are_ended(
    watched: bool, foreign: bool, ended: bool, sleeper: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    token = f"test{os.getpid()}"
    env = {**os.environ, guardian.MARK: token, "LIVEAVATAR_HOME": str(tmp_path / "other" if foreign else paths.home())}
    sleeper.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=env))
    if watched:
        command = [sys.executable, "-I", str(guardian.__file__), token]
        sleeper.append(subprocess.Popen(command, stdin=subprocess.PIPE))
    time.sleep(0.3)
    lines = list(repair.end_orphans())
    assert lines == (["ended 1 processes of a Ray whose command is gone"] if ended else [])
    if ended:
        assert sleeper[0].wait(10) < 0
    else:
        assert sleeper[0].poll() is None


def test_the_command_says_what_it_did(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask.doctor({"json": True, "fix": True})
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [f"fixed: made {home}", f"fixed: made {home / 'run'}"]
    assert json.loads(captured.out)
