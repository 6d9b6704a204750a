"""A heat map as a small PNG: one byte a cell, colours by palette, transparent at zero."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from steerlens.views.scale import Floats
from steerlens.views.theme import BLUE, VERMILION

LEVELS = 48
"""Strengths a colour may have."""
_MISSING = 2 * LEVELS + 1


def heat_map(values: Floats, top: float) -> str:
    """Return a matrix as a PNG data URI, a pixel a cell; blue above zero, vermilion below.

    >>> heat_map(np.eye(2), 1.0)[:22]
    'data:image/png;base64,'
    """
    levels = np.ceil(np.clip(np.abs(np.nan_to_num(values)) / top, 0, 1) * LEVELS)
    index = np.where(np.nan_to_num(values) < 0, levels + LEVELS * (levels > 0), levels)
    index = np.where(np.isfinite(values), index, _MISSING).astype(np.uint8)
    height, width = index.shape
    rows = b"".join(b"\0" + row.tobytes() for row in index)
    blue, vermilion = bytes.fromhex(BLUE[1:]), bytes.fromhex(VERMILION[1:])
    strengths = bytes(round(255 * level / LEVELS) for level in range(1, LEVELS + 1))
    png = (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + _chunk(b"PLTE", blue * (LEVELS + 1) + vermilion * LEVELS + b"\x88\x88\x88")
        + _chunk(b"tRNS", b"\0" + strengths + strengths + b"\x50")
        + _chunk(b"IDAT", zlib.compress(rows, 9))
        + _chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
