"""The `.dkic` file format: one coded image, the parameters to decode it, and checksums of all bytes.

The format, version 1. Integers are unsigned and little-endian. A varint is base-128, the low seven bits
first, the top bit set on every byte but the last (LEB128); it is in its shortest form and has at most five
bytes. CRC32C is the Castagnoli CRC (reflected polynomial 0x82F63B78, initial value and final xor 0xFFFFFFFF).

    header
      4 bytes   magic, the ASCII letters "DKIC"
      1 byte    version, 1
      1 byte    bits 0-3: arithmetic mode, the way in which the entropy model was evaluated;
                bit 4: the image is grayscale; bit 5: there is an ICC section; bit 6: there is a qstep; bit 7: zero
      1 byte    quality; of a variable-rate model 1 to 100
      8 bytes   model hash: which weights and tables decode this file
      varint    width in pixels   } each at least 1, their product
      varint    height in pixels  } at most 2**28 (MAX_PIXELS)
      1 byte    if bit 6 is set: the qstep of the latent, -8 to 8 except 0, two's complement; a symbol of y is a multiple of
                qstep_size(qstep), and its table index is reduced by qstep (dkic.entropy.quantization); for a
                variable-rate model it is at most 7, and the quality is reduced by qstep / 16
      4 bytes   CRC32C of all the bytes before it
    the image section, then the ICC section if bit 5 is set; each is
      varint    key = 8 * (length of the payload in bytes) + type
      4 bytes   CRC32C of the key's bytes followed by the payload
      payload   type 1, image section: see dkic.coding.latent
                type 2, ICC section: the image's ICC profile as one zlib stream (RFC 1950), which
                inflates to at most 4 MiB (MAX_ICC_BYTES); without this section its colors are sRGB
    end of file

The encoding of a header and an image payload is unique; only the profile's zlib stream may differ between zlib libraries.
Anything else is refused: another version, a set reserved bit, a varint longer than needed, a section of another type, a missing,
repeated, misplaced or short section, and trailing bytes. A salvaging reader needs only an intact header and image section. The
overhead beside the payloads is 26 to 35 bytes, at most 32 for 4096 x 4096 pixels coded in less than 32 MiB.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import IO

from dkic.errors import DkicError, FormatError

MAGIC = b"DKIC"
VERSION = 1
MODEL_HASH_BYTES = 8

# 16384 x 16384. Bounds what a decoder allocates for the size that a header claims: the image takes 0.8 GB as uint8 RGB and 3.2 GB
# as float32, and an index into H*W*3 fits an int32.
MAX_PIXELS = 2**28

# Display profiles have some KB, the largest printer profiles some MB; zlib may inflate a file 1000-fold.
MAX_ICC_BYTES = 4 * 2**20

_IMAGE, _ICC = 1, 2
_SECTION_NAMES = {_IMAGE: "image section", _ICC: "ICC section"}
_TYPE_BITS = 3
_GRAYSCALE_BIT, _ICC_BIT, _QSTEP_BIT, _RESERVED_BIT = 0x10, 0x20, 0x40, 0x80
MAX_QSTEP = 8
_MAX_VARINT_BYTES = 5
_CRC_BYTES = 4
_MAX_HEADER_BYTES = len(MAGIC) + 3 + MODEL_HASH_BYTES + 2 * _MAX_VARINT_BYTES + 1 + _CRC_BYTES


@dataclass(frozen=True)
class Header:
    """The header of a .dkic file.

    width, height: pixels; model_hash: 8 bytes; quality: 0 to 255; arithmetic: 0 to 15; grayscale: the image
    has one channel, coded as three equal ones; qstep: see `dkic.entropy.quantization.qstep_size`.
    """

    width: int
    height: int
    model_hash: bytes
    quality: int
    arithmetic: int
    grayscale: bool = False
    qstep: int = 0


@dataclass(frozen=True)
class DkicFile:
    """The contents of a .dkic file: header, image payload, and the inflated ICC profile or None.

    lost: parts that salvaging dropped, a sentence each; never written.
    """

    header: Header
    image: bytes
    icc: bytes | None = None
    lost: tuple[str, ...] = ()


def crc32c(data: bytes, crc: int = 0) -> int:
    """The CRC32C of `data`; with `crc`, of the bytes with that CRC followed by `data`."""
    # Imported at the first use: MAX_PIXELS and image reading work without the compiled library.
    from dkic._native import _rans

    return _rans.crc32c(data, crc)


def check_size(width: int, height: int, where: str = "image:", error: type[DkicError] = DkicError) -> None:
    """Raises `error`, with a message that begins with `where`, if dkic does not code images of this size."""
    if width < 1 or height < 1:
        raise error(f"{where} must have at least 1 x 1 pixels, not {width} x {height}")
    if width * height > MAX_PIXELS:
        raise error(f"{where} must have at most {MAX_PIXELS} pixels, not {width} x {height}")


def pack(file: DkicFile) -> bytes:
    """The bytes of a .dkic file. Raises DkicError if a value is out of the format's range."""
    header = _pack_header(file.header, file.icc is not None)
    sections = _pack_section(_IMAGE, file.image)
    if file.icc is not None:
        if len(file.icc) > MAX_ICC_BYTES:
            raise DkicError(
                f"icc: the profile has {len(file.icc)} bytes, and a .dkic file holds at most {MAX_ICC_BYTES}; "
                "remove it from the image or use a smaller one"
            )
        sections += _pack_section(_ICC, zlib.compress(file.icc, 9))
    return header + sections


