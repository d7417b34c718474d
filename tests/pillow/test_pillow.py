"""The Pillow plugin: Image.open and Image.save behave as for other formats."""

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from coding.image_files import DISPLAY_P3
from photographs import crop
from PIL import Image, ImageFile, UnidentifiedImageError

import dkic
import dkic.pillow
from dkic.coding.container import unpack
from dkic.errors import DkicError, FormatError


@pytest.fixture(scope="module")
def codec():
    return dkic.load()


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(crop(96, 120))


@pytest.fixture
def path(codec, image, tmp_path):
    path = tmp_path / "photo.dkic"
    path.write_bytes(codec.compress(image, 1))
    return path


class CountingFile(io.BytesIO):
    """Counts the bytes that are read of it."""

    count = 0

    def read(self, size=-1):
        data = super().read(size)
        self.count += len(data)
        return data


def with_profile(codec) -> bytes:
    image = Image.fromarray(crop(96, 120))
    image.info["icc_profile"] = DISPLAY_P3
    return codec.compress(image, 1)


def test_open_gives_the_codecs_pixels(codec, path):
    expected = codec.decompress(path.read_bytes(), "numpy")
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size, image.info["quality"]) == ("DKIC", "RGB", (120, 96), 1)
        assert image.get_format_mimetype() == "image/x-dkic"
        assert np.array_equal(np.asarray(image), expected)
        assert "icc_profile" not in image.info
    with path.open("rb") as file, Image.open(file) as image:
        assert np.array_equal(np.asarray(image), expected)
        assert not file.closed


def test_open_does_not_decode(codec):
    data = codec.compress(Image.fromarray(crop(256, 256)))
    for content in (data, with_profile(codec)):
        file = CountingFile(content)
        image = Image.open(file)
        section = len(content) - len(unpack(content).image)
        assert image.size in ((256, 256), (120, 96)) and file.count <= section + 16 + 64
        image.load()
        assert file.count > len(content)


def test_import_and_open_do_not_import_torch(path):
    code = f"import sys, dkic.pillow; from PIL import Image; print(Image.open({str(path)!r}).size, 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "(120, 96) False"


def test_profile_and_grayscale(codec):
    image = Image.open(io.BytesIO(with_profile(codec)))
    assert image.info["icc_profile"] == DISPLAY_P3
    gray = Image.fromarray(crop(40, 30)[:, :, 1])
    file = io.BytesIO()
    gray.save(file, "DKIC")
    opened = Image.open(file)
    assert opened.mode == "L" and "icc_profile" not in opened.info
    assert np.array_equal(np.asarray(opened), codec.decompress(file.getvalue(), "numpy")[:, :, 0])


def test_save_equals_the_codecs_compress(codec, image, tmp_path):
    path = tmp_path / "photo.dkic"
    for options in ({"quality": 2}, {"target_bpp": 0.5}, {}):
        image.save(path, **options)
        assert path.read_bytes() == codec.compress(image, **options)
        file = io.BytesIO()
        image.save(file, format="dkic", **options)
        assert file.getvalue() == path.read_bytes()


def test_save_over_the_opened_file(path):
    image = Image.open(path)
    image.save(path, quality=2)
    assert Image.open(path).info["quality"] == 2


def test_icc_profile_option(codec, image):
    tagged = image.copy()
    tagged.info["icc_profile"] = DISPLAY_P3
    for given, options, stored in (
        (tagged, {}, DISPLAY_P3),
        (tagged, {"icc_profile": None}, None),
        (image, {"icc_profile": DISPLAY_P3}, DISPLAY_P3),
    ):
        file = io.BytesIO()
        given.save(file, "DKIC", **options)
        assert Image.open(file).info.get("icc_profile") == stored


def test_transparency_needs_a_background(codec, image):
    transparent = image.convert("RGBA")
    transparent.putalpha(100)
    with pytest.raises(OSError, match="background"):
        transparent.save(io.BytesIO(), "DKIC")
    file = io.BytesIO()
    transparent.save(file, "DKIC", background="white")
    assert file.getvalue() == codec.compress(transparent, background="white")


@pytest.mark.parametrize("options", [{"quality": 101}, {"quality": 1, "target_bpp": 1.0}, {"target_bpp": 1e-6}])
def test_wrong_options_leave_no_file(image, tmp_path, options):
    path = tmp_path / "new.dkic"
    with pytest.raises(dkic.pillow.DkicImageError, match=r"new\.dkic: .*(quality|bits per pixel)") as caught:
        image.save(path, **options)
    assert isinstance(caught.value, OSError) and isinstance(caught.value, DkicError)
    assert not path.exists()


WRONG_OPTIONS = [
    ({"quality": "4"}, "quality: must be an integer, and is '4'"),
    ({"quality": True}, "quality: must be an integer"),
    ({"quality": [4]}, "quality: must be an integer"),
    ({"target_bpp": "0.3"}, "target_bpp: must be a positive number .*'0.3'"),
    ({"target_bpp": float("nan")}, "target_bpp: must be a positive number"),
    ({"target_bpp": -1}, "target_bpp: must be a positive number"),
    ({"icc_profile": "sRGB"}, "icc_profile: must be bytes or None, and is a str"),
]


