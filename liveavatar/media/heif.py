"""Contents of a HEIF file, the container of HEIC: its pictures, their properties and how they belong together.

Pictures are *items* with an id; the primary one is what a viewer shows, others are its tiles, its thumbnail, maps of
depth and gain, or its transparency. *Properties* say the size, colours, turns and decoder settings of an item. All is
read before any picture is decoded, and every number in it is untrusted. Knows no decoder.
"""

import io
from dataclasses import dataclass, field
from typing import BinaryIO

from liveavatar.media.chunks import MP4, chunks, size_of

MAX_META = 64_000_000  # bytes of the list of contents; those of phones have a few thousand


class UnsupportedHeif(Exception):
    """A whole file of a kind that is not read; the message says what it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Property:
    """One property of an item."""

    name: bytes  # four letters
    content: bytes


@dataclass(kw_only=True, slots=True)
class Item:
    """One picture, or what belongs to it."""

    kind: bytes = b""  # "hvc1": HEVC; "grid": made of tiles
    encrypted: bool = False
    extents: list[tuple[int, int]] = field(default_factory=list)  # (position, bytes); 0 bytes: up to the end
    inside: bool = False  # positions count in the list of contents, not in the file
    properties: list[Property] = field(default_factory=list)  # in their order, which is that of turns and cuts
    references: dict[bytes, list[int]] = field(default_factory=dict)  # of each kind, to the ids of other items

    def property(self, name: bytes) -> bytes | None:
        """Return the content of its first property of a name; None where it has none."""
        return next((found.content for found in self.properties if found.name == name), None)


class Heif:
    """The list of contents of an open file."""

    def __init__(self, file: BinaryIO) -> None:
        """Read it.

        Raises:
            ValueError: it is damaged or cut off.
            UnsupportedHeif: the file has no primary picture or keeps its data elsewhere.
        """
        self._file = file
        self._end = size_of(file)
        top = {chunk.name: chunk for chunk in chunks(file, MP4, MP4.first, self._end)}
        if b"meta" not in top:
            if b"moov" in top:
                raise UnsupportedHeif("it is a sequence of pictures")
            raise ValueError("it has no list of contents")
        meta = top[b"meta"]
        if meta.start + meta.size > self._end or meta.size > MAX_META:
            raise ValueError("its list of contents breaks off")
        file.seek(meta.start)
        self._boxes = _boxes(file.read(meta.size)[4:])
        self.items: dict[int, Item] = {}
        self._list_items()
        self._place_items()
        self._describe_items()
        self._relate_items()
        self.primary = self._primary()

    def item(self, number: int) -> Item:
        """Return an item by its id.

        Raises:
            ValueError: there is none.
            UnsupportedHeif: it is encrypted.
        """
        if number not in self.items:
            raise ValueError(f"picture {number} is missing")
        if self.items[number].encrypted:
            raise UnsupportedHeif("it is encrypted")
        return self.items[number]

    def content(self, item: Item) -> bytes:
        """Read the bytes of an item.

        Raises:
            ValueError: some are behind the end of the file.
        """
        held = _joined(self._boxes, b"idat") if item.inside else b""
        end = len(held) if item.inside else self._end
        spans = [(start, length or end - start) for start, length in item.extents]
        if not spans or any(start + length > end for start, length in spans):
            raise ValueError("its pixels break off")
        if sum(length for _, length in spans) > end:
            raise ValueError("its pixels lie over each other")
        parts = []
        for start, length in spans:
            self._file.seek(start)
            parts.append(held[start : start + length] if item.inside else self._file.read(length))
        return b"".join(parts)

    def _primary(self) -> int:
        fields = _Fields(_joined(self._boxes, b"pitm"))
        if not fields.data:
            raise UnsupportedHeif("it has no main picture")
        return fields.number(2 if fields.version() == 0 else 4)

    def _list_items(self) -> None:
        fields = _Fields(_joined(self._boxes, b"iinf"))
        fields.take(2 if fields.version() == 0 else 4)
        for name, content in _boxes(fields.rest()):
            entry = _Fields(content)
            version = entry.version()
            if name == b"infe" and version >= 2:
                number = entry.number(2 if version == 2 else 4)
                encrypted = entry.number(2) > 0
                self.items[number] = Item(kind=entry.take(4), encrypted=encrypted)

    def _place_items(self) -> None:
        fields = _Fields(_joined(self._boxes, b"iloc"))
        version = fields.version()
        sizes = fields.number(2)
        at_bytes, length_bytes, base_bytes = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
        index_bytes = sizes & 15 if version else 0
        wide = 4 if version == 2 else 2
        for _ in range(fields.number(wide)):
            item = self.items.get(fields.number(wide), Item())
            method = fields.number(2) & 15 if version else 0
            elsewhere = fields.number(2) > 0
            if item.kind in (b"hvc1", b"grid") and (method > 1 or elsewhere):
                raise UnsupportedHeif("its pixels lie in another file or item")
            item.inside = method == 1
            base = fields.number(base_bytes)
            for _ in range(fields.number(2)):
                fields.take(index_bytes)
                item.extents.append((base + fields.number(at_bytes), fields.number(length_bytes)))

    def _describe_items(self) -> None:
        lists = _boxes(_joined(self._boxes, b"iprp"))
        known = [Property(name=name, content=content) for name, content in _boxes(_joined(lists, b"ipco"))]
        for name, content in lists:
            if name != b"ipma":
                continue
            fields = _Fields(content)
            wide = 4 if fields.version() else 2
            index_bytes = 2 if fields.flags & 1 else 1
            for _ in range(fields.number(4)):
                item = self.items.get(fields.number(wide), Item())
                for _ in range(fields.number(1)):
                    index = fields.number(index_bytes) & (1 << 8 * index_bytes - 1) - 1
                    if index > len(known):
                        raise ValueError("a property is missing")
                    if index:
                        item.properties.append(known[index - 1])

    def _relate_items(self) -> None:
        fields = _Fields(_joined(self._boxes, b"iref"))
        if not fields.data:
            return
        wide = 4 if fields.version() else 2
        for name, content in _boxes(fields.rest()):
            entry = _Fields(content)
            item = self.items.get(entry.number(wide), Item())
            item.references.setdefault(name, []).extend(entry.number(wide) for _ in range(entry.number(2)))


class _Fields:
    """Numbers of a box, read one behind the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.flags = 0
        self._at = 0

    def take(self, count: int) -> bytes:
        if self._at + count > len(self.data):
            raise ValueError("its list of contents is damaged")
        self._at += count
        return self.data[self._at - count : self._at]

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count))

    def version(self) -> int:
        version, self.flags = self.number(1), self.number(3)
        return version

    def rest(self) -> bytes:
        return self.data[self._at :]


def _boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """Cut the content of a box into the boxes in it, as (name, content)."""
    found = chunks(io.BytesIO(data), MP4, 0, len(data))
    return [(box.name, data[box.start : box.start + box.size]) for box in found]


def _joined(boxes: list[tuple[bytes, bytes]], name: bytes) -> bytes:
    return next((content for found, content in boxes if found == name), b"")
