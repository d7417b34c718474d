"""Files that are refused with a one-line error: unsupported images, and files that are not images."""

import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from coding.image_files import colors, saved, written
from coding.png_files import SIGNATURE, chunk, gama, with_chunks
from permissions import permissions_hold
from PIL import Image, TiffImagePlugin

from dkic.coding.container import MAX_PIXELS
from dkic.coding.image_reading import read_image
from dkic.errors import DkicError


def refusal(path) -> str:
    """The message with which reading `path` is refused."""
    with pytest.raises(DkicError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


# Unsupported images


def png(width: int, height: int, bits: int, color_type: int, rows: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_rgb16() -> bytes:
    """A 1 x 1 TIFF with three 16-bit channels, which Pillow would show as RGB."""
    entries = [
        (256, 3, 1, 1),
        (257, 3, 1, 1),
        (258, 3, 3, 134),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 140),
    ]
    entries += [(277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 1, 6), (284, 3, 1, 1)]
    data = b"II*\0" + struct.pack("<IH", 8, len(entries))
    data += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return data + struct.pack("<HHH", 16, 16, 16) + struct.pack("<HHH", 1000, 2000, 3000)


def tiff_signed() -> bytes:
    """A gray 8-bit TIFF of signed numbers, which Pillow reads as unsigned, off by 128."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[339] = 2
    return saved(Image.fromarray(colors()[:, :, 0]), "TIFF", tiffinfo=info)


def transparent_palette() -> bytes:
    image = Image.fromarray(colors()).quantize(16)
    return saved(image, "PNG", transparency=int(np.asarray(image)[0, 0]))


def frames(image_format: str) -> bytes:
    first, second = Image.fromarray(colors()), Image.fromarray(colors()[::-1].copy())
    return saved(first, image_format, save_all=True, append_images=[second])


RGBA = Image.fromarray(colors()).convert("RGBA")
RGBA.putpixel((3, 4), (1, 2, 3, 254))
WIDE = np.full((3, 4), 1000, np.uint16)
NOT_CODED = {
    "RGBA PNG": (lambda: saved(RGBA, "PNG"), "it has transparency; give the color behind it"),
    "RGBA WebP": (lambda: saved(Image.new("RGBA", (4, 4), (9, 9, 9, 9)), "WEBP"), "it has transparency"),
    "RGBA TIFF": (lambda: saved(RGBA, "TIFF"), "it has transparency"),
    "LA PNG": (lambda: saved(RGBA.convert("LA"), "PNG"), "it has transparency"),
    "transparent color": (
        lambda: saved(Image.fromarray(colors()), "PNG", transparency=tuple(colors()[2, 3].tolist())),
        "transparency",
    ),
    "transparent palette": (transparent_palette, "it has transparency"),
    "16-bit gray PNG": (
        lambda: saved(Image.fromarray(WIDE), "PNG"),
        "it has more than 8 bits a channel; convert",
    ),
    "16-bit RGB PNG": (lambda: png(1, 1, 16, 2, bytes(7)), "it has more than 8 bits a channel"),
    "16-bit gray TIFF": (lambda: saved(Image.fromarray(WIDE), "TIFF"), "it has more than 8 bits a channel"),
    "16-bit RGB TIFF": (tiff_rgb16, "it has more than 8 bits a channel"),
    "float TIFF": (
        lambda: saved(Image.fromarray(WIDE.astype(np.float32)), "TIFF"),
        "more than 8 bits a channel",
    ),
    "32-bit TIFF": (
        lambda: saved(Image.fromarray(WIDE.astype(np.int32)), "TIFF"),
        "more than 8 bits a channel",
    ),
    "signed TIFF": (lambda: tiff_signed(), "its samples are signed; convert them"),
    "16-bit PGM": (lambda: b"P5 1 1 65535\n\x01\x02", "it has more than 8 bits a channel"),
    "16-bit PPM": (lambda: b"P6 1 1 65535\n" + bytes(6), "it has more than 8 bits a channel"),
    "10-bit plain PPM": (lambda: b"P3 1 1 1023\n1 2 3\n", "it has more than 8 bits a channel"),
    "PFM": (lambda: b"Pf 1 1 -1.0\n" + bytes(4), "it has more than 8 bits a channel"),
    "CMYK JPEG": (lambda: saved(Image.new("CMYK", (4, 4)), "JPEG"), "it is CMYK; convert it to RGB first"),
    "CMYK TIFF": (lambda: saved(Image.new("CMYK", (4, 4)), "TIFF"), "it is CMYK"),
    "Lab TIFF": (lambda: saved(Image.new("LAB", (4, 4)), "TIFF"), "it is LAB; convert it to RGB first"),
    "animated PNG": (lambda: frames("PNG"), "it has several frames or pages; extract one"),
    "animated WebP": (lambda: frames("WEBP"), "it has several frames or pages"),
    "TIFF of two pages": (lambda: frames("TIFF"), "it has several frames or pages"),
    "GIF": (
        lambda: saved(Image.fromarray(colors()), "GIF"),
        "not a PNG, JPEG, WebP, TIFF, PPM, BMP, AVIF or JPEG XL image",
    ),
}


@pytest.mark.parametrize(("make", "message"), NOT_CODED.values(), ids=NOT_CODED.keys())
def test_unsupported_images_are_refused(tmp_path, make, message):
    assert message in refusal(written(tmp_path, make()))


def test_the_16_bit_tiff_is_a_valid_file():
    """Otherwise the test above would pass for another reason."""
    image = Image.open(io.BytesIO(tiff_rgb16()))
    image.load()
    assert image.mode == "RGB"


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"tRNS", b"PLTE", b"IEND"])
def test_damaged_pixel_data_in_a_png_is_refused(tmp_path, kind):
    """Pillow does not verify the CRC of IDAT, and returns wrong pixels."""
    data = bytearray(saved(Image.fromarray(colors()).quantize(16), "PNG", transparency=255))
    at = data.index(kind)
    length = int.from_bytes(data[at - 4 : at], "big")
    data[at + 4 + length + 3] ^= 1  # the last byte of the CRC
    assert f"its {kind.decode()} chunk is damaged (wrong CRC)" in refusal(written(tmp_path, bytes(data)))


def test_damaged_png_pixels_that_can_be_inflated_are_refused(tmp_path):
    stored = zlib.compress(b"".join(b"\0" + row.tobytes() for row in colors()), 0)
    middle = len(stored) // 2
    altered = stored[:middle] + bytes((stored[middle] ^ 0x40,)) + stored[middle + 1 :]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 17, 11, 8, 2, 0, 0, 0))
    data = SIGNATURE + head + chunk(b"IDAT", altered, zlib.crc32(b"IDAT" + stored)) + chunk(b"IEND", b"")
    assert "its IDAT chunk is damaged (wrong CRC)" in refusal(written(tmp_path, data))


def test_a_damaged_ancillary_chunk_is_ignored(tmp_path):
    data = saved(Image.fromarray(colors()), "PNG")
    for bad, notes in (
        (chunk(b"tEXt", b"Title\0x", 0), []),
        (chunk(b"prVt", b"", 0), []),
        (chunk(b"gAMA", bytes(4), 0), ["its gAMA chunk is damaged (wrong CRC) and was dropped"]),
        (chunk(b"eXIf", b"", 0), ["its eXIf chunk is damaged (wrong CRC) and was dropped"]),
    ):
        image = read_image(written(tmp_path, with_chunks(data, bad, chunk(b"tEXt", b"Title\0y", 1), gama(0.45455))))
        assert np.array_equal(image.pixels, colors()) and list(image.notes) == notes


# Files that are not images


def test_unreadable_paths(tmp_path):
    assert "No such file" in refusal(tmp_path / "absent.png")
    assert "directory" in refusal(tmp_path)
    assert "null byte" in refusal(f"{tmp_path}/a\0b.png")
    assert "the file is empty" in refusal(written(tmp_path, b"", "empty.png"))
    assert "not a PNG, JPEG" in refusal(written(tmp_path, b"Dear diary, today I am an image.\n", "text.png"))


def test_unreadable_file(tmp_path):
    path = written(tmp_path, b"x")
    path.chmod(0)
    with permissions_hold():
        assert "Permission denied" in refusal(path)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF", "PPM", "BMP"])
def test_every_truncated_file_is_refused_or_decodes_completely(tmp_path, image_format):
    """No image is decoded in part: a truncated file is refused, or contains all pixels."""
    data = saved(Image.fromarray(colors(5, 7)), image_format)
    whole = read_image(written(tmp_path, data)).pixels
    refused = 0
    for length in range(len(data)):
        path = written(tmp_path, data[:length])
        try:
            assert np.array_equal(read_image(path).pixels, whole)
        except DkicError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            refused += 1
    assert refused >= len(data) - 20  # the end of a file may be a trailer


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF", "PPM", "BMP"])
def test_damaged_files_raise_only_dkic_errors(tmp_path, image_format):
    data = saved(Image.fromarray(colors()), image_format, exif=Image.Exif())
    random = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(data)
        for position in random.integers(0, len(data), random.integers(1, 8)):
            damaged[position] = random.integers(256)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                read_image(written(tmp_path, bytes(damaged)))
            except DkicError as error:
                assert "\n" not in str(error) and "Warning" not in str(error)


@pytest.mark.parametrize(
    "data",
    [
        png(16385, 16384, 8, 2),
        png(20_000, 20_000, 8, 2),
        png(10**9, 10**9, 8, 2),
        b"P6 16385 16384 255\n",
        b"P5 1000000000 1000000000 255\n",
        b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\x0f" * 2 + b"\0\0\0\0",
    ],
    ids=["PNG just too large", "PNG", "PNG of 10^18", "PPM", "PGM", "WebP"],
)
def test_too_many_pixels_are_refused_without_a_warning(tmp_path, data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = refusal(written(tmp_path, data))
    assert f"{MAX_PIXELS}" in message or "beginning is damaged" in message


def test_pillows_limit_neither_warns_nor_refuses(tmp_path, monkeypatch):
    path = written(tmp_path, saved(Image.fromarray(colors()), "TIFF"))
    for limit in (100, 50):  # 187 pixels: Pillow alone would warn, then fail
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            filters = list(warnings.filters)
            assert read_image(path).pixels.shape == (11, 17, 3)
            assert warnings.filters == filters
        assert Image.MAX_IMAGE_PIXELS == limit
        refusal(tmp_path / "absent")
        assert Image.MAX_IMAGE_PIXELS == limit


def test_pillows_limit_is_restored_after_threads(tmp_path, monkeypatch):
    limit = Image.MAX_IMAGE_PIXELS
    path = written(tmp_path, saved(Image.fromarray(colors()), "PNG"))
    threads = [threading.Thread(target=lambda: [read_image(path) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limit == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # a guard that is still counted would leave this limit in place
    assert read_image(path).pixels.shape == (11, 17, 3)
    assert Image.MAX_IMAGE_PIXELS == 50
