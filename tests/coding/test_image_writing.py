"""Writing images to files: they are read back unchanged, and no partial file is left."""

import os
import socket
import stat
import subprocess
import sys

import numpy as np
import pytest
from coding.image_files import SRGB, colors, written
from permissions import permissions_hold
from PIL import Image

from dkic.coding.color_profile import is_srgb
from dkic.coding.image_conversion import image_from
from dkic.coding.image_data import ImageData, to_pil
from dkic.coding.image_reading import read_image
from dkic.coding.image_writing import write_image
from dkic.errors import DkicError
from dkic.output_file import check_output, write_atomically

# Bytes 16 to 20 of a profile name its color space; no other bytes are read here.
GRAY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]
SUFFIXES = [".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".ppm", ".pnm", ".bmp", ".avif", ".jxl"]
LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".avif")
WITHOUT_PROFILE = (".ppm", ".pnm", ".pgm", ".pbm", ".bmp", ".jxl")


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PNG", ".JPG"])
@pytest.mark.parametrize("size", [(11, 17), (1, 1)])
def test_written_images_are_read_back(tmp_path, suffix, size):
    path = tmp_path / f"out{suffix}"
    notes = write_image(ImageData(colors(*size), icc=SRGB), path)
    back = read_image(path)
    assert np.abs(back.pixels.astype(int) - colors(*size)).max() <= (8 if suffix.lower() in LOSSY else 0)
    if suffix in WITHOUT_PROFILE:
        assert len(notes) == 1 and "holds none" in notes[0]
        assert back.icc is None or is_srgb(back.icc, grayscale=False)  # JPEG XL's reader creates one
    else:
        assert notes == [] and back.icc == SRGB
    assert not back.grayscale
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".pgm", ".pbm"])
def test_grayscale_is_written_with_one_channel(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    gray_image = image_from(colors()[:, :, 0])
    notes = write_image(ImageData(gray_image.pixels, True, GRAY_PROFILE), path)
    back = read_image(path)
    with Image.open(path) as image:
        assert image.mode == ("RGB" if suffix == ".webp" else "L")
    assert np.abs(back.pixels.astype(int) - gray_image.pixels).max() <= (8 if suffix in LOSSY else 0)
    # WebP is RGB always, where a profile for gray would be wrong.
    if suffix in (*WITHOUT_PROFILE, ".webp"):
        assert len(notes) == 1 and "holds none" in notes[0] and (suffix == ".jxl" or back.icc is None)
    else:
        assert notes == [] and back.icc == GRAY_PROFILE
    if suffix == ".webp":
        write_image(ImageData(gray_image.pixels, True, SRGB), path, force=True)
        assert read_image(path).icc == SRGB


def test_to_pil():
    image = to_pil(ImageData(colors(), icc=SRGB))
    assert image.mode == "RGB" and image.info["icc_profile"] == SRGB
    assert np.array_equal(np.asarray(image), colors())
    gray = to_pil(image_from(colors()[:, :, 1]))
    assert gray.mode == "L" and "icc_profile" not in gray.info
    assert np.array_equal(np.asarray(gray), colors()[:, :, 1])


def test_an_existing_file_is_kept_without_force(tmp_path):
    path = written(tmp_path, b"precious", "out.png")
    with pytest.raises(DkicError, match=r"out.png: the file exists; overwrite it with --force \(force=True"):
        write_image(ImageData(colors()), path)
    assert path.read_bytes() == b"precious"
    write_image(ImageData(colors()), path, force=True)
    assert np.array_equal(read_image(path).pixels, colors())
    assert os.listdir(tmp_path) == ["out.png"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.gif", "the name must end in one of .png, .jpg"),
        ("out", "the name must end in one of"),
        (".png", "the name must end in one of"),
        ("out.pgm", ".pgm holds only grayscale"),
        ("absent/out.png", "the directory .*absent does not exist; make it first"),
        ("file.txt/out.png", "the directory .*file.txt does not exist"),
        ("folder.png", "this is a directory"),
        ("socket.png", "this is neither a regular file, a pipe nor a character device"),
        ("a\0b.png", "can't be written .*null byte"),
        ("n" * 300 + ".png", "can't be written .*[Nn]ame too long"),
    ],
)
def test_unwritable_paths_are_refused(tmp_path, monkeypatch, name, message):
    (tmp_path / "file.txt").write_bytes(b"text")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        monkeypatch.chdir(tmp_path)  # a socket's path has 107 bytes at most
        bound.bind("socket.png")
    path = f"{tmp_path}/{name}"
    with pytest.raises(DkicError, match=message) as caught:
        write_image(ImageData(colors()), path, force=True)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["file.txt", "folder.png", "socket.png"]