@pytest.mark.parametrize(("options", "message"), WRONG_OPTIONS, ids=[str(options) for options, _ in WRONG_OPTIONS])
def test_an_option_of_a_wrong_type_is_named(image, path, options, message):
    """By `dkic.pillow.save` too, which leaves an existing file as it is."""
    before = path.read_bytes()
    with pytest.raises(dkic.pillow.DkicImageError, match=message):
        image.save(io.BytesIO(), "DKIC", **options)
    with pytest.raises(dkic.pillow.DkicImageError, match=rf"photo\.dkic: {message}"):
        dkic.pillow.save(image, path, **options)
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


def test_a_background_of_a_wrong_type(image):
    transparent = image.convert("RGBA")
    transparent.putalpha(100)
    with pytest.raises(dkic.pillow.DkicImageError, match="background: 3 is not an opaque color"):
        transparent.save(io.BytesIO(), "DKIC", background=3)


def test_saving_atomically_equals_saving(codec, image, path):
    dkic.pillow.save(image, path, quality=2)
    assert path.read_bytes() == codec.compress(image, quality=2)
    with pytest.raises(TypeError, match="^save/qualty: there is no such option"):
        dkic.pillow.save(image, path, qualty=2)
    with pytest.raises(TypeError, match="^save/image: must be a PIL image, and is a str"):
        dkic.pillow.save("photo.png", path)
    with pytest.raises(dkic.pillow.DkicImageError, match="does not exist"):
        dkic.pillow.save(image, path.parent / "none" / "photo.dkic")


def test_truncated_and_damaged_files(path):
    data = path.read_bytes()
    cut = Image.open(io.BytesIO(data[:60]))
    assert cut.size == (120, 96)
    with pytest.raises(OSError, match="image section: the file ends too early"):
        cut.load()
    changed = data[:100] + bytes([data[100] ^ 1]) + data[101:]
    for check in ("load", "verify"):
        path.write_bytes(changed)
        with pytest.raises(OSError, match=r"photo\.dkic: image section: its CRC32C is"):
            getattr(Image.open(path), check)()
    Image.open(io.BytesIO(data)).verify()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:10], lambda data: data[:6] + b"\xff" + data[7:], lambda data: b"DKIC\x63" + data[5:]]
)
def test_damaged_headers_are_not_identified(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UnidentifiedImageError, match=r"photo\.dkic: header: ") as caught:
        Image.open(path)
    assert isinstance(caught.value, FormatError)


def test_a_damaged_profile(codec, monkeypatch):
    data = with_profile(codec)
    for broken in (data[:-3], data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]):
        image = Image.open(io.BytesIO(broken))
        assert "icc_profile" not in image.info
        with pytest.raises(OSError, match="ICC section"):
            image.load()
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        image = Image.open(io.BytesIO(broken))
        with pytest.warns(UserWarning, match="left without an ICC profile"):
            image.load()
        assert np.array_equal(np.asarray(image), codec.decompress(data, "numpy"))
        monkeypatch.undo()


def test_threads_share_the_codec(codec, path, image):
    dkic.pillow.set_codec(None)
    expected = codec.decompress(path.read_bytes(), "numpy")

    def opened(_) -> np.ndarray:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))

    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(pixels, expected) for pixels in pool.map(opened, range(8)))


def test_set_codec(codec, path, image):
    class Other:
        def compress(self, photo, quality, target_bpp):
            return b"other %d" % quality

        def decompress(self, file, output):
            raise DkicError("the file was made with another model; load that model")

    dkic.pillow.set_codec(Other())
    try:
        file = io.BytesIO()
        image.save(file, "DKIC", quality=7)
        assert file.getvalue() == b"other 7"
        with pytest.raises(OSError, match=r"photo\.dkic: the file was made with another model"):
            Image.open(path).load()
    finally:
        dkic.pillow.set_codec(None)


def test_thumbnail_crop_and_copy(codec, path):
    expected = Image.fromarray(codec.decompress(path.read_bytes(), "numpy"))
    assert Image.open(path).crop((10, 20, 50, 60)).tobytes() == expected.crop((10, 20, 50, 60)).tobytes()
    assert Image.open(path).copy().tobytes() == expected.tobytes()
    image = Image.open(path)
    image.thumbnail((40, 40))
    expected.thumbnail((40, 40))
    assert image.tobytes() == expected.tobytes()


def test_torchvisions_image_folder(path):
    from torchvision.datasets import ImageFolder

    (path.parent / "class").mkdir()
    path.rename(path.parent / "class" / path.name)
    dataset = ImageFolder(path.parent, is_valid_file=lambda path: path.endswith(".dkic"))
    assert [(image.size, label) for image, label in dataset] == [((120, 96), 0)]