def icc_section_bytes(icc: bytes | None) -> int:
    """Number of bytes that an ICC profile adds to a file; 0 for None."""
    return 0 if icc is None else len(_pack_section(_ICC, zlib.compress(icc, 9)))


def unpack(data: bytes, *, salvage: bool = False) -> DkicFile:
    """The contents of a .dkic file, after all checksums are verified.

    Args:
        data: bytes of the file (bytes, bytearray or memoryview).
        salvage: drop damaged parts after the image section, and list them in the result's `lost`: an ICC section that is damaged,
            missing or not announced, unknown sections, and trailing bytes.

    Raises:
        FormatError: `data` is not exactly such a file, or with `salvage` the header or the image section is damaged. One sentence
            that begins with the section ("header", "image section", "ICC section").
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise DkicError(f"data: must be the bytes of a .dkic file, not {type(data).__name__}")
    try:
        file, problems = _unpack_all(_Reader(bytes(data)))
    except FormatError as error:
        if not salvage:
            raise
        raise FormatError(f"{error}; only a file whose header and image section are intact can be salvaged") from None
    if problems and not salvage:
        raise problems[0]
    return file


def read_head(file: IO[bytes]) -> tuple[Header, bytes | None]:
    """Header and ICC profile of the .dkic file at the current position of a seekable file, without reading the image.

    The profile is None if there is none, or if its section is damaged or cut off, which `unpack` reports.

    Raises:
        FormatError: the header is damaged.
    """
    start = file.tell()
    reader = _Reader(file.read(_MAX_HEADER_BYTES + _MAX_VARINT_BYTES))
    header, has_icc = _unpack_header(reader)
    if not has_icc:
        return header, None
    payloads: dict[int, bytes] = {}
    try:
        length = reader.varint("the image section's key") >> _TYPE_BITS
        file.seek(start + reader.position + _CRC_BYTES + length)
        _unpack_sections(_Reader(file.read(2 * MAX_ICC_BYTES)), payloads)
        return header, _unpack_icc(payloads.get(_ICC), has_icc)
    except FormatError:
        return header, None


def _pack_header(header: Header, has_icc: bool) -> bytes:
    check_size(header.width, header.height)
    if len(header.model_hash) != MODEL_HASH_BYTES:
        raise DkicError(f"model_hash: must have {MODEL_HASH_BYTES} bytes, not {len(header.model_hash)}")
    if not 0 <= header.quality <= 255:
        raise DkicError(f"quality: must be from 0 to 255, not {header.quality}")
    if not 0 <= header.arithmetic <= 15:
        raise DkicError(f"arithmetic: must be from 0 to 15, not {header.arithmetic}")
    if not -MAX_QSTEP <= header.qstep <= MAX_QSTEP:
        raise DkicError(f"qstep: must be from {-MAX_QSTEP} to {MAX_QSTEP}, not {header.qstep}")
    mode = header.arithmetic | header.grayscale * _GRAYSCALE_BIT | has_icc * _ICC_BIT | (header.qstep != 0) * _QSTEP_BIT
    head = MAGIC + bytes([VERSION, mode, header.quality]) + header.model_hash
    head += _varint(header.width) + _varint(header.height)
    if header.qstep:
        head += header.qstep.to_bytes(1, "little", signed=True)
    return head + crc32c(head).to_bytes(4, "little")


def _pack_section(section_type: int, payload: bytes) -> bytes:
    key = _varint(len(payload) << _TYPE_BITS | section_type)
    return key + crc32c(payload, crc32c(key)).to_bytes(4, "little") + payload


def _varint(value: int) -> bytes:
    if value >> 7 * _MAX_VARINT_BYTES:
        raise DkicError(f"number: must be below 2^{7 * _MAX_VARINT_BYTES} in a .dkic file, not {value}")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class _Reader:
    """Bounded reads from `data`; an error names the section being read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.section = "header"

    def error(self, problem: str) -> FormatError:
        return FormatError(f"{self.section}: {problem}")

    def at_end(self) -> bool:
        return self.position == len(self.data)

    def take(self, count: int) -> bytes:
        left = len(self.data) - self.position
        if count > left:
            raise self.error(f"the file ends too early, {count} more bytes are needed and {left} are left; get the whole file")
        self.position += count
        return self.data[self.position - count : self.position]

    def varint(self, what: str) -> int:
        value = 0
        for place in range(_MAX_VARINT_BYTES):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                if byte == 0 and place > 0:
                    raise self.error(f"{what} is written in more bytes than it needs, so the file is damaged")
                return value
        raise self.error(f"{what} is written in more than {_MAX_VARINT_BYTES} bytes, so the file is damaged")

    def stored_crc(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def check_crc(self, stored: int, computed: int) -> None:
        if stored != computed:
            raise self.error(f"its CRC32C is {computed:08x}, not {stored:08x}; get an undamaged file")


def _unpack_header(reader: _Reader) -> tuple[Header, bool]:
    """The header, and whether it announces an ICC section."""
    if reader.at_end():
        raise reader.error("the file is empty, so it is not a .dkic file")
    magic = reader.data[: len(MAGIC)]
    if not MAGIC.startswith(magic):
        raise reader.error(f"the file begins with {magic!r}, not with {MAGIC!r}, so it is not a .dkic file")
    reader.take(len(MAGIC))
    # Before the CRC, whose place in another version is unknown.
    version = reader.take(1)[0]
    if version > VERSION:
        raise reader.error(f"the file has version {version} and needs a newer dkic, this one reads {VERSION}")
    if version < VERSION:
        raise reader.error(f"the file has version {version}, which does not exist, so the file is damaged")
    mode, quality = reader.take(2)
    model_hash = reader.take(MODEL_HASH_BYTES)
    width = reader.varint("the width")
    height = reader.varint("the height")
    qstep = int.from_bytes(reader.take(1), "little", signed=True) if mode & _QSTEP_BIT else 0
    computed = crc32c(reader.data[: reader.position])
    reader.check_crc(reader.stored_crc(), computed)
    if mode & _RESERVED_BIT:
        raise reader.error(f"bit 7 of byte 5 must be zero, but the byte is {mode:#04x}")
    if mode & _QSTEP_BIT and not (qstep and -MAX_QSTEP <= qstep <= MAX_QSTEP):
        raise reader.error(f"the qstep must be from {-MAX_QSTEP} to {MAX_QSTEP} and not 0, but it is {qstep}")
    check_size(width, height, "header: the image", FormatError)
    header = Header(width, height, model_hash, quality, mode & 0x0F, bool(mode & _GRAYSCALE_BIT), qstep)
    return header, bool(mode & _ICC_BIT)


def _unpack_all(reader: _Reader) -> tuple[DkicFile, list[FormatError]]:
    """The file, and its errors after the image section. Raises FormatError for errors before it."""
    header, has_icc = _unpack_header(reader)
    payloads: dict[int, bytes] = {}
    problems: list[FormatError] = []
    try:
        _unpack_sections(reader, payloads)
    except FormatError as error:
        problems.append(error)
    if _IMAGE not in payloads:
        raise problems[0] if problems else FormatError("image section: it is missing, and a .dkic file must hold one")
    icc = None
    # If the profile's section could not be read, it is not reported as missing too.
    if _ICC in payloads or not (problems and reader.section == _SECTION_NAMES[_ICC]):
        try:
            icc = _unpack_icc(payloads.get(_ICC), has_icc)
        except FormatError as error:
            problems.append(error)
    lost = tuple(f"{error}; {_what_is_lost(error, icc)}" for error in problems)
    return DkicFile(header, payloads[_IMAGE], icc, lost), problems


def _what_is_lost(error: FormatError, icc: bytes | None) -> str:
    if icc is None and str(error).startswith(_SECTION_NAMES[_ICC]):
        return "the image is left without an ICC profile"
    return "the file is not read further"


def _unpack_sections(reader: _Reader, payloads: dict[int, bytes]) -> None:
    """Adds the payload of every section, by type, up to the first damage."""
    while not reader.at_end():
        reader.section = f"after the {reader.section}"
        start = reader.position
        key = reader.varint("a section's key")
        key_crc = crc32c(reader.data[start : reader.position])
        length, section_type = key >> _TYPE_BITS, key & (1 << _TYPE_BITS) - 1
        if section_type not in _SECTION_NAMES:
            raise reader.error(f"there is a section of unknown type {section_type}, or there are stray bytes")
        reader.section = _SECTION_NAMES[section_type]
        if section_type in payloads:
            raise reader.error("there is a second one, and a .dkic file holds one at most")
        if payloads and section_type < max(payloads):
            raise reader.error("it comes too late, sections must stand in the order of their types")
        stored = reader.stored_crc()
        payload = reader.take(length)
        reader.check_crc(stored, crc32c(payload, key_crc))
        payloads[section_type] = payload


def _unpack_icc(payload: bytes | None, announced: bool) -> bytes | None:
    # The header announces the profile; otherwise a file cut off before it would be valid.
    if payload is None:
        if announced:
            raise FormatError("ICC section: it is missing, but the header announces one")
        return None
    if not announced:
        raise FormatError("ICC section: there is one, but the header announces none")
    inflater = zlib.decompressobj()
    try:
        icc = inflater.decompress(payload, MAX_ICC_BYTES + 1)
    except zlib.error as error:
        raise FormatError(f"ICC section: it is not a zlib stream ({error})") from error
    if len(icc) > MAX_ICC_BYTES:
        raise FormatError(f"ICC section: the profile inflates to more than the {MAX_ICC_BYTES} bytes allowed")
    if not inflater.eof:
        raise FormatError("ICC section: its zlib stream is not complete")
    if inflater.unused_data:
        raise FormatError(f"ICC section: {len(inflater.unused_data)} bytes follow its zlib stream")
    return icc
