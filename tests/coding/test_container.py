"""The `.dkic` container: its bytes, its size, and that only intact files are read."""

import random
import tracemalloc
import zlib
from dataclasses import replace

import pytest

from dkic.coding.container import MAX_ICC_BYTES, MAX_PIXELS, DkicFile, Header, crc32c, pack, unpack
from dkic.errors import DkicError, FormatError

MODEL_HASH = bytes.fromhex("0123456789abcdef")
HEADER = Header(width=300, height=5, model_hash=MODEL_HASH, quality=4, arithmetic=2, grayscale=True)
IMAGE_ONLY = DkicFile(HEADER, b"image payload")
WITH_ICC = DkicFile(HEADER, b"image payload", b"an ICC profile")
WITH_QSTEP = DkicFile(replace(HEADER, qstep=-3), b"image payload")


# A second writer, from the format's description; it also writes invalid files, which `pack` refuses to write.


def varint(value: int, extra: int = 0) -> bytes:
    """LEB128, `extra` bytes longer than needed."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F)
    groups += [0] * extra
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def with_crc(head: bytes) -> bytes:
    return head + crc32c(head).to_bytes(4, "little")


def header(mode: int = 0, width: bytes = varint(300), height: bytes = varint(5), version: int = 1, qstep: bytes = b"") -> bytes:
    return with_crc(b"DKIC" + bytes([version, mode, 4]) + MODEL_HASH + width + height + qstep)


def section(kind: int, payload: bytes, key: bytes | None = None) -> bytes:
    key = varint(8 * len(payload) + kind) if key is None else key
    return key + crc32c(key + payload).to_bytes(4, "little") + payload


HEAD, ICC_HEADER = header(), header(mode=0x20)
IMAGE = section(1, b"image payload")
ICC = section(2, zlib.compress(b"an ICC profile"))


def test_crc32c_gives_the_published_values():
    # RFC 3720, B.4, and the check value of the CRC catalogue.
    assert crc32c(b"") == 0
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"56789", crc32c(b"1234")) == 0xE3069283


GOLDEN_HEX = "444b49430112040123456789abcdefac0205637446e71969af2ddc616263"


def test_golden_file():
    """These bytes define version 1: other bytes for the same content would need another version."""
    assert pack(DkicFile(HEADER, b"abc")).hex() == GOLDEN_HEX


def test_pack_follows_the_description():
    assert pack(IMAGE_ONLY) == header(mode=0x12) + IMAGE
    assert pack(WITH_ICC) == header(mode=0x32) + IMAGE + section(2, zlib.compress(b"an ICC profile", 9))
    for qstep, byte in ((1, b"\x01"), (8, b"\x08"), (-1, b"\xff"), (-8, b"\xf8")):
        assert pack(replace(IMAGE_ONLY, header=replace(HEADER, qstep=qstep))) == header(mode=0x52, qstep=byte) + IMAGE


@pytest.mark.parametrize("size", [(1, 1), (127, 128), (2**28, 1), (1, 2**28), (16384, 16384)])
@pytest.mark.parametrize("icc", [None, b"", bytes(3000)])
@pytest.mark.parametrize("payload", [b"", b"\0", bytes(range(256)) * 80])
def test_round_trip(size, icc, payload):
    for quality, arithmetic, grayscale, qstep in ((0, 0, False, 0), (255, 15, True, 8), (3, 2, False, -8)):
        file = DkicFile(Header(*size, MODEL_HASH, quality, arithmetic, grayscale, qstep), payload, icc)
        assert unpack(pack(file)) == file


def test_the_largest_profile_is_preserved():
    file = DkicFile(HEADER, b"abc", random.Random(0).randbytes(MAX_ICC_BYTES))
    assert unpack(pack(file)) == file


def test_bytes_like_data_is_read():
    data = pack(WITH_ICC)
    assert unpack(bytearray(data)) == unpack(memoryview(data)) == WITH_ICC
    with pytest.raises(DkicError, match="data: must be .* not str"):
        unpack("photo.dkic")


@pytest.mark.parametrize("payload_bytes", [0, 4_000, 2**18, 2**21, 2**24])
def test_fixed_overhead(payload_bytes):
    payload = bytes(payload_bytes)
    assert len(pack(DkicFile(Header(4096, 4096, MODEL_HASH, 4, 0), payload))) - payload_bytes <= 31
    assert len(pack(DkicFile(Header(16384, 16384, MODEL_HASH, 4, 0), payload))) - payload_bytes <= 34
    assert len(pack(DkicFile(Header(768, 512, MODEL_HASH, 4, 0), bytes(3700)))) - 3700 <= 30
    assert len(pack(DkicFile(Header(4096, 4096, MODEL_HASH, 4, 0, qstep=8), payload))) - payload_bytes <= 32
    assert len(pack(DkicFile(Header(16384, 16384, MODEL_HASH, 4, 0, qstep=-1), payload))) - payload_bytes <= 35


@pytest.mark.parametrize("file", [IMAGE_ONLY, WITH_ICC, WITH_QSTEP], ids=["image", "image+icc", "qstep"])
def test_every_truncation_is_refused(file):
    data = pack(file)
    for length in range(len(data)):
        with pytest.raises(FormatError, match=r"header|image section|ICC section"):
            unpack(data[:length])


@pytest.mark.parametrize("file", [IMAGE_ONLY, WITH_ICC, WITH_QSTEP], ids=["image", "image+icc", "qstep"])
def test_every_change_of_a_byte_is_refused(file):
    data = pack(file)
    for position in range(len(data)):
        for value in range(256):
            changed = data[:position] + bytes([value]) + data[position + 1 :]
            if changed == data:
                assert unpack(changed) == file
                continue
            with pytest.raises(FormatError) as caught:
                unpack(changed)
            message = str(caught.value)
            assert "\n" not in message
            assert any(name in message for name in ("header", "image section", "ICC section"))


REFUSED = {
    "empty": (b"", "header: the file is empty"),
    "foreign": (b"\x89PNG\r\n\x1a\n", r"header: the file begins with b'\\x89PNG', not with b'DKIC'"),
    "short foreign": (b"DX", r"header: the file begins with b'DX', not with b'DKIC'"),
    "only magic": (b"DKIC", "header: the file ends too early"),
    "future": (header(version=2) + IMAGE, "header: the file has version 2 and needs a newer dkic"),
    "far future": (b"DKIC\xff", "header: the file has version 255 and needs a newer dkic"),
    "version 0": (header(version=0) + IMAGE, "header: the file has version 0, which does not exist"),
    "header CRC": (HEAD[:-1] + b"\0" + IMAGE, "header: its CRC32C is"),
    "reserved bit": (header(mode=0x80) + IMAGE, "header: bit 7 of byte 5 must be zero"),
    "qstep of 0": (header(mode=0x40, qstep=b"\0") + IMAGE, "header: the qstep must be from -8 to 8 and not 0, but it is 0"),
    "qstep of -9": (header(mode=0x40, qstep=b"\xf7") + IMAGE, "header: the qstep must be from -8 to 8 and not 0, but it is -9"),
    "qstep of 9": (header(mode=0x40, qstep=b"\x09") + IMAGE, "header: the qstep must be from -8 to 8 and not 0, but it is 9"),
    "width 0": (header(width=varint(0)) + IMAGE, "header: the image must have at least 1 x 1 pixels, not 0 x 5"),
    "height 0": (header(height=varint(0)) + IMAGE, "header: the image must have at least 1 x 1 pixels, not 300 x 0"),
    "huge": (
        header(width=varint(10**9), height=varint(10**9)) + IMAGE,
        f"header: the image must have at most {MAX_PIXELS} pixels, not 1000000000 x 1000000000",
    ),
    "one too many": (header(width=varint(2**28 + 1), height=varint(1)) + IMAGE, "header: .* at most"),
    "padded width": (header(width=varint(300, 1)) + IMAGE, "header: the width .* more bytes than it needs"),
    "padded height": (header(height=varint(0, 1)) + IMAGE, "header: the height .* more bytes than it"),
    "endless width": (header(width=b"\xff" * 5) + IMAGE, "header: the width .* more than 5 bytes"),
    "no section": (HEAD, "image section: it is missing"),
    "only ICC": (ICC_HEADER + ICC, "image section: it is missing"),
    "ICC first": (ICC_HEADER + ICC + IMAGE, "image section: it comes too late"),
    "two images": (HEAD + IMAGE + IMAGE, "image section: there is a second one"),
    "two ICC": (ICC_HEADER + IMAGE + ICC + ICC, "ICC section: there is a second one"),
    "ICC lost": (ICC_HEADER + IMAGE, "ICC section: it is missing, but the header announces one"),
    "ICC found": (HEAD + IMAGE + ICC, "ICC section: there is one, but the header announces none"),
    "type 0": (HEAD + section(0, b""), "after the header: there is a section of unknown type 0"),
    "type 3": (HEAD + IMAGE + section(3, b"x"), "after the image section: .* unknown type 3"),
    "trailing byte": (HEAD + IMAGE + b"\0", "after the image section: .* stray bytes"),
    "trailing line": (ICC_HEADER + IMAGE + ICC + b"\n", "ICC section: there is a second one"),
    "padded key": (
        HEAD + section(1, b"", varint(1, 1)),
        "after the header: .* more bytes",
    ),
    "endless key": (
        HEAD + section(1, b"", b"\xff" * 5),
        "after the header: .* than 5 bytes",
    ),
    "long claim": (
        HEAD + section(1, b"abc", varint(8 * (2**32 - 1) + 1)),
        "image section: the file ends too early, 4294967295 more bytes are needed and 3 are left",
    ),
    "image CRC": (HEAD + IMAGE[:-1] + b"X", "image section: its CRC32C is"),
    "ICC CRC": (ICC_HEADER + IMAGE + ICC[:-1] + b"X", "ICC section: its CRC32C is"),
    "ICC not zlib": (
        ICC_HEADER + IMAGE + section(2, b"not zlib"),
        "ICC section: it is not a zlib stream",
    ),
    "ICC empty": (
        ICC_HEADER + IMAGE + section(2, b""),
        "ICC section: its zlib stream is not complete",
    ),
    "ICC cut": (
        ICC_HEADER + IMAGE + section(2, zlib.compress(b"an ICC profile")[:-3]),
        "ICC section: its zlib stream is not complete",
    ),
    "ICC and more": (
        ICC_HEADER + IMAGE + section(2, zlib.compress(b"an ICC profile") + b"more"),
        "ICC section: 4 bytes follow its zlib stream",
    ),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_with_one_sentence(data, message):
    with pytest.raises(FormatError, match=f"^{message}") as caught:
        unpack(data)
    assert "\n" not in str(caught.value)


def test_a_decompression_bomb_in_a_profile_is_not_inflated():
    bomb = ICC_HEADER + IMAGE + section(2, zlib.compress(bytes(2**28), 1))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=f"ICC section: the profile inflates to more than the {MAX_ICC_BYTES}"):
            unpack(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_ICC_BYTES


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "not 0 x 5"),
        ({"height": -1}, "not 300 x -1"),
        ({"width": MAX_PIXELS}, f"at most {MAX_PIXELS}"),
        ({"model_hash": b"\x01\xab"}, "model_hash: must have 8 bytes, not 2"),
        ({"quality": 256}, "quality: must be from 0 to 255, not 256"),
        ({"quality": -1}, "quality: must be"),
        ({"arithmetic": 16}, "arithmetic: must be from 0 to 15, not 16"),
        ({"qstep": 9}, "qstep: must be from -8 to 8, not 9"),
        ({"qstep": -9}, "qstep: must be from -8 to 8, not -9"),
    ],
)
def test_pack_refuses_what_the_format_cannot_hold(changes, message):
    fields = {**HEADER.__dict__, **changes}
    with pytest.raises(DkicError, match=message) as caught:
        pack(DkicFile(Header(**fields), b""))
    assert not isinstance(caught.value, FormatError)


def test_pack_refuses_a_profile_that_unpack_would_refuse():
    with pytest.raises(DkicError, match=f"icc: the profile has {MAX_ICC_BYTES + 1} bytes"):
        pack(DkicFile(HEADER, b"", bytes(MAX_ICC_BYTES + 1)))


def test_pack_refuses_a_number_of_more_than_five_bytes():
    class Long(bytes):
        def __len__(self) -> int:
            return 2**32  # with the type of the section 35 bits and more

    with pytest.raises(DkicError, match=r"number: must be below 2\^35"):
        pack(DkicFile(HEADER, Long()))
