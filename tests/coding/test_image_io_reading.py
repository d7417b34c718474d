"""Pictures read from files: exactly what was there."""

import io
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from coding.picture_files import SRGB, colours, saved, written
from PIL import Image

from dkic.coding.image_io import picture_from, pictures_in, read_picture
from dkic.errors import DkicError


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
