"""`RAY_ADDRESS` is asked before Ray is imported: an address where no cluster answers is refused in seconds."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from liveavatar.errors import CapacityError, InputError
from liveavatar.hardware import free_port
from tasks.cluster import address as module
from tasks.cluster.address import cluster_address


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that is as before afterwards."""
    monkeypatch.setattr(os, "environ", dict(os.environ))


@pytest.fixture
def listener() -> Iterator[str]:
    """Address at which something takes connections and says nothing."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield f"127.0.0.1:{silent.getsockname()[1]}"


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://localhost:{port}", "[::1]:{port}"])
def test_a_ray_that_is_not_there_is_refused_before_ray_is_imported(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = address.format(port=free_port())
    monkeypatch.setenv("RAY_ADDRESS", given)
    with pytest.raises(CapacityError, match="no Ray cluster answers there"):
        cluster_address()


@pytest.mark.parametrize("address", ["", " ", "local"])
def test_a_local_ray_needs_no_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster_address() == ""
    assert "RAY_ADDRESS" not in os.environ


@pytest.mark.parametrize("address", ["garbage", "127.0.0.1", ":6379", "a:b", "ray://", "127.0.0.1:99999"])
def test_a_ray_address_that_is_none_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=f"RAY_ADDRESS={address} is no address of a Ray cluster"):
        cluster_address()


@pytest.mark.parametrize("left", ["a cluster that has gone", ""])
def test_the_last_cluster_of_this_machine_is_asked_before_ray(
    left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    gone = f"127.0.0.1:{free_port()}"
    if left:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(gone)
    with pytest.raises(CapacityError, match=gone if left else "none was started on this machine"):
        cluster_address()


def test_the_last_cluster_of_this_machine_is_joined(
    listener: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(listener)
    assert cluster_address() == listener


def test_something_silent_at_the_address(listener: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.2)
    monkeypatch.setenv("RAY_ADDRESS", listener)
    with pytest.raises(CapacityError, match=f"RAY_ADDRESS={listener}: no Ray cluster answers there .silent for 0 s"):
        cluster_address(lambda _: time.sleep(2))


def test_something_else_at_the_address(listener: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(asked: str) -> None:
        raise RuntimeError(f"{asked} is a printer\nwith paper")

    monkeypatch.setenv("RAY_ADDRESS", listener)
    with pytest.raises(CapacityError, match=f"answers there .{listener} is a printer.; start it"):
        cluster_address(ask)
