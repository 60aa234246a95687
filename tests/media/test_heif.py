"""The list of contents of a HEIF file is read as it is, and nothing beyond the file."""

import io

import pytest

from liveavatar.media.heif import Heif, UnsupportedHeif
from tests.media.heif_files import Entry, box, heif, size


def _heif(entries: dict[int, Entry], primary: int = 1) -> Heif:
    return Heif(io.BytesIO(heif(entries, primary)))


def test_items() -> None:
    thumbnail = Entry(data=b"small", references={b"thmb": [7]})
    found = _heif({3: thumbnail, 7: Entry(data=b"large", properties=[size(4, 5)])}, primary=7)
    assert found.primary == 7
    assert found.content(found.item(7)) == b"large"
    assert found.content(found.item(3)) == b"small"
    assert found.item(7).property(b"ispe") == size(4, 5)[1]
    assert found.item(7).property(b"irot") is None
    assert found.item(3).references == {b"thmb": [7]}


def test_encrypted_and_missing_items() -> None:
    found = _heif({1: Entry(encrypted=True)})
    with pytest.raises(UnsupportedHeif, match="encrypted"):
        found.item(1)
    with pytest.raises(ValueError, match="missing"):
        found.item(2)


def test_content_behind_the_end() -> None:
    whole = heif({1: Entry(data=bytes(100))})
    found = Heif(io.BytesIO(whole[:-1]))
    with pytest.raises(ValueError, match="break off"):
        found.content(found.item(1))


def test_content_that_is_read_many_times_over() -> None:
    found = _heif({1: Entry(data=bytes(100))})
    item = found.item(1)
    item.extents *= 1000
    with pytest.raises(ValueError, match="over each other"):
        found.content(item)


@pytest.mark.parametrize("content", [b"", bytes(4), bytes(4) + box(b"pitm", bytes(2))])
def test_lists_that_are_damaged(content: bytes) -> None:
    with pytest.raises((ValueError, UnsupportedHeif)):
        Heif(io.BytesIO(box(b"ftyp", b"heic") + box(b"meta", content)))
