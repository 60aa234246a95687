"""Atomic writes, digests, errors of the disk, and conversion to JSON."""

import errno
import hashlib
import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from liveavatar.errors import CapacityError
from liveavatar.files import (
    disk_errors,
    exists,
    has_digest,
    newest_first,
    open_regular,
    plain,
    read_bytes,
    read_json,
    read_text,
    recall,
    remember,
    replacing,
    require_disk,
    rounded,
    sha256,
    sync_tree,
    write_atomically,
    write_json,
)


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


KINDS = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "socket": bind,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in KINDS.items()])
def test_only_a_regular_file_is_opened(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a pipe would wait for its other end, and a device has none."""
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    place = Path("record.json")
    make(place)
    for opened in (read_json, read_bytes, read_text, sha256, open_regular, lambda path: open_regular(path, "a")):
        with pytest.raises(OSError, match=r"record\.json"):
            opened(place)
    assert recall(place, {}) is None
    assert not has_digest(place, "a" * 64)


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in KINDS.items() if name != "socket"])
def test_what_lies_in_place_of_a_file_is_named(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "token")
    with (
        pytest.raises(CapacityError, match=r"token: a .* lies where a file of ours belongs; move it away, or set"),
        disk_errors(tmp_path),
    ):
        read_bytes(tmp_path / "token")


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    for make in (lambda: (tmp_path / "store").mkdir(), lambda: (tmp_path / "store" / "locks").mkdir(parents=True)):
        with (
            pytest.raises(CapacityError, match=r"store: a file lies where a folder of ours belongs"),
            disk_errors(tmp_path),
        ):
            make()


def test_files_elsewhere_and_folders_that_are_right_are_no_error_of_the_home(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    for wrong in (lambda: read_bytes(tmp_path), lambda: (tmp_path / "home").mkdir()):
        with pytest.raises((IsADirectoryError, FileExistsError)), disk_errors(tmp_path / "home"):
            wrong()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_read_in_the_encodings_that_name_themselves(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("José 女\r\n".encode(encoding))
    assert read_text(tmp_path / "a.txt") == "José 女\n"
    (tmp_path / "a.txt").write_bytes(b"Jos\xe9")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_text(tmp_path / "a.txt")


def raising(error: Exception) -> None:
    with disk_errors(Path("the-folder")):
        raise error


@pytest.mark.parametrize(
    ("data", "stored"),
    [
        pytest.param(b"\x00new", b"\x00new", id="bytes"),
        pytest.param("prüfung\n", "prüfung\n".encode(), id="text is UTF-8"),
        pytest.param(b"", b"", id="nothing"),
    ],
)
def test_write_replaces_what_was_there(data: bytes | str, stored: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old and longer")
    write_atomically(path, data)
    assert path.read_bytes() == stored
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", [pytest.param("fsync", id="not all on the disk"), pytest.param("replace", id="moved")])
def test_a_failed_write_keeps_the_old_content(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write_atomically(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_block_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "f.bin"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            assert path.read_bytes() == b"old"
            raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_has_another_ending(tmp_path: Path) -> None:
    with replacing(tmp_path / "dit.safetensors") as temporary:
        temporary.write_bytes(b"")
        assert not list(tmp_path.glob("*.safetensors")), "a reader that globs must not find it"
    assert (tmp_path / "dit.safetensors").is_file()


def test_two_writers_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "f") as one, replacing(tmp_path / "f") as other:
        assert one != other
        one.write_bytes(b"1")
        other.write_bytes(b"2")
    assert (tmp_path / "f").read_bytes() == b"1"


def test_json_makes_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_json(path, {"ü": [1, None]})
    assert json.loads(path.read_text()) == {"ü": [1, None]}


def test_sync_tree_pushes_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    for name in ("x", "a/y"):
        (tmp_path / name).write_bytes(b"1")
    pushed: list[int] = []
    monkeypatch.setattr(os, "fsync", pushed.append)
    sync_tree(tmp_path)
    assert len(pushed) == 2


@pytest.mark.parametrize("size", [pytest.param(0, id="empty"), pytest.param(3 << 20, id="3 MiB")])
def test_sha256(size: int, tmp_path: Path) -> None:
    data = bytes(range(256)) * (size // 256)
    (tmp_path / "f").write_bytes(data)
    assert sha256(tmp_path / "f") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        pytest.param(OSError(errno.ENOSPC, "No space left"), r"the-folder: the disk is full \(No space", id="full"),
        pytest.param(OSError(errno.EDQUOT, "Quota"), r"the-folder: the disk is full \(Quota", id="quota"),
        pytest.param(OSError(errno.EACCES, "Denied", "/x"), "/x: not writable .*LIVEAVATAR_HOME", id="permissions"),
        pytest.param(OSError(errno.EROFS, "Read-only"), "the-folder: not writable .*--out", id="read-only disk"),
        pytest.param(OSError(errno.EPERM, "Not permitted"), "the-folder: not writable", id="not permitted"),
        pytest.param(
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos"),
            "the-folder: the disk is full",
            id="torch.save on a full disk",
        ),
    ],
)
def test_disk_errors(error: Exception, message: str) -> None:
    with pytest.raises(CapacityError, match=message):
        raising(error)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(FileNotFoundError(errno.ENOENT, "No such file"), id="missing file"),
        pytest.param(RuntimeError("shape mismatch"), id="another error of torch"),
        pytest.param(ValueError("x"), id="no error of a disk"),
    ],
)
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        raising(error)
    assert raised.value is error


def test_require_disk_asks_the_nearest_folder(tmp_path: Path) -> None:
    require_disk(tmp_path / "not" / "made" / "yet", 1000, "a little")
    with pytest.raises(CapacityError, match=r"everything needs .* MB are free"):
        require_disk(tmp_path, 1 << 60, "everything")


@dataclass(frozen=True, slots=True)
class Facts:
    path: Path
    value: float


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(np.float32(0.5), 0.5, id="numpy float"),
        pytest.param(np.int64(3), 3, id="numpy int"),
        pytest.param(np.bool_(True), True, id="numpy bool"),
        pytest.param(float("nan"), None, id="nan"),
        pytest.param({"a": [np.float64("inf"), (1, np.array([2.0]))]}, {"a": [None, [1, [2.0]]]}, id="nested"),
        pytest.param({1: frozenset({2})}, {"1": [2]}, id="keys are text"),
        pytest.param(Facts(Path("/a"), float("inf")), {"path": "/a", "value": None}, id="dataclass"),
        pytest.param("text", "text", id="text"),
    ],
)
def test_plain_is_json(value: object, expected: object) -> None:
    result = plain(value)
    assert result == expected
    assert type(result) is type(expected)
    json.dumps(result, allow_nan=False)


def test_rounded() -> None:
    assert rounded({"a": [1.23456, (2.00049, 3)], "b": "x", "c": None}) == {"a": [1.235, [2.0, 3]], "b": "x", "c": None}
    assert rounded([1.23456], 1) == [1.2]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_in_any_of_its_encodings(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes('{"name": "prüfung"}'.encode(encoding))
    assert read_json(tmp_path / "a.json") == {"name": "prüfung"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"{", "Expecting", id="half"),
        pytest.param(b'"Jos\xe9"', "decode", id="Latin-1"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="nested without end"),
        pytest.param(b'{"a":' * 100_000, "nested too deeply", id="objects nested without end"),
        pytest.param(b"", "Expecting", id="empty"),
    ],
)
def test_all_that_is_wrong_with_json_is_one_error(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "a.json")


def test_no_file_has_a_name_too_long_for_it(tmp_path: Path) -> None:
    assert exists(tmp_path)
    assert not exists(tmp_path / "none")
    assert not exists(tmp_path / ("a" * 5000))


def test_files_are_sorted_by_their_last_change(tmp_path: Path) -> None:
    for name, changed in (("b", 200), ("a", 300), ("c", 100)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, changed))
    assert [path.name for path in newest_first([*tmp_path.iterdir(), tmp_path / "gone"])] == ["a", "b", "c"]


def test_facts_are_recalled_for_their_stamp_alone(tmp_path: Path) -> None:
    memo = tmp_path / "new/memo.json"
    assert recall(memo, [1, "a"]) is None
    remember(memo, [1, "a"], {"digest": "d"})
    known = recall(memo, [1, "a"])
    assert known is not None
    assert known["digest"] == "d"
    assert recall(memo, [2, "a"]) is None
    memo.write_text(memo.read_text().replace('"d"', '"e"'))
    assert recall(memo, [1, "a"]) is None, "a damaged record is no answer"


def test_facts_that_cannot_be_kept_are_found_out_again(tmp_path: Path) -> None:
    (tmp_path / "memo.json").mkdir()
    remember(tmp_path / "memo.json", 1, {"digest": "d"})
    assert recall(tmp_path / "memo.json", 1) is None
    assert [path.name for path in tmp_path.iterdir()] == ["memo.json"]
