"""Colour profiles (ICC) of pictures that name their primary colours by a number of ITU-T H.273 only."""

import struct

import numpy as np

_PRIMARIES = {  # (x, y) of red, green and blue; white is D65
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
}
_CURVES = {4: (2.2, 1, 0, 1, 0), 5: (2.8, 1, 0, 1, 0), 8: (1, 1, 0, 1, 0)}  # exponent and so on; others are as sRGB
_SRGB = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273
_D65, _D50 = np.array([0.3127 / 0.3290, 1, 0.3583 / 0.3290]), np.array([0.9642, 1, 0.8249])
_CONES = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])  # Bradford's


def profile_of_primaries(primaries: int, transfer: int) -> bytes | None:
    """Make the profile of wide colours; None for those that are shown as sRGB, and for HDR."""
    if primaries not in _PRIMARIES or transfer in HDR:
        return None
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in _PRIMARIES[primaries]]).T
    adapted = np.linalg.inv(_CONES) @ np.diag(_CONES @ _D50 / (_CONES @ _D65)) @ _CONES
    red, green, blue = (adapted @ columns * np.linalg.solve(columns, _D65)).T
    curve = b"para" + struct.pack(">IHH", 0, 3, 0) + _fixed(_CURVES.get(transfer, _SRGB))
    tags = {b"wtpt": _xyz(_D50), b"rXYZ": _xyz(red), b"gXYZ": _xyz(green), b"bXYZ": _xyz(blue)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(content))
        body += content
    head = struct.pack(">I4sI", 128 + len(table) + len(body), b"none", 0x04200000) + b"mntrRGB XYZ " + bytes(12)
    head += b"acsp" + bytes(28) + _fixed(_D50)
    return head.ljust(128, b"\0") + table + body


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(values)


def _fixed(values: "np.ndarray | tuple[float, ...]") -> bytes:
    """Write numbers with 16 bits behind the point."""
    return b"".join(struct.pack(">i", round(float(value) * 65_536)) for value in values)
