"""Second tier of the artefact store, at any address that fsspec knows: a bucket, a share, another server.

A file lies there under its sha256, and the record of an entry under stage and key, written last: two writers of one
entry never mix their files, and nobody reads half an entry. Everything that is fetched is checked against its digest.
A tier that cannot be reached, or stops answering, costs one warning and is left alone for a while; no error of it
leaves this module.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

from liveavatar import paths
from liveavatar.errors import InputError, one_line, without_passwords
from liveavatar.files import is_intact, parse_json, sha256

log = logging.getLogger(__name__)

R = TypeVar("R")
SILENT_SECONDS = 30.0  # without a byte after which the tier counts as unreachable
REST_SECONDS = 300.0  # until an unreachable tier is asked again
POLL_SECONDS = 0.2
LOCAL = ("file", "local")
WITH_FOLDERS = (*LOCAL, "sftp", "ssh", "ftp", "smb", "hdfs", "webhdfs")  # the others put an object whole or not at all


def check_store_url() -> None:
    """Refuse an address of the second tier that no installed package can open.

    Raises:
        InputError: there is no such protocol, or the package for it is missing.
    """
    url = paths.store_url()
    if url is None:
        return
    import fsspec

    protocol, colon, _ = url.partition("://")
    try:
        if not colon:
            raise ValueError("it is no address")
        fsspec.get_filesystem_class(protocol)
    except (ValueError, ImportError) as e:
        way = "install 'liveavatar[s3]'" if protocol == "s3" else "give one such as s3://bucket/folder or file:///share"
        raise InputError(f"LIVEAVATAR_STORE_URL={without_passwords(url)}: {e}; {way}, or unset it") from e


@cache
def _tier_at(url: str) -> "RemoteStore":
    return RemoteStore(url)


def second_tier() -> "RemoteStore | None":
    """Return the second tier that `LIVEAVATAR_STORE_URL` names, one object a process; None without one."""
    url = paths.store_url()
    return None if url is None else _tier_at(url)


class RemoteStore:
    """Entries of the store at an address."""

    def __init__(self, url: str, silent_s: float = SILENT_SECONDS, rest_s: float = REST_SECONDS) -> None:
        self.name = without_passwords(url)
        self._url, self._silent_s, self._rest_s = url, silent_s, rest_s
        self._asleep_until = 0.0
        self._damaged: set[str] = set()  # digests whose file there is not what it should be
        self._beat = time.monotonic()

    def fetch(
        self, kind: str, key: str, folder: Path, while_waiting: Callable[[], None] = lambda: None
    ) -> dict[str, Any] | None:
        """Fetch the files of an entry into an empty folder, and return its record; None where it is not there, whole.

        Args:
            kind, key: of the entry.
            folder: it is left with any content when there is no entry.
            while_waiting: called again and again meanwhile; what it raises ends the wait.
        """
        return self._asked(lambda: self._fetch(kind, key, folder), while_waiting)

    def push(self, folder: Path, record: dict[str, Any], while_waiting: Callable[[], None] = lambda: None) -> None:
        """Write an entry there, its record last; files that are there already are not sent again."""
        self._asked(lambda: self._push(folder, record), while_waiting)

    @cached_property
    def _root(self) -> tuple[Any, str]:
        """The file system and the path of the tier in it."""
        from fsspec.core import url_to_fs

        local = self._url.split("://", maxsplit=1)[0] in LOCAL
        system, root = url_to_fs(self._url, **({"auto_mkdir": True} if local else {}))
        return system, root.rstrip("/")

    def _fetch(self, kind: str, key: str, folder: Path) -> dict[str, Any] | None:
        system = self._root[0]
        try:
            record: dict[str, Any] = parse_json(system.cat_file(self._record_path(kind, key)))
            if not is_intact(record) or (record["kind"], record["key"]) != (kind, key):
                raise ValueError("its record is damaged")
            for name, digest in record["files"].items():
                target = folder / name
                if not target.resolve().is_relative_to(folder.resolve()):
                    raise ValueError("its record names files elsewhere")
                target.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(self._file_path(digest), str(target), callback=self._callback())
                if sha256(target) != digest:
                    self._damaged.add(digest)
                    raise ValueError(f"{name} is damaged")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            log.warning("%s: %s/%s is of no use (%s); it is made here", self.name, kind, key[:12], e)
            return None
        return record

    def _push(self, folder: Path, record: dict[str, Any]) -> None:
        for name, digest in record["files"].items():
            if digest in self._damaged or not self._holds(self._file_path(digest), (folder / name).stat().st_size):
                self._put(folder / name, self._file_path(digest))
                self._damaged.discard(digest)
        self._write(json.dumps(record).encode(), self._record_path(record["kind"], record["key"]))

    def _record_path(self, kind: str, key: str) -> str:
        return f"{self._root[1]}/entries/{kind}/{key}.json"

    def _file_path(self, digest: str) -> str:
        return f"{self._root[1]}/files/{digest[:2]}/{digest}"

    def _holds(self, path: str, size: int) -> bool:
        try:
            return bool(self._root[0].info(path)["size"] == size)
        except FileNotFoundError:
            return False

    def _put(self, source: Path, target: str) -> None:
        self._placed(target, lambda path: self._root[0].put_file(str(source), path, callback=self._callback()))

    def _write(self, data: bytes, target: str) -> None:
        self._placed(target, lambda path: self._root[0].pipe_file(path, data))

    def _placed(self, target: str, write: Callable[[str], Any]) -> None:
        """Write a file so that it appears whole: under another name first, where folders are files on a disk."""
        system = self._root[0]
        protocols = (system.protocol,) if isinstance(system.protocol, str) else system.protocol
        if not set(protocols) & set(WITH_FOLDERS):
            write(target)
            return
        system.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        temporary = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
        write(temporary)
        system.mv(temporary, target)

    def _callback(self) -> Any:
        from fsspec.callbacks import Callback

        def beat(*_: Any, **__: Any) -> None:
            self._beat = time.monotonic()

        beat()
        return Callback(hooks={"beat": beat})

    def _asked(self, work: Callable[[], R], while_waiting: Callable[[], None]) -> R | None:
        """Run work in a thread that nobody waits for once it has been silent for too long; None when it failed."""
        if time.monotonic() < self._asleep_until:
            return None
        answer: Future[R] = Future()
        self._beat = time.monotonic()
        threading.Thread(target=_fulfil, args=(answer, work), daemon=True, name="second-tier").start()
        while not answer.done():
            wait([answer], timeout=POLL_SECONDS)
            while_waiting()
            if not answer.done() and time.monotonic() - self._beat > self._silent_s:
                self._lose(f"no answer for {self._silent_s:.0f} s")
                return None
        error = answer.exception()
        if error is None:
            return answer.result()
        self._lose(one_line(str(error)) or type(error).__name__)
        return None

    def _lose(self, reason: str) -> None:
        self._asleep_until = time.monotonic() + self._rest_s
        log.warning("the second tier of the store is out of reach (%s: %s); results stay here", self.name, reason)


def _fulfil(answer: "Future[R]", work: Callable[[], R]) -> None:
    try:
        answer.set_result(work())
    except BaseException as e:  # noqa: BLE001 (each file system has errors of its own; said where the answer is awaited)
        answer.set_exception(e)
