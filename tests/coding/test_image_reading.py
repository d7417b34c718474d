"""Reading images from files: exact pixels."""

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from coding.image_files import SRGB, colors, saved, written
from coding.png_files import SIGNATURE, chunk
from PIL import Image, ImageOps

from dkic.coding.image_conversion import image_from
from dkic.coding.image_reading import read_image
from dkic.errors import DkicError


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF", "PPM", "BMP"])
def test_lossless_formats_are_read_exactly(tmp_path, image_format):
    options = {"lossless": True} if image_format == "WEBP" else {}
    # The name does not matter: formats are recognized by content.
    image = read_image(written(tmp_path, saved(Image.fromarray(colors()), image_format, **options)))
    assert np.array_equal(image.pixels, colors())
    assert image.pixels.flags.c_contiguous and image.pixels.flags.writeable
    assert not image.grayscale and image.icc is None
    assert (image.height, image.width) == (11, 17)


def test_jpeg_is_read(tmp_path):
    image = read_image(written(tmp_path, saved(Image.fromarray(colors()), "JPEG", quality=95)))
    assert np.abs(image.pixels.astype(int) - colors()).mean() < 4
    assert not image.grayscale


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "TIFF", "PPM", "BMP"])
def test_grayscale_becomes_three_equal_channels(tmp_path, image_format):
    gray = colors()[:, :, 0]
    image = read_image(written(tmp_path, saved(Image.fromarray(gray), image_format)))
    assert image.grayscale and image.pixels.shape == (11, 17, 3)
    assert np.ptp(image.pixels, axis=2).max() == 0
    if image_format != "JPEG":
        assert np.array_equal(image.pixels[:, :, 0], gray)


def test_black_and_white_is_grayscale(tmp_path):
    bits = colors()[:, :, 0] > 100
    image = read_image(written(tmp_path, saved(Image.fromarray(bits), "PNG")))
    assert image.grayscale
    assert np.array_equal(image.pixels[:, :, 1], np.where(bits, 255, 0))


def test_palette_without_transparency_is_read(tmp_path):
    image = Image.fromarray(colors()).quantize(16)
    assert image.mode == "P"
    result = read_image(written(tmp_path, saved(image, "PNG")))
    assert np.array_equal(result.pixels, np.asarray(image.convert("RGB")))
    assert not result.grayscale


@pytest.mark.parametrize("plain", [b"P3 2 1 255\n10 20 30 40 50 60\n", b"P3\n# comment\n2 1\n51\n2 4 6 8 10 12\n"])
def test_plain_ppm_is_read(tmp_path, plain):
    image = read_image(written(tmp_path, plain))
    assert image.pixels.tolist() == [[[10, 20, 30], [40, 50, 60]]]


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, image_format, orientation):
    upright = colors()
    # The pixels that a camera in this orientation stores: the inverse of the EXIF transformation.
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
    image = read_image(written(tmp_path, data))
    assert image.pixels.shape == upright.shape
    assert np.abs(image.pixels.astype(int) - upright).max() <= (6 if image_format == "JPEG" else 0)
    again = image_from(Image.open(io.BytesIO(data)))
    assert np.array_equal(again.pixels, image.pixels)


def test_an_image_that_memory_is_too_small_to_rotate_is_refused(tmp_path, monkeypatch):
    """It is not read unrotated, as an image with damaged metadata is."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = written(tmp_path, saved(Image.fromarray(colors()), "PNG", exif=exif))

    def no_memory(image: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageOps, "exif_transpose", no_memory)
    with pytest.raises(DkicError, match="can't be read"):
        read_image(file)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF", "MPO"])
@pytest.mark.parametrize(
    "derived",
    [
        lambda image: image.resize((image.width, image.height)),
        lambda image: image.crop((0, 0, 5, 7)),
        lambda image: image.rotate(90, expand=True),
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image: image.convert("L"),
        lambda image: image.copy(),
        lambda image: ImageOps.fit(image, (6, 4)),
        ImageOps.exif_transpose,
    ],
    ids=["resize", "crop", "rotate", "transpose", "convert", "copy", "fit", "exif_transpose"],
)
def test_images_derived_by_pillow_are_not_rotated_again(image_format, derived):
    """Pillow keeps the EXIF orientation in derived images."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = derived(Image.open(io.BytesIO(saved(Image.fromarray(colors()), image_format, exif=exif))))
    assert np.array_equal(image_from(image).pixels, np.asarray(image.convert("RGB")))


def test_thumbnail_keeps_the_exif_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(saved(Image.fromarray(colors()), "JPEG", exif=exif)))
    image.thumbnail((8, 8))
    result = image_from(image)
    assert (result.width, result.height) == (image.height, image.width)


