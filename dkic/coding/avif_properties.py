"""Properties of an AVIF file's images that Pillow does not show: bits a channel, and the color description (CICP).

Source: ISO/IEC 23008-12 (HEIF) 6.5.5 and 6.5.6, ISO/IEC 14496-12 12.1.5, AV1 Codec ISO Media File Format Binding 2.3.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dkic.coding.cicp import Cicp
from dkic.coding.iso_boxes import boxes


@dataclass(frozen=True)
class AvifProperties:
    """bits: the most of any channel of any image in the file. cicp: the first color description given by numbers, or None."""

    bits: int = 8
    cicp: Cicp | None = None


def avif_properties(data: bytes) -> AvifProperties:
    """The properties of an AVIF file; defaults for those that a damaged file lacks."""
    bits, cicp = 8, None
    for kind, payload in boxes(data, (b"meta", b"iprp", b"ipco")):
        if kind == b"pixi" and len(payload) > 5:  # version and flags, number of channels, bits of each
            bits = max(bits, *payload[5:])
        elif kind == b"av1C" and len(payload) >= 3 and payload[2] & 0x40:  # high_bitdepth, and then twelve_bit
            bits = max(bits, 12 if payload[2] & 0x20 else 10)
        elif kind == b"colr" and payload[:4] == b"nclx" and len(payload) >= 11 and cicp is None:
            cicp = Cicp(*struct.unpack_from(">HH", payload, 4))  # Pillow converts matrix and range
    return AvifProperties(bits, cicp)
