"""Properties of an AVIF file's images that Pillow does not show: bits a channel, and the color description (CICP).

Source: ISO/IEC 23008-12 (HEIF) 6.5.5 and 6.5.6, ISO/IEC 14496-12 8.11 and 12.1.5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from dkic.coding.cicp import Cicp


@dataclass(frozen=True)
class AvifProperties:
    """bits: the most of any channel of any image in the file. cicp: the first color description given by numbers, or None."""

    bits: int = 8
    cicp: Cicp | None = None


def avif_properties(data: bytes) -> AvifProperties:
    """The properties in the bytes of an AVIF file; what a damaged file lacks has its default."""
    bits, cicp = 8, None
    for kind, payload in _boxes(data, (b"meta", b"iprp", b"ipco")):
        if kind == b"pixi" and len(payload) > 5:  # version and flags, number of channels, bits of each
            bits = max(bits, *payload[5:])
        elif kind == b"colr" and payload[:4] == b"nclx" and len(payload) >= 11 and cicp is None:
            cicp = Cicp(*struct.unpack_from(">HH", payload, 4))  # Pillow converts matrix and range
    return AvifProperties(bits, cicp)


def _boxes(data: bytes, path: tuple[bytes, ...]) -> Iterator[tuple[bytes, bytes]]:
    """Type and payload of the boxes in the box at `path`."""
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
            yield from _boxes(payload[4:] if kind == b"meta" else payload, path[1:])
        start = end
