"""Pictures read from files, PIL, numpy and torch: exactly what was there, or one sentence why not."""

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from dkic.coding import image_io
from dkic.coding.container import MAX_PIXELS
from dkic.coding.image_io import Picture, picture_from, pictures_in, read_picture
from dkic.errors import DkicError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def colours(height: int = 11, width: int = 17) -> np.ndarray:
    """Smooth enough for JPEG, no two rows or columns alike, uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width].astype(float)
    channels = [60 + 5 * x + 3 * y, 200 - 4 * x - 2 * y, 90 + 6 * y]
    return np.stack(channels, axis=2).clip(0, 255).astype(np.uint8)


def saved(image: Image.Image, image_format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def written(tmp_path, data: bytes, name: str = "picture"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def refusal(path) -> str:
    """The sentence with which reading `path` is refused."""
    with pytest.raises(DkicError) as caught:
        read_picture(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


# Reading


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF", "PPM", "BMP"])
def test_lossless_formats_are_read_exactly(tmp_path, image_format):
    options = {"lossless": True} if image_format == "WEBP" else {}
    # The name says nothing: formats are known by their content.
    picture = read_picture(written(tmp_path, saved(Image.fromarray(colours()), image_format, **options)))
    assert np.array_equal(picture.pixels, colours())
    assert picture.pixels.flags.c_contiguous and picture.pixels.flags.writeable
    assert not picture.grayscale and picture.icc is None
    assert (picture.height, picture.width) == (11, 17)


def test_jpeg_is_read(tmp_path):
    picture = read_picture(written(tmp_path, saved(Image.fromarray(colours()), "JPEG", quality=95)))
    assert np.abs(picture.pixels.astype(int) - colours()).mean() < 4
    assert not picture.grayscale


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "TIFF", "PPM", "BMP"])
def test_grayscale_becomes_three_equal_channels(tmp_path, image_format):
    gray = colours()[:, :, 0]
    picture = read_picture(written(tmp_path, saved(Image.fromarray(gray), image_format)))
    assert picture.grayscale and picture.pixels.shape == (11, 17, 3)
    assert np.ptp(picture.pixels, axis=2).max() == 0
    if image_format != "JPEG":
        assert np.array_equal(picture.pixels[:, :, 0], gray)


def test_black_and_white_is_grayscale(tmp_path):
    bits = colours()[:, :, 0] > 100
    picture = read_picture(written(tmp_path, saved(Image.fromarray(bits), "PNG")))
    assert picture.grayscale
    assert np.array_equal(picture.pixels[:, :, 1], np.where(bits, 255, 0))


def test_palette_without_transparency_is_read(tmp_path):
    image = Image.fromarray(colours()).quantize(16)
    assert image.mode == "P"
    picture = read_picture(written(tmp_path, saved(image, "PNG")))
    assert np.array_equal(picture.pixels, np.asarray(image.convert("RGB")))
    assert not picture.grayscale


@pytest.mark.parametrize(
    "plain", [b"P3 2 1 255\n10 20 30 40 50 60\n", b"P3\n# comment\n2 1\n51\n2 4 6 8 10 12\n"]
)
def test_plain_ppm_is_read(tmp_path, plain):
    picture = read_picture(written(tmp_path, plain))
    assert picture.pixels.tolist() == [[[10, 20, 30], [40, 50, 60]]]


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, image_format, orientation):
    upright = colours()
    # What a camera held that way would have stored: the inverse of what EXIF says to do.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if image_format == "WEBP" else {}
    if image_format == "JPEG":
        options = {"quality": 100, "subsampling": 0}
    data = saved(Image.fromarray(np.ascontiguousarray(stored)), image_format, exif=exif, **options)
    picture = read_picture(written(tmp_path, data))
    assert picture.pixels.shape == upright.shape
    assert np.abs(picture.pixels.astype(int) - upright).max() <= (6 if image_format == "JPEG" else 0)
    again = picture_from(Image.open(io.BytesIO(data)))
    assert np.array_equal(again.pixels, picture.pixels)


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\x7f"])
def test_damaged_exif_beside_sound_pixels_is_ignored(tmp_path, exif):
    data = saved(Image.fromarray(colours()), "JPEG", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(written(tmp_path, data)).pixels.shape == (11, 17, 3)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_icc_profile_is_read(tmp_path, image_format):
    data = saved(Image.fromarray(colours()), image_format, icc_profile=SRGB)
    assert read_picture(written(tmp_path, data)).icc == SRGB


def test_first_picture_of_a_multi_picture_jpeg_is_read(tmp_path):
    """Phones put a second picture behind the photograph; Pillow calls that MPO."""
    image, preview = Image.fromarray(colours()), Image.fromarray(colours(4, 6))
    data = saved(image, "MPO", save_all=True, append_images=[preview])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert read_picture(written(tmp_path, data)).pixels.shape == (11, 17, 3)


# Refused: what dkic does not code


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes = b"") -> bytes:
    def chunk(kind: bytes, payload: bytes) -> bytes:
        return (
            struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))
        )

    head = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


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


def transparent_palette() -> bytes:
    return saved(Image.fromarray(colours()).quantize(16), "PNG", transparency=3)


def frames(image_format: str) -> bytes:
    first, second = Image.fromarray(colours()), Image.fromarray(colours()[::-1].copy())
    return saved(first, image_format, save_all=True, append_images=[second])


RGBA = Image.fromarray(colours()).convert("RGBA")
WIDE = np.full((3, 4), 1000, np.uint16)
NOT_CODED = {
    "RGBA PNG": (lambda: saved(RGBA, "PNG"), "it has transparency; flatten it first"),
    "RGBA WebP": (lambda: saved(Image.new("RGBA", (4, 4), (9, 9, 9, 9)), "WEBP"), "it has transparency"),
    "RGBA TIFF": (lambda: saved(RGBA, "TIFF"), "it has transparency"),
    "LA PNG": (lambda: saved(RGBA.convert("LA"), "PNG"), "it has transparency"),
    "transparent colour": (
        lambda: saved(Image.fromarray(colours()), "PNG", transparency=(1, 2, 3)),
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
    "16-bit PGM": (lambda: b"P5 1 1 65535\n\x01\x02", "it has more than 8 bits a channel"),
    "16-bit PPM": (lambda: b"P6 1 1 65535\n" + bytes(6), "it has more than 8 bits a channel"),
    "10-bit plain PPM": (lambda: b"P3 1 1 1023\n1 2 3\n", "it has more than 8 bits a channel"),
    "PFM": (lambda: b"Pf 1 1 -1.0\n" + bytes(4), "it has more than 8 bits a channel"),
    "CMYK JPEG": (lambda: saved(Image.new("CMYK", (4, 4)), "JPEG"), "it is CMYK; convert it to RGB first"),
    "CMYK TIFF": (lambda: saved(Image.new("CMYK", (4, 4)), "TIFF"), "it is CMYK"),
    "Lab TIFF": (lambda: saved(Image.new("LAB", (4, 4)), "TIFF"), "it is LAB; convert it to RGB first"),
    "animated PNG": (lambda: frames("PNG"), "it has several frames or pages; give one"),
    "animated WebP": (lambda: frames("WEBP"), "it has several frames or pages"),
    "TIFF of two pages": (lambda: frames("TIFF"), "it has several frames or pages"),
    "GIF": (
        lambda: saved(Image.fromarray(colours()), "GIF"),
        "this is not a PNG, JPEG, WebP, TIFF, PPM, PGM or BMP",
    ),
}


@pytest.mark.parametrize(("make", "message"), NOT_CODED.values(), ids=NOT_CODED.keys())
def test_what_dkic_does_not_code_is_refused(tmp_path, make, message):
    assert message in refusal(written(tmp_path, make()))


def test_the_tiff_of_16_bits_is_sound():
    """Or the test above would pass for another reason."""
    image = Image.open(io.BytesIO(tiff_rgb16()))
    image.load()
    assert image.mode == "RGB"


# Refused: what is no picture


def test_unreadable_paths(tmp_path):
    assert "No such file" in refusal(tmp_path / "absent.png")
    assert "directory" in refusal(tmp_path)
    assert "null byte" in refusal(f"{tmp_path}/a\0b.png")
    assert "the file is empty" in refusal(written(tmp_path, b"", "empty.png"))
    assert "not a PNG, JPEG" in refusal(written(tmp_path, b"Dear diary, today I am a picture.\n", "text.png"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    path = written(tmp_path, b"x")
    path.chmod(0)
    assert "Permission denied" in refusal(path)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF", "PPM", "BMP"])
def test_every_truncation_is_refused_or_whole(tmp_path, image_format):
    """No picture comes back with a part missing: the cut file is refused, or all its pixels were there."""
    data = saved(Image.fromarray(colours(5, 7)), image_format)
    whole = read_picture(written(tmp_path, data)).pixels
    refused = 0
    for length in range(len(data)):
        path = written(tmp_path, data[:length])
        try:
            assert np.array_equal(read_picture(path).pixels, whole)
        except DkicError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            refused += 1
    assert refused >= len(data) - 20  # the end of a file may be a trailer


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF", "PPM", "BMP"])
def test_damage_is_a_dkic_error_or_nothing(tmp_path, image_format):
    data = saved(Image.fromarray(colours()), image_format, exif=Image.Exif())
    random = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(data)
        for position in random.integers(0, len(data), random.integers(1, 8)):
            damaged[position] = random.integers(256)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                read_picture(written(tmp_path, bytes(damaged)))
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
    path = written(tmp_path, saved(Image.fromarray(colours()), "TIFF"))
    for limit in (100, 50):  # 187 pixels: Pillow alone would warn, then fail
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            filters = list(warnings.filters)
            assert read_picture(path).pixels.shape == (11, 17, 3)
            assert warnings.filters == filters
        assert Image.MAX_IMAGE_PIXELS == limit
        refusal(tmp_path / "absent")
        assert Image.MAX_IMAGE_PIXELS == limit


def test_pillows_limit_is_put_back_after_threads(tmp_path):
    limit = Image.MAX_IMAGE_PIXELS
    path = written(tmp_path, saved(Image.fromarray(colours()), "PNG"))
    threads = [threading.Thread(target=lambda: [read_picture(path) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limit == Image.MAX_IMAGE_PIXELS
    assert image_io._pillow_users == 0


# From PIL, numpy and torch


def test_pictures_in_a_folder(tmp_path):
    for name in ("b.PNG", "a.jpeg", ".hidden.png", "notes.txt", "film.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "c.png").touch()
    assert pictures_in(tmp_path) == [tmp_path / "a.jpeg", tmp_path / "b.PNG"]
    for name, message in (("missing", "no such folder of pictures"), ("b.PNG", "no such folder of pictures")):
        with pytest.raises(DkicError, match=f"{name}: there is {message}"):
            pictures_in(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DkicError, match="empty: no pictures .*.webp.* in it"):
        pictures_in(tmp_path / "empty")


def test_picture_from_takes_paths_and_pictures(tmp_path):
    path = written(tmp_path, saved(Image.fromarray(colours()), "PNG"))
    assert np.array_equal(picture_from(path).pixels, colours())
    assert np.array_equal(picture_from(str(path)).pixels, colours())
    picture = Picture(colours())
    assert picture_from(picture) is picture


def test_picture_from_pil():
    image = Image.fromarray(colours())
    image.info["icc_profile"] = SRGB
    picture = picture_from(image)
    assert np.array_equal(picture.pixels, colours()) and picture.icc == SRGB
    assert picture_from(image.convert("L")).grayscale
    assert np.array_equal(picture_from(image.convert("YCbCr")).pixels, image.convert("YCbCr").convert("RGB"))
    for mode, message in [
        ("RGBA", "transparency"),
        ("CMYK", "CMYK"),
        ("I", "8 bits"),
        ("F", "8 bits"),
        ("HSV", "HSV"),
    ]:
        with pytest.raises(DkicError, match=f"^the image: .*{message}"):
            picture_from(Image.new(mode, (2, 2)))


def test_picture_from_numpy():
    assert np.array_equal(picture_from(colours()).pixels, colours())
    turned = picture_from(colours()[::-1, ::-1])
    assert np.array_equal(turned.pixels, colours()[::-1, ::-1]) and turned.pixels.flags.c_contiguous
    for gray in (colours()[:, :, 0], colours()[:, :, :1]):
        picture = picture_from(gray)
        assert picture.grayscale
        assert np.array_equal(picture.pixels, np.repeat(colours()[:, :, :1], 3, axis=2))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 5, 3)),
        np.zeros((4, 5, 3), np.uint16),
        np.zeros((4, 5), bool),
        np.zeros((4, 5, 4), np.uint8),
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((1, 4, 5, 3), np.uint8),
        np.zeros(5, np.uint8),
    ],
)
def test_other_numpy_arrays_are_refused(array):
    with pytest.raises(DkicError, match=r"must be uint8 \[H, W, 3\] or \[H, W\], channels last") as caught:
        picture_from(array)
    assert f"{array.dtype} {list(array.shape)}" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_picture_from_torch(dtype):
    chw = torch.from_numpy(colours()).permute(2, 0, 1)
    x = chw if dtype == torch.uint8 else (chw.double() / 255).to(dtype)
    picture = picture_from(x)
    # bfloat16 keeps 8 bits of a number, so a pixel may move by 255 / 2**9.
    assert np.abs(picture.pixels.astype(int) - colours()).max() <= (1 if dtype == torch.bfloat16 else 0)
    assert picture.pixels.flags.c_contiguous and not picture.grayscale
    gray = picture_from(x[:1])
    assert gray.grayscale and np.array_equal(gray.pixels[:, :, 2], picture.pixels[:, :, 0])


def test_picture_from_torch_with_gradient_and_all_values():
    values = torch.arange(256).repeat(3, 1, 1)
    picture = picture_from((values / 255).requires_grad_())
    assert np.array_equal(picture.pixels[0, :, 1], np.arange(256))
    halves = torch.tensor([[[0.0, 0.4, 0.6, 254.6]]]) / 255
    assert picture_from(halves).pixels[0, :, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.full((3, 2, 2), 1.01), r"must lie in \[0, 1\], not in \[1.01, 1.01\].*clamp"),
        (torch.full((3, 2, 2), -0.5), r"must lie in \[0, 1\]"),
        (torch.full((3, 2, 2), float("nan")), r"must lie in \[0, 1\]"),
        (torch.full((3, 2, 2), 255.0), r"must lie in \[0, 1\], not in \[255, 255\]"),
        (torch.zeros(3, 2, 2, dtype=torch.int64), r"uint8 or floating point in \[0, 1\].* not torch.int64"),
        (torch.zeros(1, 3, 2, 2), r"neither batch nor alpha, not torch.float32 \[1, 3, 2, 2\]"),
        (torch.zeros(2, 2, 3), r"must be \[3, H, W\] or \[1, H, W\]"),
        (torch.zeros(4, 2, 2), r"neither batch nor alpha"),
        (torch.zeros(2, 2), r"must be \[3, H, W\]"),
        (torch.zeros(3, 0, 2), r"2 x 0 pixels"),
        (torch.zeros(3, 1, 1, dtype=torch.uint8).expand(3, 2**15, 2**15), f"at most {MAX_PIXELS}"),
    ],
)
def test_other_torch_tensors_are_refused(tensor, message):
    with pytest.raises(DkicError, match=message):
        picture_from(tensor)


@pytest.mark.parametrize("other", [None, 3, [[1, 2], [3, 4]], b"bytes"])
def test_other_objects_are_refused(other):
    with pytest.raises(DkicError, match=f"a torch tensor or a Picture, not {type(other).__name__}"):
        picture_from(other)


def test_picture_checks_its_pixels():
    for pixels in (np.zeros((2, 2), np.uint8), np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2, 3))):
        with pytest.raises(DkicError, match=r"must be uint8 \[H, W, 3\], not "):
            Picture(pixels)
    with pytest.raises(DkicError, match="0 x 2 pixels, but must have at least 1 x 1"):
        Picture(np.zeros((2, 0, 3), np.uint8))
    with pytest.raises(DkicError, match=f"at most {MAX_PIXELS}"):
        Picture(np.broadcast_to(np.uint8(0), (2**14 + 1, 2**14, 3)))


def test_reading_needs_no_torch(tmp_path):
    path = written(tmp_path, saved(Image.fromarray(colours()), "PNG"))
    code = (
        "import sys; from dkic.coding.image_io import picture_from\n"
        f"picture = picture_from({str(path)!r}); print(picture.height, picture.width, 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["11", "17", "False"]
