"""ICC profiles that dkic creates and recognizes, compared with Little CMS."""

import io

import numpy as np
import pytest
from coding.image_files import SRGB, colors
from PIL import Image, ImageCms, features

from dkic.coding.cicp import Cicp
from dkic.coding.color_profile import (
    ADOBE_RGB_CURVE,
    ADOBE_RGB_PRIMARIES,
    SRGB_CURVE,
    SRGB_PRIMARIES,
    Curve,
    Primaries,
    color_space,
    is_srgb,
    make_profile,
)

DISPLAY_P3 = Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
# Linear light of one space to linear sRGB, as Color.js and CSS Color 4 (section 17) have them.
P3_TO_SRGB = np.array([[1.2249402, -0.2249402, 0.0], [-0.0420569, 1.0420569, 0.0], [-0.0196376, -0.0786361, 1.0982735]])
ADOBE_TO_SRGB = np.array([[1.3983557, -0.3983557, 0.0], [0.0, 1.0, 0.0], [0.0, -0.0429290, 1.0429290]])


def to_srgb(profile: bytes, pixels: np.ndarray, mode: str = "RGB") -> np.ndarray:
    own, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(own, srgb, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
    return np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), transform)).astype(int)


def srgb_encoded(linear: np.ndarray) -> np.ndarray:
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def srgb_decoded(pixels: np.ndarray) -> np.ndarray:
    v = pixels / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize(
    ("curve", "primaries", "decoded", "matrix"),
    [
        (SRGB_CURVE, DISPLAY_P3, srgb_decoded, P3_TO_SRGB),
        (ADOBE_RGB_CURVE, ADOBE_RGB_PRIMARIES, lambda v: (v / 255) ** (563 / 256), ADOBE_TO_SRGB),
        (Curve(1.0), SRGB_PRIMARIES, lambda v: v / 255, np.eye(3)),
    ],
    ids=["Display P3", "Adobe RGB", "linear"],
)
def test_a_profile_has_the_given_primaries_and_curve(curve, primaries, decoded, matrix):
    pixels = colors(40, 40)
    expected = srgb_encoded(decoded(pixels) @ matrix.T)
    profile = make_profile(curve, primaries)
    inside = ((expected > 1) & (expected < 254)).all(axis=2)  # elsewhere colors are clipped
    assert inside.sum() > 100
    assert np.abs(to_srgb(profile, pixels) - expected)[inside].max() <= 2
    assert color_space(profile) == "RGB" and len(profile) <= 530


def test_a_gray_profile_has_the_given_curve():
    gray = np.arange(256, dtype=np.uint8)[None]
    profile = make_profile(Curve(1.8), None)
    expected = srgb_encoded((gray / 255) ** 1.8)
    assert np.abs(to_srgb(profile, gray, "L")[..., 1] - expected).max() <= 2
    assert color_space(profile) == "GRAY"


def test_profiles_recognized_as_srgb():
    assert is_srgb(SRGB, grayscale=False)
    assert is_srgb(make_profile(SRGB_CURVE, SRGB_PRIMARIES), grayscale=False)
    assert is_srgb(make_profile(SRGB_CURVE, None), grayscale=True)


@pytest.mark.parametrize(
    ("profile", "grayscale"),
    [
        (make_profile(SRGB_CURVE, DISPLAY_P3), False),
        (make_profile(Curve(2.2), SRGB_PRIMARIES), False),
        (make_profile(Curve(2.2), None), True),
        (make_profile(SRGB_CURVE, None), False),
        (SRGB, True),
        (SRGB[:200], False),
        (b"no profile", False),
        (SRGB[:16] + b"CMYK" + SRGB[20:], False),
    ],
)
def test_profiles_not_recognized_as_srgb(profile, grayscale):
    assert not is_srgb(profile, grayscale)


def test_without_little_cms_no_profile_is_recognized_as_srgb(monkeypatch):
    monkeypatch.setattr(features, "check", lambda feature: False)
    assert not is_srgb(SRGB + b"another key for the cache", grayscale=False)


@pytest.mark.parametrize(
    "primaries",
    [
        Primaries((0.3, 0.3), (0.4, 0.4), (0.5, 0.5)),
        Primaries((0.64, 0.0), (0.3, 0.6), (0.15, 0.06)),
        Primaries((0.64, 0.33), (0.3, 0.6), (0.15, 0.06), (0.3, -0.3)),
    ],
)
def test_primaries_without_a_color_space(primaries):
    with pytest.raises(ValueError, match="on a line|out of range"):
        make_profile(SRGB_CURVE, primaries)


def test_cicp():
    assert Cicp(1, 13).profile(grayscale=False) is None
    assert Cicp(2, 2).profile(grayscale=False) is None
    assert Cicp(12, 13).profile(grayscale=True) is None
    assert Cicp(12, 13).profile(grayscale=False) == make_profile(SRGB_CURVE, DISPLAY_P3)
    assert Cicp(1, 8).profile(grayscale=True) == make_profile(Curve(1.0), None)
    for transfer, word in ((16, "PQ"), (18, "HLG")):
        with pytest.raises(ValueError, match=rf"HDR \({word}\)"):
            Cicp(9, transfer).profile(grayscale=False)
    for other in (Cicp(3, 13), Cicp(1, 99), Cicp(1, 13, matrix=1), Cicp(1, 13, full_range=False)):
        with pytest.raises(ValueError, match=r"its color description \(cICP \d+/\d+/\d/\d\)"):
            other.profile(grayscale=False)
