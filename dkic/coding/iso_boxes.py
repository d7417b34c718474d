"""Boxes of files in the ISO base media file format, as AVIF and JPEG XL are (ISO/IEC 14496-12, 4.2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_FULL_BOXES = (b"meta",)  # begin with four bytes of version and flags


def boxes(data: bytes, path: tuple[bytes, ...] = ()) -> Iterator[tuple[bytes, bytes]]:
    """Type and payload of the boxes in the box at `path`; () is the file. Ends where a box is damaged."""
    start = 0
    while start + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1 and start + 16 <= len(data):
            (size,), head = struct.unpack_from(">Q", data, start + 8), 16
        end = len(data) if size == 0 else start + size
        if end < start + head or end > len(data):
            return
        payload = data[start + head : end]
        if not path:
            yield kind, payload
        elif kind == path[0]:
            yield from boxes(payload[4:] if kind in _FULL_BOXES else payload, path[1:])
        start = end
