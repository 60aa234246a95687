"""The artefact store: whole or absent, verified on reading, one maker at a time."""

import errno
import json
import multiprocessing
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from liveavatar.errors import CapacityError
from tasks.store.store import RECORD, Entry, Store


def _hello(folder: Path) -> dict[str, int]:
    (folder / "a.txt").write_text("hello")
    (folder / "sub").mkdir()
    (folder / "sub" / "b.bin").write_bytes(b"\0" * 10)
    return {"n": 3}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_second_build_is_a_hit(store: Store) -> None:
    first = store.build("s", "k" * 8, _hello)
    second = store.build("s", "k" * 8, lambda _: pytest.fail("made again"))
    assert (first.hit, second.hit) == (False, True)
    assert second.values == {"n": 3}
    assert set(second.files) == {"a.txt", "sub/b.bin"}
    assert second.path("a.txt").read_text() == "hello"
    assert store.digests() == set(first.files.values())


def test_force_makes_again(store: Store) -> None:
    store.build("s", "kk", _hello)

    def other(folder: Path) -> dict[str, int]:
        (folder / "a.txt").write_text("new")
        return {}

    assert store.build("s", "kk", other, force=True).path("a.txt").read_text() == "new"


def _flip(entry: Path) -> None:
    (entry / "a.txt").write_text("hellO")


def _truncate(entry: Path) -> None:
    (entry / "sub" / "b.bin").write_bytes(b"\0")


def _remove(entry: Path) -> None:
    (entry / "a.txt").unlink()


def _bad_record(entry: Path) -> None:
    (entry / RECORD).write_text("{")


def _other_fact(entry: Path) -> None:
    text = (entry / RECORD).read_text()
    (entry / RECORD).write_text(text.replace('"key": ', '"seed": 2, "key": '))


def _no_record(entry: Path) -> None:
    (entry / RECORD).unlink()


def _list_record(entry: Path) -> None:
    (entry / RECORD).write_text(json.dumps({"files": []}))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_flip, id="one letter changed"),
        pytest.param(_truncate, id="file cut short"),
        pytest.param(_remove, id="file gone"),
        pytest.param(_bad_record, id="record is no JSON"),
        pytest.param(_no_record, id="record gone"),
        pytest.param(_other_fact, id="a fact added to the record"),
        pytest.param(_list_record, id="record has another shape"),
    ],
)
def test_damaged_entry_is_made_again(store: Store, damage: object) -> None:
    entry = store.build("s", "kk", _hello)
    damage(entry.folder)  # type: ignore[operator]
    again = store.build("s", "kk", _hello)
    assert not again.hit
    assert again.path("a.txt").read_text() == "hello"
    assert store.get("s", "kk") is not None


def test_failed_make_leaves_nothing(store: Store) -> None:
    def broken(folder: Path) -> dict[str, int]:
        (folder / "a.txt").write_text("half")
        raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        store.build("s", "kk", broken)
    assert store.get("s", "kk") is None
    assert not list((store.root / "building").iterdir())


def test_full_disk_is_a_capacity_error(store: Store) -> None:
    def full(folder: Path) -> dict[str, int]:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "x"))

    with pytest.raises(CapacityError, match="disk is full"):
        store.build("s", "kk", full)
    assert store.get("s", "kk") is None


def _slow_make(root: str, log: str) -> None:
    def make(folder: Path) -> dict[str, int]:
        with open(log, "a") as file:
            file.write("made\n")
        time.sleep(0.3)
        return _hello(folder)

    Store(Path(root)).build("s", "kk", make)


