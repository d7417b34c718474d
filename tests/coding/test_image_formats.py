"""Recognition of image files by content and by suffix, and search in folders."""

import subprocess
from collections import Counter

import numpy as np
import pytest
from coding.image_files import colors, saved, written
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image, features

from dkic.coding import image_formats
from dkic.coding.image_conversion import image_from
from dkic.coding.image_formats import AVIF, FORMAT_BY_SUFFIX, FORMATS, JXL, format_of, images_below, images_in
from dkic.coding.image_reading import read_image
from dkic.coding.image_writing import encode_image, write_image
from dkic.errors import DkicError


@pytest.mark.parametrize("suffix", FORMAT_BY_SUFFIX)
def test_written_formats_are_recognized_by_content(tmp_path, suffix):
    gray = image_from(colors()[:, :, 0])
    data, _ = encode_image(gray, suffix, "x")
    assert format_of(data[:32]) is FORMAT_BY_SUFFIX[suffix]
    assert read_image(written(tmp_path, data)).pixels.shape == (11, 17, 3)


@pytest.mark.parametrize("head", [b"", b"P", b"P9", b"GIF89a", b"\x89PNG", b"RIFF1234WAVE", b"    ftypheic", b"%PDF"])
def test_files_of_other_formats_are_not_recognized(head):
    assert format_of(head) is None


@pytest.mark.parametrize("known", [AVIF, JXL], ids=["AVIF", "JPEG XL"])
def test_a_format_without_a_decoder_on_this_machine(tmp_path, monkeypatch, known):
    suffix = known.suffixes[0]
    path = written(tmp_path, encode_image(image_from(colors()), suffix, "x")[0], f"a{suffix}")
    monkeypatch.setattr(features, "check", lambda feature: False)
    monkeypatch.setattr(image_formats, "find_spec", lambda package: None)
    with pytest.raises(DkicError, match=f"this is {known.label}, which can't be read; .*pip install"):
        read_image(path)
    with pytest.raises(DkicError, match=f"b{suffix}: can't be written; .*pip install"):
        write_image(image_from(colors()), tmp_path / f"b{suffix}")
    with pytest.raises(DkicError, match=f"{known.label} can't be written; .*pip install"):
        encode_image(image_from(colors()), suffix, "x")
    written(tmp_path, saved(Image.fromarray(colors()), "PNG"), "c.png")
    assert images_in(tmp_path) == ([tmp_path / "c.png"], Counter({suffix: 1}))


@pytest.mark.parametrize("orientation", [1, 6])
def test_jpeg_xl_orientation_is_applied_only_by_its_decoder(tmp_path, orientation):
    """The EXIF orientation must be ignored: ISO/IEC 18181-2, 9.4."""
    JXL.register()
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(colors()), "JXL", lossless=True, exif=exif.tobytes())
    assert np.array_equal(read_image(written(tmp_path, data)).pixels, colors())


def jxl(pixel_format: str, codec: str = "libjxl") -> bytes:
    """A file by ffmpeg's libjxl, for options that pillow-jxl-plugin lacks."""
    source = ["-f", "lavfi", "-i", "testsrc=size=70x50:duration=0.2:rate=15"]
    frames = [] if codec == "libjxl_anim" else ["-frames:v", "1"]
    to = ["-vf", f"format={pixel_format}", "-c:v", codec, "-f", "image2pipe", "-"]
    return subprocess.run([get_ffmpeg_exe(), "-v", "error", *source, *frames, *to], capture_output=True, check=True).stdout


@pytest.mark.parametrize(
    ("data", "refused"),
    [
        (lambda: jxl("rgb24"), None),
        (lambda: jxl("rgb48le"), "more than 8 bits a channel"),
        (lambda: jxl("gray16le"), "more than 8 bits a channel"),
        (lambda: jxl("rgb24", "libjxl_anim"), "several frames"),
        (lambda: jxl("rgb24,setparams=color_trc=smpte2084:color_primaries=bt2020"), r"HDR \(PQ\)"),
    ],
    ids=["8 bits", "16 bits", "16 bits, gray", "animation", "PQ"],
)
def test_jpeg_xl_images_that_are_refused(tmp_path, data, refused):
    path = written(tmp_path, data(), "a.jxl")
    for given in (path, Image.open(path)) if JXL.register() is None else ():
        if refused is None:
            assert image_from(given).pixels.shape == (50, 70, 3)
        else:
            with pytest.raises(DkicError, match=refused):
                image_from(given)


def test_images_in_a_folder(tmp_path):
    names = [f"{i:02}{suffix}" for i, suffix in enumerate(FORMAT_BY_SUFFIX)]
    for name in (*names, "b.PNG", ".hidden.png", "a.dkic", "notes.txt", "film.mp4", "clip.MP4", "README"):
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "c.png").touch()
    found = images_in(tmp_path)
    assert found.images == [tmp_path / name for name in (*names, "b.PNG")]
    assert found.skipped() == "skipped 4 files in formats that dkic does not read here (1 without a suffix, 2 .mp4, 1 .txt)"
    assert images_in(tmp_path / "below").skipped() is None
    for name in ("missing", "b.PNG"):
        with pytest.raises(DkicError, match=f"{name}: there is no such folder"):
            images_in(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DkicError, match="empty: there are no images .*.webp.* in it"):
        images_in(tmp_path / "empty")


def test_images_below_a_folder_through_links(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    for path in (elsewhere / "a.png", elsewhere / "deep" / "b.jfif", elsewhere / "c.txt"):
        path.touch()
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "link").symlink_to(elsewhere)
    (folder / "again").symlink_to(elsewhere)
    (elsewhere / "deep" / "loop").symlink_to(folder)
    (folder / "broken").symlink_to(tmp_path / "missing")
    (folder / "d.png").touch()
    found = images_below(folder)
    assert found.images == [folder / "again" / "a.png", folder / "again" / "deep" / "b.jfif", folder / "d.png"]
    (folder / "z").mkdir()
    (folder / "z" / "e.png").touch()
    (folder / "a").symlink_to(folder / "z")  # a name for the same folder
    assert folder / "z" / "e.png" in images_below(folder).images
    assert found.others == {".txt": 1, "": 1}
    with pytest.raises(DkicError, match="missing: there is no such folder"):
        images_below(tmp_path / "missing")


def test_every_suffix_has_one_format():
    assert len(FORMAT_BY_SUFFIX) == sum(len(known.suffixes) for known in FORMATS)
