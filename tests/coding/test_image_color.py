"""Color descriptions of files: stored as an ICC profile, refused, or dropped with a note; never lost silently."""

import io
import struct
import zlib

import numpy as np
import pytest
from coding.image_files import SRGB, colors, saved, written
from coding.png_files import chrm, chunk, cicp, gama, with_chunks
from PIL import Image, TiffImagePlugin, features

from dkic.coding.color_profile import (
    ADOBE_RGB_CURVE,
    ADOBE_RGB_PRIMARIES,
    SRGB_CURVE,
    SRGB_PRIMARIES,
    Curve,
    Primaries,
    make_profile,
)
from dkic.coding.image_conversion import image_from
from dkic.coding.image_reading import read_image
from dkic.errors import DkicError

WHITE, P3_CHROMATICITIES = (0.3127, 0.329), (0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
P3 = Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
RGB = saved(Image.fromarray(colors()), "PNG")
GRAY = saved(Image.fromarray(colors()[..., 0]), "PNG")
P3_PROFILE = make_profile(SRGB_CURVE, P3)
GRAY_PROFILE = make_profile(Curve(2.2), None)
ICCP = chunk(b"iCCP", b"p\0\0" + zlib.compress(P3_PROFILE))
SRGB_CHRM = chrm(*WHITE, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)


@pytest.mark.parametrize(
    ("data", "icc"),
    [
        (with_chunks(RGB, cicp(12, 13)), P3_PROFILE),
        (with_chunks(RGB, cicp(1, 13)), None),
        (with_chunks(RGB, cicp(2, 2), ICCP), P3_PROFILE),
        (with_chunks(RGB, cicp(12, 2), ICCP), P3_PROFILE),
        (with_chunks(RGB, cicp(12, 2)), P3_PROFILE),
        (with_chunks(RGB, cicp(2, 2), gama(1.0)), make_profile(Curve(1.0), SRGB_PRIMARIES)),
        (with_chunks(RGB, cicp(1, 13), ICCP), None),
        (with_chunks(GRAY, cicp(12, 13)), None),
        (with_chunks(GRAY, cicp(1, 4)), make_profile(Curve(2.2), None)),
        (with_chunks(RGB, gama(1.0)), make_profile(Curve(1.0), SRGB_PRIMARIES)),
        (with_chunks(GRAY, gama(1.0)), make_profile(Curve(1.0), None)),
        (with_chunks(RGB, gama(0.45455)), None),
        (with_chunks(RGB, gama(0.45455), SRGB_CHRM), None),
        (with_chunks(RGB, SRGB_CHRM), None),
        (with_chunks(RGB, gama(0.45455), chrm(*WHITE, *P3_CHROMATICITIES)), make_profile(Curve(1 / 0.45455), P3)),
        (with_chunks(RGB, chrm(*WHITE, *P3_CHROMATICITIES)), P3_PROFILE),
        (with_chunks(RGB, chunk(b"sRGB", b"\0"), gama(1.0), chrm(*WHITE, *P3_CHROMATICITIES)), None),
        (saved(Image.fromarray(colors()), "PNG", icc_profile=P3_PROFILE), P3_PROFILE),
    ],
    ids=[
        "cICP of P3",
        "cICP of sRGB",
        "iCCP over unspecified cICP",
        "iCCP over half a cICP",
        "half a cICP",
        "gAMA over unspecified cICP",
        "cICP over iCCP",
        "cICP of gray",
        "cICP of gray, gamma 2.2",
        "gAMA 1",
        "gAMA 1 of gray",
        "gAMA as beside sRGB",
        "gAMA and cHRM of sRGB",
        "cHRM of sRGB",
        "gAMA and cHRM of P3",
        "cHRM of P3",
        "sRGB over gAMA",
        "iCCP",
    ],
)
def test_png(tmp_path, data, icc):
    image = read_image(written(tmp_path, data))
    assert image.icc == icc and image.notes == ()


def test_an_opened_png_has_the_colors_that_pillow_shows():
    data = with_chunks(RGB, gama(0.45455), chrm(*WHITE, *P3_CHROMATICITIES))
    image = Image.open(io.BytesIO(data))
    expected = make_profile(Curve(1 / 0.45455), P3)
    assert image_from(image).icc == expected
    assert image_from(image.resize((5, 5))).icc == expected  # the same numbers mean the same colors


@pytest.mark.parametrize(("transfer", "word"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused(tmp_path, transfer, word):
    path = written(tmp_path, with_chunks(RGB, cicp(9, transfer)))
    with pytest.raises(DkicError, match=rf"HDR \({word}\); convert it to 8-bit sRGB first") as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_hdr_in_a_profile_is_refused(tmp_path):
    """A cicp tag instead of the copyright tag."""
    tag = P3_PROFILE.index(b"cprt")
    offset = int.from_bytes(P3_PROFILE[tag + 4 : tag + 8], "big")
    content = b"cicp\0\0\0\0\x09\x10\0\x01"
    profile = P3_PROFILE[:tag] + b"cicp" + P3_PROFILE[tag + 4 : offset] + content + P3_PROFILE[offset + 12 :]
    with pytest.raises(DkicError, match=r"HDR \(PQ\)"):
        read_image(written(tmp_path, saved(Image.fromarray(colors()), "PNG", icc_profile=profile)))


@pytest.mark.parametrize("loaded", [False, True])
def test_color_descriptions_are_read_again_from_an_opened_file(tmp_path, loaded):
    """For chunks that Pillow does not expose."""
    path = written(tmp_path, with_chunks(RGB, cicp(12, 13)), "p3.png")
    for opened in (Image.open(path), *(() if loaded else (Image.open(io.BytesIO(path.read_bytes())),))):
        if loaded:
            opened.load()
        assert image_from(opened).icc == P3_PROFILE
    path = written(tmp_path, with_chunks(RGB, cicp(9, 16)), "pq.png")
    with pytest.raises(DkicError, match=r"the image: its colors are HDR \(PQ\)"):
        image_from(Image.open(path))
    damaged = bytearray(RGB)
    damaged[-16] ^= 1  # in the CRC of IDAT
    with pytest.raises(DkicError, match="the image: its IDAT chunk is damaged"):
        image_from(Image.open(io.BytesIO(bytes(damaged))))


def test_tiff_primaries(tmp_path):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[318], info[319] = WHITE, P3_CHROMATICITIES
    data = saved(Image.fromarray(colors()), "TIFF", tiffinfo=info)
    assert read_image(written(tmp_path, data)).icc == P3_PROFILE


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (with_chunks(RGB, chunk(b"gAMA", struct.pack(">I", 1))), "gAMA chunk says 1e-05"),
        (with_chunks(RGB, chrm(*WHITE, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5)), "were dropped: the primaries lie on a line"),
        (saved(Image.fromarray(colors()), "PNG", icc_profile=b"nonsense"), "ICC profile is damaged and was dropped"),
        (saved(Image.fromarray(colors()), "PNG", icc_profile=P3_PROFILE[:200]), "ICC profile is damaged and was dropped"),
        (saved(Image.fromarray(colors()[..., 0]), "PNG", icc_profile=P3_PROFILE), "is for RGB pixels, and these are GRAY"),
        (saved(Image.fromarray(colors()), "JPEG", icc_profile=GRAY_PROFILE), "for GRAY pixels, and these are RGB"),
        (saved(Image.fromarray(colors()), "JPEG", icc_profile=SRGB[:16] + b"CMYK" + SRGB[20:]), "is for CMYK pixels"),
    ],
    ids=["no gamma", "no primaries", "no profile", "cut off", "RGB for gray", "gray for RGB", "CMYK for RGB"],
)
def test_an_invalid_color_description_is_dropped_with_a_note(tmp_path, data, note):
    image = read_image(written(tmp_path, data))
    assert image.icc is None and len(image.notes) == 1 and note in image.notes[0]


def test_an_srgb_profile_on_gray_loses_nothing(tmp_path):
    data = saved(Image.fromarray(colors()[..., 0]), "JPEG", icc_profile=SRGB)
    image = read_image(written(tmp_path, data))
    assert image.icc is None and image.notes == ()


@pytest.mark.parametrize(
    ("space", "index", "is_adobe"), [(0xFFFF, "R03", True), (2, None, True), (1, "R98", False), (0xFFFF, None, False)]
)
def test_adobe_rgb_by_exif(tmp_path, space, index, is_adobe):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = space
    if index is not None:
        exif.get_ifd(0x8769)[0xA005] = {1: index}
    image = read_image(written(tmp_path, saved(Image.fromarray(colors()), "JPEG", exif=exif)))
    assert image.icc == (make_profile(ADOBE_RGB_CURVE, ADOBE_RGB_PRIMARIES) if is_adobe else None)


def test_the_profile_in_a_bmp(tmp_path):
    plain = saved(Image.fromarray(colors()), "BMP")
    start = struct.unpack_from("<I", plain, 10)[0]
    pixels, head = plain[start:], bytearray(124)
    head[:40] = struct.pack("<I", 124) + plain[18:54]
    head[56:60] = b"DEBM"
    struct.pack_into("<II", head, 112, 124 + len(pixels), len(P3_PROFILE))
    data = plain[:10] + struct.pack("<I", 14 + 124) + bytes(head) + pixels + P3_PROFILE
    image = read_image(written(tmp_path, data))
    assert image.icc == P3_PROFILE and np.array_equal(image.pixels, colors())


def avif_with_nclx(primaries: int, transfer: int) -> bytes:
    data = bytearray(saved(Image.fromarray(colors(40, 56)), "AVIF", quality=90))
    at = data.index(b"colrnclx") + 8
    data[at : at + 4] = struct.pack(">HH", primaries, transfer)
    return bytes(data)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif(tmp_path):
    assert read_image(written(tmp_path, avif_with_nclx(1, 13))).icc is None
    assert read_image(written(tmp_path, avif_with_nclx(1, 1))).icc is None
    assert read_image(written(tmp_path, avif_with_nclx(12, 13))).icc == P3_PROFILE
    with pytest.raises(DkicError, match=r"HDR \(PQ\)"):
        read_image(written(tmp_path, avif_with_nclx(9, 16)))
    data = saved(Image.fromarray(colors(40, 56)), "AVIF", quality=90, icc_profile=P3_PROFILE)
    assert read_image(written(tmp_path, data)).icc == P3_PROFILE
    for box, offset, value in ((b"pixi", 9, 10), (b"av1C", 6, 0x40)):
        deep = bytearray(avif_with_nclx(1, 13))
        deep[deep.index(box) + offset] |= value
        with pytest.raises(DkicError, match="more than 8 bits a channel"):
            read_image(written(tmp_path, bytes(deep)))
