"""The folder of a local Ray: short enough for its sockets, with room for its logs."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from liveavatar.errors import CapacityError
from tasks.cluster import ray_folder


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set `TMPDIR` to a folder that is short enough, and no `RAY_TMPDIR`."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/var/tmp")


def test_sockets_get_a_short_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ray_folder.short_folder() is None
    monkeypatch.setenv("TMPDIR", "/tmp/" + "x" * 120)
    folder = Path(ray_folder.short_folder() or "")
    assert len(str(folder)) <= ray_folder.LONGEST_TMPDIR
    facts = folder.parent.stat()
    assert (stat.S_IMODE(facts.st_mode), facts.st_uid) == (0o700, os.getuid())


@pytest.mark.parametrize(
    ("named", "named_too", "asked"),
    [
        pytest.param("/var/tmp", "", "/var/tmp", id="TMPDIR"),
        pytest.param("/var/tmp", "/dev/shm", "/dev/shm", id="Ray's own variable first"),
        pytest.param("", "", "/tmp", id="neither"),
    ],
)
def test_its_disk_is_named_when_it_is_full(
    named: str, named_too: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", named)
    monkeypatch.setenv("RAY_TMPDIR", named_too)
    ray_folder.require_room()
    looked: list[Path] = []

    def usage(folder: Path) -> object:
        looked.append(folder)
        return type("Usage", (), {"free": 100_000})

    monkeypatch.setattr(shutil, "disk_usage", usage)
    variable = "RAY_TMPDIR" if named_too else "TMPDIR"
    with pytest.raises(CapacityError, match=rf"on the disk of {asked}, 0 MB are free; .* set {variable} to another"):
        ray_folder.require_room()
    assert looked == [Path(asked).resolve()]
