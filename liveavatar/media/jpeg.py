"""Damage inside a JPEG. Decoders make up what is missing, and libjpeg's warnings of it do not come out of Pillow."""

import mmap
import re
from typing import BinaryIO

# Warnings of libjpeg that name damage. A missing end mark is none: Pillow refuses a file that lacks more than that.
_DAMAGE = re.compile(r"Corrupt JPEG data: (.+)")
_SURPLUS = re.compile(r"(\d+) extraneous bytes before marker")
_PADDING = 16  # bytes behind the data that some cameras leave


def jpeg_damage(file: BinaryIO) -> tuple[str, bool] | None:
    """Decode an open JPEG coarsely; None when it is whole, or of a kind that cannot be told.

    Returns:
        What is damaged, in libjpeg's words; and whether pixels are missing. Where none are, bytes are left over: parts
        of the picture may be shifted, or its writer was careless.
    """
    import simplejpeg

    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            simplejpeg.decode_jpeg(data, "GRAY", fastdct=True, fastupsample=True, min_height=1, min_width=1)
        except ValueError as e:
            found, surplus = _DAMAGE.search(str(e)), _SURPLUS.search(str(e))
            if found and not (surplus and int(surplus[1]) <= _PADDING):
                return found[1], surplus is None
    return None
