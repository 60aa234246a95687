"""Settings of Prefect and Ray: what the user has set stays, and Ray's token is whole whenever it can be read."""

import os
import secrets
from pathlib import Path

import pytest

from flows.serving import environment

RAY = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our home, with an environment in which nothing is set."""
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    for name in (*RAY, *environment.DEFAULTS, "PREFECT_HOME"):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is gone afterwards
        monkeypatch.delenv(name)
    return tmp_path


def test_what_the_user_has_set_stays(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    assert environment.prepare() == surroundings / "prefect"
    assert os.environ["DO_NOT_TRACK"] == "0"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    monkeypatch.setenv("PREFECT_HOME", "/elsewhere")
    assert environment.prepare() == Path("/elsewhere")


def test_ray_asks_for_a_token_that_only_the_user_can_read(surroundings: Path) -> None:
    environment.guard_ray()
    path = surroundings / "ray_token"
    assert (path.stat().st_mode & 0o777, len(path.read_text())) == (0o600, 64)
    assert (os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN_PATH"]) == ("token", str(path))


@pytest.mark.parametrize("name", RAY)
def test_a_cluster_of_the_user_keeps_its_rules(name: str, surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "theirs")
    environment.guard_ray()
    assert not list(surroundings.iterdir())
    assert {other: os.environ[other] for other in RAY if other in os.environ} == {name: "theirs"}


def test_the_token_is_whole_whenever_it_is_there(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = surroundings / "ray_token"

    def meanwhile(_: int) -> str:
        assert not path.exists(), "an empty token can be read"
        path.write_text("of the other command")
        return "ours"

    monkeypatch.setattr(secrets, "token_hex", meanwhile)
    environment.guard_ray()
    assert [(p.name, p.read_text()) for p in path.parent.iterdir()] == [("ray_token", "of the other command")]
