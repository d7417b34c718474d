"""PNG files with chunks that Pillow does not write, for tests of reading."""

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, payload: bytes, crc: int | None = None) -> bytes:
    """A chunk; crc: instead of the right one."""
    right = zlib.crc32(kind + payload)
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", right if crc is None else crc)


def with_chunks(data: bytes, *chunks: bytes) -> bytes:
    """The PNG file with these chunks behind its IHDR."""
    end = len(SIGNATURE) + 25
    return data[:end] + b"".join(chunks) + data[end:]


def cicp(primaries: int, transfer: int, matrix: int = 0, full_range: int = 1) -> bytes:
    return chunk(b"cICP", bytes((primaries, transfer, matrix, full_range)))


def gama(gamma: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(gamma * 100_000)))


def chrm(*white_red_green_blue: float) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(v * 100_000) for v in white_red_green_blue)))
