"""MPEG transport streams that lack their end. They give no length, so the last packets of each stream tell it.

A picture or a piece of sound is a *unit* (PES packet, ISO/IEC 13818-1) of many transport packets. A unit of sound
gives its length; one of pictures often does not, but its last packet is filled up, and is full by chance only.
"""

from collections.abc import Iterable
from pathlib import Path

from liveavatar.media.chunks import size_of

_SYNC = b"G"  # first byte of a packet
_PACKET = 188  # bytes of a packet
_FORMS = ((188, 0), (192, 4), (204, 0))  # bytes from packet to packet, and those before the first
_LOOKED_AT = 10  # packets that tell the form
_TAIL = 4 << 20  # bytes looked at; no unit is longer
_UNIT_HEAD = 6  # bytes, which a unit's length does not count
_MEDIA = {0xBD, 0xFD, *range(0xC0, 0xF0)}  # kinds of unit: sound and pictures


def transport_cut(path: Path) -> str | None:
    """Tell how a transport stream shows that its end is missing; None when its end is there, or it is none."""
    with path.open("rb") as file:
        size = size_of(file)
        file.seek(0)
        head = file.read(_LOOKED_AT * 204)
        form = next((form for form in _FORMS if _is_form(head, *form)), None)
        if form is None:
            return None
        step, first = form
        if size % step:
            return "its last packet is incomplete"
        file.seek(max(0, size - _TAIL // step * step))
        tail = file.read()
    packets = (tail[at : at + _PACKET] for at in range(first, len(tail), step))
    return "its last picture or sound is incomplete" if any(_open_units(packets).values()) else None


def _is_form(head: bytes, step: int, first: int) -> bool:
    starts = range(first, min(len(head), _LOOKED_AT * step), step)
    return len(starts) > 2 and all(head[at : at + 1] == _SYNC for at in starts)


def _open_units(packets: Iterable[bytes]) -> dict[int, bool]:
    """Map each stream to whether its last unit lacks its end."""
    left: dict[int, int | None] = {}  # bytes of the unit that are still to come; None for an unknown number
    is_open: dict[int, bool] = {}
    for packet in packets:
        stream, control = int.from_bytes(packet[1:3]) & 0x1FFF, packet[3] >> 4 & 3
        body = packet[4:] if control == 1 else packet[5 + packet[4] :] if control == 3 else b""
        if not body or packet[:1] != _SYNC:
            continue
        if packet[1] & 0x40:  # a unit begins
            left.pop(stream, None)
            is_open.pop(stream, None)
            if body[:3] == b"\0\0\1" and body[3] in _MEDIA:
                length = int.from_bytes(body[4:6])
                left[stream] = _UNIT_HEAD + length if length else None
        if stream in left:
            rest = left[stream]
            left[stream] = rest = None if rest is None else rest - len(body)
            is_open[stream] = control == 1 if rest is None else rest > 0
    return is_open
