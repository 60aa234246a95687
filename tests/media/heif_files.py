"""Build HEIC files: pictures coded by FFmpeg's libx265, in boxes of our own."""

import struct
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np

HEVC, GRID = b"hvc1", b"grid"
BT601, FULL, LIMITED = 5, 2, 1
_HEADS = (32, 33, 34)  # kinds of units of HEVC that hold settings
_VUI = {FULL: "range=full", LIMITED: "range=limited"}


@dataclass(kw_only=True)
class Entry:
    """One item of a file."""

    data: bytes = b""
    kind: bytes = HEVC
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    references: dict[bytes, list[int]] = field(default_factory=dict)
    encrypted: bool = False


def size(width: int, height: int) -> tuple[bytes, bytes]:
    """The property that says a size."""
    return b"ispe", struct.pack(">III", 0, width, height)


def nclx(primaries: int, transfer: int, matrix: int, full: bool) -> tuple[bytes, bytes]:
    """The property that names colours by numbers."""
    return b"colr", b"nclx" + struct.pack(">HHHB", primaries, transfer, matrix, full << 7)


def crop(width: int, height: int, right: int = 0, down: int = 0) -> tuple[bytes, bytes]:
    """The property that names the part shown, moved from the middle by halves of pixels."""
    return b"clap", struct.pack(">8i", width, 1, height, 1, right, 2, down, 2)


def coded(rgb: np.ndarray, form: str = "yuv420p", colour_range: int = FULL) -> Entry:
    """Code a picture [H, W, 3] as an item."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24")
    frame = frame.reformat(
        format=form, dst_colorspace=BT601, src_color_range=FULL, dst_color_range=colour_range,
        interpolation="BICUBIC",
    )  # fmt: skip
    coder = av.CodecContext.create("libx265", "w")
    coder.width, coder.height, coder.pix_fmt, coder.time_base = frame.width, frame.height, form, Fraction(1)
    matrix = "gbr" if form.startswith("gbr") else "smpte170m"
    coder.options = {"x265-params": f"log-level=none:crf=4:pools=none:{_VUI[colour_range]}:colormatrix={matrix}"}
    stream = b"".join(bytes(packet) for packet in [*coder.encode(frame), *coder.encode(None)])
    units = [unit.rstrip(b"\0") for unit in stream.split(b"\0\0\1") if unit.rstrip(b"\0")]
    heads = [unit for unit in units if unit[0] >> 1 in _HEADS]
    settings = b"\1".ljust(21, b"\0") + bytes([0xFF, len(heads)])
    settings += b"".join(struct.pack(">BHH", head[0] >> 1, 1, len(head)) + head for head in heads)
    data = b"".join(struct.pack(">I", len(unit)) + unit for unit in units if unit not in heads)
    return Entry(data=data, properties=[(b"hvcC", settings), size(frame.width, frame.height)])


def tiled(rgb: np.ndarray, side: int, form: str = "yuv420p") -> dict[int, Entry]:
    """Code a picture as phones do: item 1 is made of tiles, from item 11 on."""
    rows, columns = -(-rgb.shape[0] // side), -(-rgb.shape[1] // side)
    whole = np.pad(rgb, ((0, rows * side - len(rgb)), (0, columns * side - rgb.shape[1]), (0, 0)), "edge")
    tiles = [
        coded(whole[row * side : (row + 1) * side, column * side : (column + 1) * side], form)
        for row in range(rows)
        for column in range(columns)
    ]
    layout = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, rgb.shape[1], rgb.shape[0])
    numbers = list(range(11, 11 + len(tiles)))
    grid = Entry(kind=GRID, data=layout, properties=[size(rgb.shape[1], rgb.shape[0])], references={b"dimg": numbers})
    return {1: grid, **dict(zip(numbers, tiles, strict=True))}


def box(name: bytes, content: bytes) -> bytes:
    """One box."""
    return struct.pack(">I4s", 8 + len(content), name) + content


def heif(entries: dict[int, Entry], primary: int = 1, brand: bytes = b"heic") -> bytes:
    """Build a file."""
    start = box(b"ftyp", brand + bytes(4) + b"mif1heic")
    length = len(_meta(entries, primary, 0))
    return start + _meta(entries, primary, len(start) + length + 8) + box(b"mdat", b"".join(
        entry.data for entry in entries.values()
    ))  # fmt: skip


def _meta(entries: dict[int, Entry], primary: int, at: int) -> bytes:
    names, places, properties, uses, references = b"", b"", b"", b"", b""
    count = 0
    for number, entry in entries.items():
        names += box(b"infe", struct.pack(">IHH4sB", 2 << 24, number, entry.encrypted, entry.kind, 0))
        places += struct.pack(">HHHHII", number, 0, 0, 1, at, len(entry.data))
        at += len(entry.data)
        uses += struct.pack(">HB", number, len(entry.properties))
        for name, content in entry.properties:
            properties += box(name, content)
            count += 1
            uses += struct.pack(">H", count)
        for name, others in entry.references.items():
            references += box(name, struct.pack(f">HH{len(others)}H", number, len(others), *others))
    return box(b"meta", bytes(4)
        + box(b"hdlr", bytes(8) + b"pict" + bytes(13))
        + box(b"pitm", struct.pack(">IH", 0, primary))
        + box(b"iinf", struct.pack(">IH", 0, len(entries)) + names)
        + box(b"iloc", struct.pack(">IHH", 1 << 24, 0x4400, len(entries)) + places)
        + box(b"iref", bytes(4) + references)
        + box(b"iprp", box(b"ipco", properties) + box(b"ipma", struct.pack(">II", 1, len(entries)) + uses))
    )  # fmt: skip