def test_two_processes_make_once(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    spawn = multiprocessing.get_context("spawn")
    runs = [spawn.Process(target=_slow_make, args=(str(store.root), str(log))) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0]
    assert log.read_text() == "made\n"


def _killed_make(root: str, marker: str) -> None:
    def make(folder: Path) -> dict[str, int]:
        (folder / "a.txt").write_text("half")
        Path(marker).touch()
        time.sleep(60)
        return {}

    Store(Path(root)).build("s", "kk", make)


@pytest.mark.parametrize("force", [pytest.param(False, id="as usual"), pytest.param(True, id="made again by force")])
def test_whoever_waited_takes_over_from_a_killed_run(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    monkeypatch.setattr("tasks.store.store.NOTICE_SECONDS", 0.1)
    marker = tmp_path / "begun"
    first = multiprocessing.get_context("spawn").Process(target=_killed_make, args=(str(store.root), str(marker)))
    first.start()
    while not marker.exists():
        assert first.is_alive()
        time.sleep(0.02)
    threading.Timer(0.5, first.kill).start()
    entry = store.build("s", "kk", lambda _: pytest.fail("begun anew"), on_abandoned=_hello, force=force)
    first.join(60)
    assert (entry.hit, entry.path("a.txt").read_text()) == (False, "hello")
    assert [record.getMessage() for record in caplog.records] == [
        "another run is making this s; waiting for it",
        "the other run ended without this s; it is made here",
    ]


@pytest.mark.parametrize(
    ("force", "how"), [pytest.param(False, "not at all", id="as usual"), pytest.param(True, "anew", id="by force")]
)
def test_nobody_takes_over_what_was_made(store: Store, force: bool, how: str) -> None:
    hows: list[str] = []
    with ThreadPoolExecutor() as threads:

        def slow(folder: Path) -> dict[str, int]:
            waiting.append(threads.submit(store.build, "s", "kk", anew, on_abandoned=take_over, force=force))
            time.sleep(0.2)
            return _hello(folder)

        def anew(folder: Path) -> dict[str, int]:
            hows.append("anew")
            return _hello(folder)

        def take_over(folder: Path) -> dict[str, int]:
            hows.append("taken over")
            return _hello(folder)

        waiting: list[Future[Entry]] = []
        store.build("s", "kk", slow)
        assert waiting[0].result(60).path("a.txt").read_text() == "hello"
    assert (hows or ["not at all"]) == [how]


def test_a_short_wait_and_tidying_up_are_no_news(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.build("s", "kk", _hello)
    with ThreadPoolExecutor() as threads:
        with store.lock("s", "kk"):
            assert store.collect(max_bytes=0, max_age_days=0) == 0
            waiting = threads.submit(store.build, "s", "kk", _hello)
            time.sleep(0.2)
            assert not waiting.done()
        assert waiting.result(60).hit
    assert not caplog.records


def test_lock_timeout_says_the_way_out(store: Store) -> None:
    with store.lock("s", "kk"), pytest.raises(CapacityError, match="liveavatar stop"):
        store.build("s", "kk", _hello, lock_timeout=0.05)


def test_collect_drops_the_oldest_first(store: Store) -> None:
    entries = [store.build("s", f"key{i}", _hello) for i in range(3)]
    for age, entry in enumerate(reversed(entries)):
        past = time.time() - 3600 * (age + 1)
        os.utime(entry.folder / RECORD, (past, past))
    size = sum(f.stat().st_size for f in entries[0].folder.rglob("*") if f.is_file())
    assert store.collect(max_bytes=3 * size // 2, max_age_days=1) > size
    assert [store.get("s", f"key{i}") is not None for i in range(3)] == [False, False, True]
    assert store.collect(max_bytes=10**9, max_age_days=0) > 0
    assert store.get("s", "key2") is None


def test_recent_entries_come_newest_first_and_the_rest_is_not_read(store: Store) -> None:
    for number in range(4):
        made = store.build("s", f"key{number}", _hello, made_from={"number": number})
        used = time.time() - 3600 + number
        os.utime(made.folder / RECORD, (used, used))
    assert [e.made_from["number"] for e in store.recent("s", other_than="key2", most=2)] == [3, 1]
    (store.root / "s" / "ke" / "key3" / RECORD).write_text("{")
    assert [e.key for e in store.recent("s", other_than="", most=9)] == ["key2", "key1", "key0"], "key3 cannot be read"
    assert list(store.recent("t", other_than="", most=9)) == []


def test_collect_drops_what_a_killed_run_left_half_built_and_leaves_alone_what_is_still_made(store: Store) -> None:
    abandoned = store.root / "building" / "abandoned"

    def slow(folder: Path) -> dict[str, int]:
        abandoned.mkdir()  # a moment ago
        os.utime(folder, (0, 0))  # as after days of rendering, or a jump of the clock
        store.collect(max_bytes=10**9, max_age_days=60)
        return _hello(folder)

    assert store.build("s", "key", slow).path("a.txt").read_text() == "hello"
    assert not abandoned.exists()
    assert not list((store.root / "locks").glob("building-*"))
