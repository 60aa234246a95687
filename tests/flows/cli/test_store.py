"""`liveavatar store`: what is listed, deleted and found damaged, and what a job under way keeps."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from liveavatar import paths
from tasks.catalogue import CatalogueRecord, find_run
from tasks.store.store import RECORD, Entry, Store
from tests.flows.cli.commands import run
from tests.flows.cli.published import publish

SOUND, RENDER, SPARE = ("a" * 64, "b" * 64, "c" * 64)


def fill(folder: Path) -> dict[str, Any]:
    (folder / "data.bin").write_bytes(bytes(1000))
    return {}


@pytest.fixture
def runs(home: Path) -> list[CatalogueRecord]:
    """Two runs of one sound and two renders, and an entry of neither that was not used for three days."""
    for stage, key in (("ingest", SOUND), ("render", RENDER), ("render", SPARE)):
        Store().build(stage, key, fill)
    old = time.time() - 3 * 86400
    os.utime(Store().root / "render" / "cc" / SPARE / RECORD, (old, old))
    return [publish(home / "one", ingest=SOUND, render=RENDER), publish(home / "two", ingest=SOUND)]


def kept() -> list[str]:
    return sorted(entry.key[0] for entry in Store().entries())


def test_entries_are_listed_with_size_age_and_runs(
    runs: list[CatalogueRecord], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(["store", "ls"], capsys)
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines() if SPARE[:12] in line] == [["render", SPARE[:12]]]
    assert "3 days ago  -" in out
    assert f"{home / 'two'}, {home / 'one'}" in out
    assert "render: 2 entries, 2." in out
    listed = json.loads(run(["store", "ls", "--stage", "ingest", "--json"], capsys)[1])["entries"]
    assert [(row["stage"], row["key"], len(row["runs"])) for row in listed] == [("ingest", SOUND, 2)]


def test_gc_says_what_it_would_delete_and_deletes_only_when_told(
    runs: list[CatalogueRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(["store", "gc", "--days", "2"], capsys)
    assert (code, kept()) == (0, ["a", "b", "c"])
    assert "would delete 1 entry," in out
    assert "nothing was deleted: add --yes" in out
    assert "deleted 1 entry," in run(["store", "gc", "--days", "2", "--yes"], capsys)[1]
    assert kept() == ["a", "b"]
    assert "nothing to delete" in run(["store", "gc", "--days", "2"], capsys)[1]
    run(["store", "gc", "--gb", "0", "--yes"], capsys)
    assert kept() == []


def test_what_a_job_under_way_uses_stays(runs: list[CatalogueRecord], capsys: pytest.CaptureFixture[str]) -> None:
    with Store().using():
        assert Store().get("ingest", SOUND) is not None
        out = run(["store", "gc", "--gb", "0", "--yes"], capsys)[1]
        assert "2 entries are in use by jobs under way and stay" in out, "this one, and one of a moment before"
        assert kept() == ["a", "b"]
        code, _, err = run(["store", "rm", SOUND], capsys)
        assert (code, "liveavatar stop" in err, kept()) == (3, True, ["a", "b"])
    run(["store", "gc", "--gb", "0", "--yes"], capsys)
    assert kept() == []


def test_verify_names_what_is_damaged(
    runs: list[CatalogueRecord], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(["store", "verify"], capsys)
    assert (code, out) == (0, "3 entries and 2 published runs checked, 0 damaged\n")
    (Store().root / "render" / "bb" / RENDER / "data.bin").write_bytes(bytes(999) + b"1")
    (Store().root / "ingest" / "aa" / SOUND / "data.bin").unlink()
    (home / "one" / "video.mp4").write_bytes(b"other")
    code, out, _ = run(["store", "verify", "--json"], capsys)
    assert code == 1
    found = {(fault["stage"], *fault["files"]) for fault in json.loads(out)["damaged"]}
    assert found == {("render", "data.bin"), ("ingest", "data.bin"), ("run", "video.mp4")}
    (Store().root / "ingest" / "aa" / SOUND / "entry.json").unlink()
    (Store().root / "ingest" / "aa" / SOUND / "entry.json").mkdir()
    record = next(paths.catalogue().iterdir())
    record.write_bytes(record.read_bytes()[:-9])
    code, out, _ = run(["store", "verify"], capsys)
    assert code == 1
    assert f"damaged: {record.parent}: {record.name}" in out
    assert "3 entries and 2 published runs checked, " in out
    code, out, _ = run(["runs"], capsys)
    assert (code, out.splitlines()[-1][:39]) == (0, "left out: 1 damaged record(s) of the ca")
    with Store().lock("render", RENDER):
        assert Store().damage("render", RENDER) == [], "it is being made again just now"


def test_rm_deletes_an_entry_or_what_only_one_run_has(
    runs: list[CatalogueRecord], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["store", "rm", SPARE[:8]], capsys)[0] == 0
    assert kept() == ["a", "b"]
    code, out, _ = run(["store", "rm", "one"], capsys)
    assert (code, kept()) == (0, ["a"]), "the sound is also of the other run"
    assert f"its folder {home / 'one'} stays" in out
    assert find_run(runs[0].id) is None
    assert (home / "one" / "video.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rm"], "name an entry"),
        (["rm", "out/none"], "give 6 or more digits"),
        (["rm", "ffffff"], "no entry has this key"),
        (["ls", "--stage", "rendr"], "it has ingest, render"),
        (["ls", "--yes"], "store ls takes no --yes"),
        (["verify", "abc"], "store verify takes no abc"),
        (["gc", "--days", "-1"], "--days -1: give a number from 0 on"),
        (["gc", "--gb", "nan"], "--gb nan"),
        (["tidy"], "invalid choice"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    arguments: list[str], says: str, runs: list[CatalogueRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(["store", *arguments], capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert kept() == ["a", "b", "c"]


def test_an_entry_that_was_used_since_it_was_listed_stays(runs: list[CatalogueRecord]) -> None:
    spare = Store().entries()[0]
    assert isinstance(Store().get("render", SPARE), Entry)
    assert not Store().drop(spare)


@pytest.mark.parametrize("place", ["store/locks/using-1-ab.lock", f"store/locks/render-{RENDER}.lock", "store/locks"])
def test_what_lies_in_place_of_a_lock_is_named(
    place: str, runs: list[CatalogueRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    lock = paths.home() / place
    if place.endswith(".lock"):
        lock.unlink(missing_ok=True)
        lock.mkdir()
    else:
        shutil.rmtree(lock)
        lock.touch()
    (Store().root / "render" / "bb" / RENDER / "data.bin").unlink()
    code, _, err = run(["store", "verify"], capsys)
    assert (code, err.count("\n")) == (3, 1)
    assert f"{lock}: a {'folder' if lock.is_dir() else 'file'} lies where" in err