def test_unwritable_directory(tmp_path):
    tmp_path.chmod(0o500)
    with permissions_hold(), pytest.raises(DkicError, match="can't be written .*Permission denied"):
        write_image(ImageData(colors()), tmp_path / "out.png")
    tmp_path.chmod(0o700)
    assert os.listdir(tmp_path) == []


WRITE = """
import resource, signal, sys
from dkic.coding.image_reading import read_image
from dkic.coding.image_writing import write_image
image = read_image(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for path in sys.argv[2:]:
    try:
        write_image(image, path, force=True)
    except ValueError as error:
        print(error)
"""


def test_a_failed_write_keeps_the_existing_file(tmp_path):
    """As on a full disk: the system accepts 4096 bytes and then fails."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 1), np.uint8)  # 8100 bytes in any format
    source = written(tmp_path, b"P5 90 90 255\n" + noise.tobytes(), "source")
    paths = [tmp_path / f"out{suffix}" for suffix in [*SUFFIXES, ".pgm", ".pbm"]]
    for path in paths[::2]:
        path.write_bytes(b"precious")
    command = [sys.executable, "-c", WRITE, str(source), *map(str, paths)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == [f"{path}: can't be written (File too large)" for path in paths]
    assert all(path.read_bytes() == b"precious" for path in paths[::2])
    assert sorted(os.listdir(tmp_path)) == sorted(["source", *(path.name for path in paths[::2])])


def test_a_full_disk_leaves_no_temporary_file(tmp_path):
    def fail(file):
        file.write(b"some bytes")
        raise OSError(28, "No space left on device")

    with pytest.raises(DkicError, match=r"out.dkic: can't be written \(No space left on device\)"):
        write_atomically(tmp_path / "out.dkic", fail)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_the_old_file(tmp_path, error):
    path = written(tmp_path, b"old", "out.dkic")

    def fail(file):
        file.write(b"new")
        raise error

    with pytest.raises(error):
        write_atomically(path, fail, force=True)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.dkic"]


def test_a_format_that_cannot_hold_the_image(tmp_path):
    wide = ImageData(np.zeros((1, 70_000, 3), np.uint8))
    for suffix in (".webp", ".jpg"):
        with pytest.raises(DkicError, match=f"out{suffix}: can't be written"):
            write_image(wide, tmp_path / f"out{suffix}")
    assert os.listdir(tmp_path) == []


def test_bytes_are_written(tmp_path):
    write_atomically(tmp_path / "out.dkic", b"the bytes")
    assert (tmp_path / "out.dkic").read_bytes() == b"the bytes"
    assert check_output(tmp_path / "new.dkic") == tmp_path / "new.dkic"
    assert os.listdir(tmp_path) == ["out.dkic"]


def test_relative_paths_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(ImageData(colors()), "out.png")
    assert os.listdir(tmp_path) == ["out.png"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_follows_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_image(ImageData(colors()), tmp_path / "out.png")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.png").stat().st_mode) == 0o666 & ~umask


def test_an_overwritten_file_keeps_its_permissions(tmp_path):
    path = written(tmp_path, b"private", "out.png")
    path.chmod(0o640)
    write_image(ImageData(colors()), path, force=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_symbolic_link_is_preserved(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.png"
    link.symlink_to("there/real.png")
    write_image(ImageData(colors()), link)
    assert link.is_symlink() and np.array_equal(read_image(tmp_path / "there" / "real.png").pixels, colors())
    with pytest.raises(DkicError, match="the file exists"):
        write_image(ImageData(colors()), link)