@pytest.mark.parametrize(
    ("image", "mode"),
    [
        (Image.fromarray(colors()).convert("RGBA"), "RGB"),
        (Image.fromarray(colors()).convert("LA"), "L"),
        (Image.fromarray(colors()).quantize(16), "RGB"),
    ],
    ids=["RGBA", "LA", "palette"],
)
def test_opaque_alpha_is_dropped(tmp_path, image, mode):
    unused = {"transparency": 20} if image.mode == "P" else {}
    path = written(tmp_path, saved(image, "PNG", **unused))
    assert Image.open(path).has_transparency_data
    result = read_image(path)
    assert np.array_equal(result.pixels, np.asarray(image.convert(mode).convert("RGB")))
    assert result.grayscale == (mode == "L")


@pytest.mark.parametrize("unused", [(1, 2, 3), 7])
def test_a_transparent_color_that_no_pixel_has_is_ignored(tmp_path, unused):
    pixels = colors() if isinstance(unused, tuple) else colors()[:, :, 0]
    image = read_image(written(tmp_path, saved(Image.fromarray(pixels), "PNG", transparency=unused)))
    assert np.array_equal(image.pixels, pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))
    assert image.grayscale == (pixels.ndim == 2)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_transparent_level_of_gray_with_few_bits(tmp_path, bits):
    """Pillow converts the pixels to 8 bits, but not the transparent level."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8 // bits, 1, bits, 0, 0, 0, 0))
    row = zlib.compress(b"\0" + bytes([0b00011011]))
    for level, is_there in ((1, True), (2**bits - 1 if bits < 4 else 0b1011, True), (0b1110, False)):
        if bits < 4 and not is_there:
            continue
        data = SIGNATURE + head + chunk(b"tRNS", struct.pack(">H", level)) + chunk(b"IDAT", row) + chunk(b"IEND", b"")
        path = written(tmp_path, data)
        if is_there:
            with pytest.raises(DkicError, match="it has transparency"):
                read_image(path)
            white = read_image(path, "white")
            assert white.grayscale and (white.pixels == 255).any()
        else:
            assert read_image(path).grayscale


def test_transparency_is_flattened_onto_a_background(tmp_path):
    rgba = np.dstack([colors(), np.full((11, 17), 255, np.uint8)])
    rgba[0, 0, 3], rgba[0, 1, 3] = 0, 128
    path = written(tmp_path, saved(Image.fromarray(rgba), "PNG"))
    for background, color in (("white", (255, 255, 255)), ("#102030", (16, 32, 48)), ("rgb(1,2,3)", (1, 2, 3))):
        pixels = read_image(path, background).pixels
        assert pixels[0, 0].tolist() == list(color)
        blend = (colors()[0, 1] * 128.0 + np.array(color) * 127.0) / 255
        assert np.abs(pixels[0, 1] - blend).max() <= 1
        assert np.array_equal(pixels[1:], colors()[1:])
    for background in ("no color", "#10203040", ""):
        with pytest.raises(DkicError, match=f"background: '{background}' is not an opaque color"):
            read_image(path, background)
    gray = Image.fromarray(colors()[:, :, 0]).convert("LA")
    gray.putpixel((0, 0), (9, 0))
    path = written(tmp_path, saved(gray, "PNG"), "gray")
    assert read_image(path, "white").grayscale and not read_image(path, "red").grayscale


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\x7f"])
def test_damaged_exif_is_ignored(tmp_path, exif):
    data = saved(Image.fromarray(colors()), "JPEG", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(written(tmp_path, data)).pixels.shape == (11, 17, 3)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_icc_profile_is_read(tmp_path, image_format):
    data = saved(Image.fromarray(colors()), image_format, icc_profile=SRGB)
    assert read_image(written(tmp_path, data)).icc == SRGB


def test_first_image_of_a_multi_image_jpeg_is_read(tmp_path):
    """Phones append a second image to the photograph; Pillow calls the format MPO."""
    image, preview = Image.fromarray(colors()), Image.fromarray(colors(4, 6))
    data = saved(image, "MPO", save_all=True, append_images=[preview])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert read_image(written(tmp_path, data)).pixels.shape == (11, 17, 3)


def test_reading_needs_no_torch(tmp_path):
    path = written(tmp_path, saved(Image.fromarray(colors()), "PNG"))
    code = (
        "import sys; from dkic.coding.image_conversion import image_from\n"
        f"image = image_from({str(path)!r}); print(image.height, image.width, 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["11", "17", "False"]
