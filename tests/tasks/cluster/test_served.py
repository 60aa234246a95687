"""The Ray of `liveavatar serve` is found again by a command that joined it, and only that one."""

import threading
import time
from pathlib import Path

import pytest

from liveavatar import paths
from liveavatar.errors import Interrupted
from liveavatar.files import write_json
from tasks.cluster import served
from tasks.cluster.interruption import Interruption
from tasks.cluster.served import successor

OLD, NEW = "127.0.0.1:1", "127.0.0.1:2"


@pytest.fixture(autouse=True)
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The record of a `liveavatar serve`, in a home of our own."""
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    monkeypatch.setattr(served, "SUCCESSOR_SECONDS", 0.3)
    monkeypatch.setattr(served, "ASK_SECONDS", 0.01)
    paths.run().mkdir()
    return paths.run() / "serve-1.json"


def test_a_ray_that_was_replaced_is_found(record: Path) -> None:
    (record.parent / "serve-0.json").write_text("half")
    write_json(record.parent / "serve-2.json", {"ray": "127.0.0.1:3", "rays": ["127.0.0.1:3"]})
    write_json(record, {"ray": NEW, "rays": [OLD, "127.0.0.1:9", NEW]})
    assert successor(OLD, Interruption()) == NEW


def test_one_that_is_being_replaced_is_awaited(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "SUCCESSOR_SECONDS", 20.0)
    write_json(record, {"ray": OLD, "rays": [OLD]})
    later = threading.Timer(0.1, write_json, (record, {"ray": NEW, "rays": [OLD, NEW]}))
    later.start()
    assert successor(OLD, Interruption()) == NEW
    later.join()


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({"ray": NEW, "rays": [NEW]}, id="another cluster was joined"),
        pytest.param({"ray": OLD}, id="of an older serve"),
        pytest.param({"ray": OLD, "rays": [OLD]}, id="none came"),
    ],
)
def test_a_cluster_without_a_successor_ends_the_command(facts: dict[str, object], record: Path) -> None:
    write_json(record, facts)
    with pytest.raises(Interrupted, match=f"the Ray cluster at {OLD} is gone"):
        successor(OLD, Interruption())


def test_ctrl_c_ends_the_wait(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "SUCCESSOR_SECONDS", 20.0)
    write_json(record, {"ray": OLD, "rays": [OLD]})
    interruption, began = Interruption(), time.monotonic()
    threading.Timer(0.05, interruption.interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        successor(OLD, interruption)
    assert time.monotonic() - began < 10
