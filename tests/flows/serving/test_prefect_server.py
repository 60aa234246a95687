"""What commands that start at one moment share: the token of Ray, the database of Prefect, the place of output."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting
from pathlib import Path

import pytest

from flows import preflight
from flows.parameters import RenderParameters
from flows.serving import environment
from flows.serving.prefect_server import DatabaseLock


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    for name in ("PREFECT_API_URL", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is gone afterwards
        monkeypatch.delenv(name)
    return tmp_path


def test_one_server_at_a_time_creates_the_database(home: Path) -> None:
    first, second, third = DatabaseLock(home), DatabaseLock(home), DatabaseLock(home)
    first.acquire()
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(second.acquire)
        with pytest.raises(StillWaiting):
            waiting.result(0.3)
        assert first.creating
        first.mark_created()
        waiting.result(60)
    third.acquire()
    assert [lock.creating for lock in (first, second, third)] == [False, False, False]


def test_another_version_of_prefect_creates_it_again(home: Path) -> None:
    first, second = DatabaseLock(home), DatabaseLock(home)
    first.acquire()
    first.mark_created()
    (home / "database_version").write_text("2.0.0")
    second.acquire()
    assert second.creating
    second.mark_created()
    assert not second.creating


def test_the_token_is_whole_whenever_it_is_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "home" / "ray_token"

    def meanwhile(_: int) -> str:
        assert not path.exists(), "an empty token can be read"
        path.write_text("of the other command")
        return "ours"

    monkeypatch.setattr(secrets, "token_hex", meanwhile)
    environment.guard_ray()
    assert [(p.name, p.read_text()) for p in path.parent.iterdir()] == [("ray_token", "of the other command")]


def test_commands_of_one_second_publish_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight.time, "strftime", lambda _: "20260131-235959")
    asked = RenderParameters(audio="a b.wav", image="face.png", prompt="A woman talks.")
    with ThreadPoolExecutor(4) as threads:
        claimed = list(threads.map(preflight.claim_output, [asked] * 4))
    assert sorted(str(out) for out in claimed) == [
        f"out/20260131-235959-a-b{number}" for number in ("", "-2", "-3", "-4")
    ]
    assert all(out.is_dir() for out in claimed)


def test_a_folder_that_was_named_is_the_place(tmp_path: Path) -> None:
    asked = RenderParameters(audio="a.wav", image="face.png", prompt="A woman talks.", out=str(tmp_path / "mine"))
    assert [preflight.claim_output(asked) for _ in range(2)] == [tmp_path / "mine"] * 2
    assert not list(tmp_path.iterdir()), "it appears whole, when the run is published"
