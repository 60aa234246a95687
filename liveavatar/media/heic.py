"""HEIC, the pictures of phones: HEVC in a HEIF file, decoded by PyAV.

What a viewer shows is read: the primary picture at its full size, its tiles put together, cropped, turned and mirrored
as its properties say (EXIF data does not count), with its transparency. FFmpeg's own reader of the container drops
colour profiles, transparency and crops.
"""

from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from liveavatar.media.colour_profile import profile_of_primaries
from liveavatar.media.heif import Heif, Item, UnsupportedHeif

CODED = b"hvc1"  # kind of an item
GRID = b"grid"
AV1 = b"av01"
MAX_BORDER = 64  # pixels that a coded picture may have beyond its size, on each side
_ALPHA = (b"urn:mpeg:hevc:2015:auxid:1", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha")
_UNSAID, _GBR = 2, 0  # values of a matrix in ITU-T H.273
_BT601, _BT709, _BT2020 = 5, 1, 9  # libswscale's names of its matrices
_MATRICES = {1: _BT709, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: _BT2020, 10: _BT2020}  # by the value in H.273
_FULL, _LIMITED = 2, 1  # FFmpeg's names of the ranges of numbers
_QUARTERS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
_MIRRORS = (Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.FLIP_LEFT_RIGHT)


class Heic:
    """A HEIC file whose primary picture has been found, not decoded."""

    def __init__(self, file: BinaryIO) -> None:
        """Read the list of contents.

        Raises:
            ValueError: it is damaged or cut off.
            UnsupportedHeif: its picture is of a kind that is not read.
        """
        self._heif = Heif(file)
        self._main = self._heif.item(self._heif.primary)
        self.kind = self._kind(self._main)  # of its coded picture or tiles
        self.size = _stored_size(self._main)  # pixels (width, height), before crops and turns

    def decode(self) -> Image.Image:
        """Decode the picture: RGB, RGBA, RGBa or L of 8 bits, its colour profile in `info`.

        Raises:
            ValueError: it is damaged or cut off.
            UnsupportedHeif: its picture is of a kind that is not read.
        """
        if self.kind != CODED:
            raise UnsupportedHeif(f"its picture is coded as {self.kind.decode('latin-1')!r}")
        colours = _Colours(self._main, *self._tiles(self._main)[:1])
        frame = self._stitched(self._main, colours)
        picture = _grey(frame, colours) if frame.format.name.startswith("gray") else _rgb(frame, colours)
        profile = colours.icc or profile_of_primaries(colours.primaries, colours.transfer)
        del frame
        if picture.mode == "L" and profile and profile[16:20] == b"RGB ":
            picture = picture.convert("RGB")
        if alpha := self._alpha(picture.size):
            premultiplied = self._main.references.get(b"prem")
            picture = picture.convert("RGB")
            picture.putalpha(alpha)
            if premultiplied:
                picture = Image.frombuffer("RGBa", picture.size, picture.tobytes(), "raw", "RGBa", 0, 1)
        picture = _transformed(picture, self._main)
        picture.info = {"icc_profile": profile} if profile else {}
        return picture

    def _tiles(self, item: Item) -> list[Item]:
        if item.kind != GRID:
            return [item]
        return [self._heif.item(number) for number in item.references.get(b"dimg", [])]

    def _kind(self, item: Item) -> bytes:
        return next((tile.kind for tile in self._tiles(item)), item.kind)

    def _alpha(self, size: tuple[int, int]) -> Image.Image | None:
        for item in self._heif.items.values():
            name = (item.property(b"auxC") or b"")[4:].partition(b"\0")[0]
            if name not in _ALPHA or self._heif.primary not in item.references.get(b"auxl", []):
                continue
            if self._kind(item) != CODED or _area(_stored_size(item)) > _area(size):
                raise ValueError("its transparency is damaged")
            colours = _Colours(item)
            colours.full = True if item.property(b"colr") is None else colours.full
            alpha = _grey(self._stitched(item, colours), colours)
            return alpha if alpha.size == size else alpha.resize(size)
        return None

    def _stitched(self, item: Item, colours: "_Colours") -> Any:
        """Decode an item's tiles, or itself, into one `av.VideoFrame` of its size."""
        import av

        width, height = _stored_size(item)
        columns, rows = _grid(self._heif.content(item), (width, height)) if item.kind == GRID else (1, 1)
        tiles = self._tiles(item)
        if len(tiles) != columns * rows:
            raise ValueError("tiles are missing")
        across, down = _stored_size(tiles[0])
        if columns * across < width or len(tiles) // columns * down < height:
            raise ValueError("tiles are missing")
        decoder = _Decoder()
        canvas: Any = None
        for index, tile in enumerate(tiles):
            left, top = index % columns * across, index // columns * down
            if _stored_size(tile) != (across, down) or tile.kind != CODED:
                raise ValueError("a tile is damaged")
            if left >= width or top >= height:
                continue
            frame = decoder.decode(tile.property(b"hvcC") or b"", self._heif.content(tile), (across, down))
            if canvas is None:
                shape = frame.format.name
                colours.complete(frame)
                canvas = av.VideoFrame(width, height, colours.format(shape))
            if frame.format.name != shape:
                raise ValueError("a tile is damaged")
            _paste(frame, canvas, left, top, (across, down))
        return canvas


class _Colours:
    """Meaning of the numbers of an item: by its properties, then by its coded picture, then by those of a tile.

    Cameras of Sony name another range in the properties of tiles than in the coded picture, which is right.
    """

    def __init__(self, item: Item, tile: Item | None = None) -> None:
        self.icc: bytes | None = None
        self.primaries = self.transfer = self.matrix = _UNSAID
        self.full: bool | None = None
        self._tile = None if tile is None or tile is item else _Colours(tile)
        if self._tile is not None:
            self.icc = self._tile.icc
        for found in item.properties:
            if found.name != b"colr":
                continue
            kind, content = found.content[:4], found.content[4:]
            if kind == b"nclx" and len(content) >= 7:
                self.primaries, self.transfer, self.matrix = np.frombuffer(content[:6], ">u2").tolist()
                self.full = content[6] >= 128
            elif kind in (b"prof", b"rICC"):
                self.icc = content

    def complete(self, frame: Any) -> None:
        """Take from a decoded `av.VideoFrame` what no property said."""
        if self.full is None:
            said = frame.color_range in (_FULL, _LIMITED)
            self.full = frame.color_range == _FULL if said else frame.format.name.startswith("yuvj")
            self.primaries, self.transfer = frame.color_primaries, frame.color_trc
        if self.matrix == _UNSAID:
            self.matrix = frame.colorspace
        if self._tile is not None:
            self.matrix = self._tile.matrix if self.matrix == _UNSAID else self.matrix
            if self.primaries == _UNSAID:
                self.primaries, self.transfer = self._tile.primaries, self._tile.transfer

    def format(self, coded: str) -> str:
        """Name the pixel format of numbers that are decoded as `coded`, by what they mean."""
        plain = coded.replace("yuvj", "yuv").replace("gbrp", "yuv444p")
        return plain.replace("yuv444p", "gbrp") if self.matrix == _GBR else plain


class _Decoder:
    """A decoder of HEVC; one for all tiles that share their settings."""

    def __init__(self) -> None:
        self._settings: bytes | None = None
        self._context: Any = None

    def decode(self, settings: bytes, data: bytes, size: tuple[int, int]) -> Any:
        """Decode one picture to an `av.VideoFrame` of at least `size`."""
        import av

        try:
            if settings != self._settings:
                self._context = av.CodecContext.create("hevc", "r")
                self._context.extradata = settings
                self._context.thread_count = 1
                largest = (size[0] + MAX_BORDER) * (size[1] + MAX_BORDER)
                self._context.options = {"err_detect": "explode", "max_pixels": str(largest)}
                self._settings = settings
            else:
                self._context.flush_buffers()
            frames = [*self._context.decode(av.Packet(data)), *self._context.decode(None)]
        except av.error.FFmpegError as e:
            raise ValueError(f"its coded picture: {e.strerror}") from e
        if not frames or frames[0].is_corrupt or frames[0].width < size[0] or frames[0].height < size[1]:
            raise ValueError("its coded picture")
        return frames[0]


def _stored_size(item: Item) -> tuple[int, int]:
    size = item.property(b"ispe") or b""
    if len(size) < 12:
        raise ValueError("it does not say its size")
    width, height = int.from_bytes(size[4:8]), int.from_bytes(size[8:12])
    if not width or not height:
        raise ValueError("it says that it has no pixels")
    return width, height


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _grid(content: bytes, size: tuple[int, int]) -> tuple[int, int]:
    """Read (columns, rows) of a picture made of tiles."""
    wide = 4 if len(content) > 1 and content[1] & 1 else 2
    if len(content) < 4 + 2 * wide:
        raise ValueError("its list of tiles breaks off")
    width, height = int.from_bytes(content[4 : 4 + wide]), int.from_bytes(content[4 + wide : 4 + 2 * wide])
    if (width, height) != size:
        raise ValueError("its size is given twice, differently")
    return content[3] + 1, content[2] + 1


def _plane(plane: Any, bits: int) -> np.ndarray:
    """View the numbers of a plane of an `av.VideoFrame`: [height, width]."""
    values = np.frombuffer(plane, np.uint8 if bits <= 8 else np.uint16)
    line = plane.line_size // values.itemsize
    return values[: line * plane.height].reshape(plane.height, line)[:, : plane.width]


def _bits(frame: Any) -> int:
    return int(frame.format.components[0].bits)


def _paste(tile: Any, canvas: Any, left: int, top: int, size: tuple[int, int]) -> None:
    """Copy the pixels of a tile of `size` to their place; what is over the edge is left out."""
    bits = _bits(canvas)
    for source, target in zip(tile.planes, canvas.planes, strict=True):
        pixels, whole = _plane(source, bits), _plane(target, bits)
        across, down = (-(-tile.width // source.width), -(-tile.height // source.height))  # pixels of the tile per one
        x, y = left // across, top // down
        part = pixels[: min(-(-size[1] // down), whole.shape[0] - y), : min(-(-size[0] // across), whole.shape[1] - x)]
        whole[y : y + part.shape[0], x : x + part.shape[1]] = part


def _rgb(frame: Any, colours: _Colours) -> Image.Image:
    from av.video.reformatter import Interpolation

    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=_MATRICES.get(colours.matrix, _BT601),
        src_color_range=_FULL if colours.full or colours.matrix == _GBR else _LIMITED,
        dst_color_range=_FULL,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
        | Interpolation.BITEXACT,
    )  # fmt: skip
    plane = rgb.planes[0]
    pixels = np.frombuffer(plane, np.uint8)[: plane.line_size * rgb.height].reshape(rgb.height, plane.line_size)
    return Image.fromarray(pixels[:, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3))


def _grey(frame: Any, colours: _Colours) -> Image.Image:
    """Convert the brightness of a frame to 8 bits of full range."""
    bits = _bits(frame)
    low, high = (0, 2**bits - 1) if colours.full else (16 << bits - 8, 235 << bits - 8)
    table = np.clip(np.rint((np.arange(2**bits) - low) * (255 / (high - low))), 0, 255).astype(np.uint8)
    return Image.fromarray(table[np.minimum(_plane(frame.planes[0], bits), 2**bits - 1)])


def _transformed(picture: Image.Image, item: Item) -> Image.Image:
    """Crop, turn and mirror a picture as its properties say, in their order."""
    for found in item.properties:
        value = found.content[0] if found.content else 0
        if found.name == b"irot" and value & 3:
            picture = picture.transpose(_QUARTERS[(value & 3) - 1])  # anticlockwise
        elif found.name == b"imir":
            picture = picture.transpose(_MIRRORS[value & 1])
        elif found.name == b"clap":
            picture = picture.crop(_aperture(found.content, picture.size))
    return picture


def _aperture(content: bytes, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Read the part of a picture that is shown: left, top, right, bottom."""
    if len(content) < 32:
        raise ValueError("its crop breaks off")
    numbers = np.frombuffer(content[:32], ">i4").tolist()
    if any(below <= 0 for below in numbers[1::2]):
        raise ValueError("its crop is damaged")
    wide, high, right, down = (above / below for above, below in zip(numbers[::2], numbers[1::2], strict=True))
    left, top = round((size[0] - wide) / 2 + right), round((size[1] - high) / 2 + down)
    box = (max(0, left), max(0, top), min(size[0], left + round(wide)), min(size[1], top + round(high)))
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError("its crop is damaged")
    return box
