"""The second tier: what is shared, what is checked, and what an unreachable one costs."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from liveavatar.errors import InputError
from liveavatar.files import signed
from liveavatar.hardware import free_port
from tasks.store.remote import RemoteStore, check_store_url, second_tier
from tasks.store.store import Store


def hello(folder: Path) -> dict[str, Any]:
    (folder / "a.txt").write_text("hello")
    (folder / "sub").mkdir()
    (folder / "sub" / "b.bin").write_bytes(bytes(1000))
    return {"n": 3}


def not_made(folder: Path) -> dict[str, Any]:
    raise AssertionError("made again")


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    memory = fsspec.filesystem("memory")
    yield f"memory://{tmp_path.name}/tier" if request.param == "memory" else f"file://{tmp_path}/tier"
    memory.store.clear()


def stores(tmp_path: Path, url: str) -> tuple[Store, Store]:
    """Two machines with one second tier."""
    one, other = (Store(tmp_path / name, RemoteStore(url)) for name in ("one", "other"))
    return one, other


def files_there(url: str) -> dict[str, bytes]:
    system, root = fsspec.core.url_to_fs(url)
    return {path.removeprefix(root): system.cat_file(path) for path in system.find(root)}


def test_what_one_machine_made_another_takes(tmp_path: Path, url: str) -> None:
    one, other = stores(tmp_path, url)
    made = one.build("s", "kk", hello, made_from={"seed": 1})
    taken = other.build("s", "kk", not_made)
    assert (made.hit, taken.hit) == (False, True)
    assert (taken.files, taken.values, taken.made_from) == (made.files, {"n": 3}, {"seed": 1})
    assert taken.path("a.txt").read_text() == "hello"
    there = files_there(url)
    assert len(there) == 3
    assert not [name for name in there if name.endswith(".tmp")]
    fsspec.core.url_to_fs(url)[0].rm(fsspec.core.url_to_fs(url)[1], recursive=True)
    assert other.build("s", "kk", not_made).hit, "local stays the first choice"
    assert other.find("s", "none") is None


def test_what_is_damaged_there_is_made_here_and_mended_there(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = stores(tmp_path, url)
    digest = one.build("s", "kk", hello).files["a.txt"]
    system, root = fsspec.core.url_to_fs(url)
    path = f"{root}/files/{digest[:2]}/{digest}"
    system.pipe_file(path, b"hellO")
    assert not other.build("s", "kk", hello).hit
    assert [r.getMessage() for r in caplog.records] == [f"{url}: s/kk is of no use (a.txt is damaged); it is made here"]
    assert system.cat_file(path) == b"hello"
    third = Store(tmp_path / "third", RemoteStore(url))
    assert third.find("s", "kk") is not None
    assert not list((third.root / "building").iterdir())


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(b"{", id="no JSON"),
        pytest.param(json.dumps({"kind": "s"}).encode(), id="not signed"),
        pytest.param(json.dumps(signed({"kind": "t", "key": "kk", "files": {}})).encode(), id="of another entry"),
        pytest.param(
            json.dumps(signed({"kind": "s", "key": "kk", "files": {"../../evil": "0" * 64}})).encode(),
            id="of our files",
        ),
    ],
)
def test_a_record_that_is_none_is_of_no_use(tmp_path: Path, record: bytes, caplog: pytest.LogCaptureFixture) -> None:
    url = f"file://{tmp_path}/tier"
    (tmp_path / "tier" / "entries" / "s").mkdir(parents=True)
    (tmp_path / "tier" / "entries" / "s" / "kk.json").write_bytes(record)
    assert not Store(tmp_path / "one", RemoteStore(url)).build("s", "kk", hello).hit
    assert [r.getMessage().split(" (")[0] for r in caplog.records] == [f"{url}: s/kk is of no use"]
    assert not (tmp_path / "evil").exists()


def test_two_writers_of_one_entry_leave_a_whole_one(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/tier"
    both = threading.Barrier(2)

    def make(folder: Path) -> dict[str, Any]:
        both.wait(20)
        (folder / "a.txt").write_text(threading.current_thread().name)
        (folder / "b.txt").write_text(threading.current_thread().name)
        return {}

    with ThreadPoolExecutor(2) as threads:
        for made in [threads.submit(store.build, "s", "kk", make) for store in stores(tmp_path, url)]:
            assert not made.result(60).hit
    taken = Store(tmp_path / "third", RemoteStore(url)).build("s", "kk", not_made)
    assert taken.path("a.txt").read_text() == taken.path("b.txt").read_text()


class Hanging(fsspec.AbstractFileSystem):  # type: ignore[misc] # fsspec's own way to add a file system
    """A file system that never answers."""

    protocol = "hanging"
    over = threading.Event()

    def cat_file(self, path: str, start: Any = None, end: Any = None, **kwargs: Any) -> bytes:
        self.over.wait(60)
        raise OSError("late")


def test_a_tier_that_hangs_or_is_away_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fsspec.register_implementation("hanging", Hanging, clobber=True)
    away = RemoteStore("hanging://user:secret@there/x", silent_s=0.3)
    store, started = Store(tmp_path / "one", away), time.monotonic()
    assert [store.build("s", key, hello).hit for key in ("k1", "k2", "k1")] == [False, False, True]
    assert time.monotonic() - started < 10
    Hanging.over.set()
    (line,) = (r.getMessage() for r in caplog.records)
    assert line.startswith("the second tier of the store is out of reach (hanging://***@there/x: no answer for")
    caplog.clear()
    broken = RemoteStore("s4://nowhere", rest_s=0.0)
    assert not Store(tmp_path / "two", broken).build("s", "kk", hello).hit
    assert len(caplog.records) == 2, "with no rest it is asked again: once to read, once to write"


def test_what_ends_a_wait_ends_that_for_the_tier(tmp_path: Path) -> None:
    fsspec.register_implementation("hanging", Hanging, clobber=True)
    Hanging.over.clear()

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RemoteStore("hanging://there").fetch("s", "kk", tmp_path, stop)
    Hanging.over.set()


def test_the_environment_names_the_tier_of_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LIVEAVATAR_STORE_URL", f"file://{tmp_path}/tier")
    assert second_tier() is second_tier()
    Store().build("s", "kk", hello)
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "other"))
    assert Store().find("s", "kk") is not None
    monkeypatch.delenv("LIVEAVATAR_STORE_URL")
    assert second_tier() is None


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s4://bucket", "Protocol not known: s4"),
        ("/mnt/share", "it is no address"),
        ("x://me:pw@host", r"x://\*\*\*@host"),
    ],
)
def test_an_address_that_nothing_opens_is_refused(url: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_STORE_URL", url)
    with pytest.raises(InputError, match=says):
        check_store_url()
    monkeypatch.setenv("LIVEAVATAR_STORE_URL", "file:///mnt/share")
    check_store_url()


@pytest.mark.nightly
def test_a_bucket_is_a_tier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                monkeypatch.setenv(name, "testing")
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            bucket = urllib.request.Request(f"http://127.0.0.1:{port}/studio", method="PUT")
            deadline = time.monotonic() + 60
            while True:
                try:
                    urllib.request.urlopen(bucket, timeout=5).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            one, other = stores(tmp_path, "s3://studio/tier")
            made = one.build("s", "kk", hello)
            taken = other.build("s", "kk", not_made)
            assert (taken.hit, taken.files) == (True, made.files)
            missing = Store(tmp_path / "third", RemoteStore("s3://nobody/tier"))
            assert not missing.build("s", "kk", hello).hit
        finally:
            server.terminate()
    assert os.environ["AWS_DEFAULT_REGION"] == "us-east-1"
