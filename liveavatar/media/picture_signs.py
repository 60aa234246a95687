"""Signs in the bytes of a picture file that its decoder passes over: its kind, damage, and colours of HDR.

Decoders of WebP, AVIF, HEIC and JPEG 2000 draw something whatever the bytes are. Where a download or a disk has left
zeros in place of a part, that is seen: coded pictures have no long runs of them.
"""

import re
from typing import BinaryIO

from liveavatar.media.chunks import MP4, RIFF, chunks, size_of
from liveavatar.media.colour_profile import HDR
from liveavatar.media.heif import Heif

_KINDS = {  # pattern of the first bytes
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff[^\xf7]",  # JPEG-LS is another format
    "GIF": rb"GIF8[79]a",
    "WebP": rb"RIFF.{4}WEBP",
    "AVIF": rb".{4}ftypavi[fs]",
    "HEIC": rb".{4}ftyp(?:he[iv][cmsx]|m[is]f1)",
    "TIFF": rb"(?:II[*+]\0|MM\0[*+])",
    "JPEG 2000": rb"(?:\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51)",
}
_HEAD = 12  # bytes that tell the kind
_CODED = {b"VP8 ", b"VP8L", b"ALPH", b"ANMF", b"mdat"}  # chunks of WebP and AVIF that hold a picture
_CODED_ITEMS = (b"hvc1", b"av01")  # of HEIC
_ZEROS = re.compile(rb"\0{1024,}")
_FRONT = 1 << 20  # bytes before the picture itself in which its colours are named


def kind_of(file: BinaryIO) -> str | None:
    """Tell what kind of picture a file claims to be; None when it is none that is read."""
    file.seek(0)
    head = file.read(_HEAD)
    return next((kind for kind, first in _KINDS.items() if re.match(first, head, re.DOTALL)), None)


def lacks_directory(file: BinaryIO) -> bool:
    """Tell whether a TIFF points to a list of its contents that is behind its end: it was cut off."""
    file.seek(0)
    head = file.read(16)
    order = "little" if head[:2] == b"II" else "big"
    place = head[8:16] if 43 in head[2:4] else head[4:8]  # the large form has 64 bits
    return int.from_bytes(place, order) + 2 > size_of(file)  # type: ignore[arg-type]


def zeroed(file: BinaryIO) -> str | None:
    """Say where zeros stand in place of a coded picture; None where there are none."""
    kind = kind_of(file)
    size = size_of(file)
    if kind == "JPEG 2000":
        spans = [(0, size)]
    elif kind == "HEIC":  # beside its pictures are data of cameras, with padding
        spans = [span for item in Heif(file).items.values() if item.kind in _CODED_ITEMS for span in item.extents]
        spans = [(start, min(start + length, size)) for start, length in spans]
    elif kind in ("WebP", "AVIF"):
        layout = RIFF if kind == "WebP" else MP4
        found = chunks(file, layout, layout.first, size)
        spans = [(c.start, min(c.start + c.size, size)) for c in found if c.name in _CODED]
    else:
        return None
    for start, end in spans:
        file.seek(start)
        if run := _ZEROS.search(file.read(end - start)):
            return f"{len(run[0])} zero bytes in a row at byte {start + run.start()}"
    return None


def hdr_of(file: BinaryIO) -> str | None:
    """Name the HDR curve of a picture's colours, PQ or HLG; None for ordinary ones, and where it is not said."""
    kind = kind_of(file)
    file.seek(0)
    front = file.read(_FRONT)
    if kind == "PNG":
        at = front.partition(b"IDAT")[0].find(b"cICP")
        return HDR.get(front[at + 5]) if 0 <= at < len(front) - 5 else None
    if kind in ("AVIF", "HEIC"):
        curves = (int.from_bytes(found[1]) for found in re.finditer(rb"colrnclx..(..)", front, re.DOTALL))
        return next((HDR[curve] for curve in curves if curve in HDR), None)
    return None
