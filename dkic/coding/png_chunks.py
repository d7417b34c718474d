"""PNG chunks: their checksums, which Pillow does not compare for image data, and the color description that it does not show.

Source: Portable Network Graphics (PNG) Specification, Third Edition, sections 5.3 to 5.6, 11.3.2 and 13.2.
"""

from __future__ import annotations

import struct
import zlib

from dkic.coding.cicp import Cicp
from dkic.errors import DkicError

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Ancillary by name, but without it the pixels are others.
_NEEDED = (b"tRNS",)
# Dropped with a note if they are damaged; dkic uses no other ancillary chunks.
_USED = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"eXIf")


class PngChunks:
    """The chunks of a PNG file.

    Args:
        data: the file's bytes, which begin with SIGNATURE.
        name: the file's, for messages.

    Attributes:
        data: the same file without ancillary chunks whose CRC is wrong.
        cicp: the color description in its cICP chunk, which Pillow does not show; None if there is none.
        notes: a sentence for each chunk that dkic would have used and that was dropped.

    Raises:
        DkicError: a chunk that the pixels depend on has a wrong CRC or is cut off.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.cicp: Cicp | None = None
        self.notes: list[str] = []
        view, start, kind = memoryview(data), len(SIGNATURE), b""
        kept, damaged = [view[:start]], dict[bytes, None]()
        while kind != b"IEND" and start + 8 <= len(data):
            length, kind = struct.unpack_from(">I4s", data, start)
            end = start + 12 + length
            if not kind.isalpha():
                raise DkicError(f"{name}: the PNG file is damaged at byte {start}; get an undamaged file")
            chunk = kind.decode()
            if len(data) < end and _is_critical(kind):
                raise DkicError(f"{name}: the PNG file is cut off in its {chunk} chunk; get the whole file")
            if len(data) >= end and zlib.crc32(view[start + 4 : end - 4]) == struct.unpack_from(">I", data, end - 4)[0]:
                if kind == b"cICP" and length == 4:
                    primaries, transfer, matrix, full_range = view[start + 8 : end - 4]
                    self.cicp = Cicp(primaries, transfer, matrix, bool(full_range))
            elif _is_critical(kind):
                raise DkicError(f"{name}: its {chunk} chunk is damaged (wrong CRC); get an undamaged file")
            else:
                damaged[kind] = None
                start = end
                continue
            kept.append(view[start:end])
            start = end
        self.data = b"".join([*kept, view[start:]]) if damaged else data
        self.notes += [f"its {kind.decode()} chunk is damaged (wrong CRC) and was dropped" for kind in damaged if kind in _USED]


def _is_critical(kind: bytes) -> bool:
    return not kind[0] & 0x20 or kind in _NEEDED
