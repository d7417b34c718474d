"""Properties in the header of a JPEG XL file that pillow-jxl-plugin does not show: bits a channel, and animation.

Source: ISO/IEC 18181-1:2022, B.2 (numbers), D.2 (SizeHeader) and D.3 (ImageMetadata); 18181-2, 9 (the container).
"""

from __future__ import annotations

from dataclasses import dataclass

from dkic.coding.iso_boxes import boxes

_SIGNATURE = b"\xff\x0a"
_LENGTH = 64  # bytes of a codestream that are read here


@dataclass(frozen=True)
class JxlHeader:
    """bits: of a color channel. is_float: samples are floating-point numbers. is_animation: there are frames to play."""

    bits: int = 8
    is_float: bool = False
    is_animation: bool = False


def jxl_header(data: bytes) -> JxlHeader:
    """The header of a JPEG XL file; defaults if it is cut off, since a decoder refuses such a file."""
    read = _Bits(_codestream(data)[len(_SIGNATURE) :])
    _skip_size(read)
    if read.flag():  # all_default
        return JxlHeader()
    if read.flag():  # extra_fields
        read.bits(3)  # orientation
        if read.flag():  # intrinsic size
            _skip_size(read)
        if read.flag():
            _skip_preview(read)
        if read.flag():
            return JxlHeader(is_animation=True)
    if read.flag():
        return JxlHeader(read.choice((32, 0), (16, 0), (24, 0), (1, 6)), is_float=True)
    return JxlHeader(read.choice((8, 0), (10, 0), (12, 0), (1, 6)))


def _codestream(data: bytes) -> bytes:
    """The beginning of the codestream."""
    if data.startswith(_SIGNATURE):
        return data[:_LENGTH]
    for kind, payload in boxes(data):
        if kind == b"jxlc":
            return payload[:_LENGTH]
        if kind == b"jxlp":
            return payload[4 : 4 + _LENGTH]
    return b""


def _skip_size(read: _Bits) -> None:
    small = read.flag()
    for side in ("height", "width"):
        if side == "width" and read.bits(3):  # given by the ratio
            return
        if small:
            read.bits(5)
        else:
            read.choice((1, 9), (1, 13), (1, 18), (1, 30))


def _skip_preview(read: _Bits) -> None:
    in_eighths = read.flag()
    for side in ("height", "width"):
        if side == "width" and read.bits(3):
            return
        if in_eighths:
            read.choice((16, 0), (32, 0), (1, 5), (33, 9))
        else:
            read.choice((1, 6), (65, 8), (321, 10), (1345, 12))


class _Bits:
    """Bits of a codestream, least significant first; zeros behind its end."""

    def __init__(self, data: bytes) -> None:
        self._rest = int.from_bytes(data, "little")

    def bits(self, count: int) -> int:
        value = self._rest & ((1 << count) - 1)
        self._rest >>= count
        return value

    def flag(self) -> bool:
        return bool(self.bits(1))

    def choice(self, *offsets_and_bits: tuple[int, int]) -> int:
        """U32: two bits choose an offset and the number of bits to add to it."""
        offset, count = offsets_and_bits[self.bits(2)]
        return offset + self.bits(count)
