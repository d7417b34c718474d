"""Images from PIL images, NumPy arrays and tensors: exact pixels, or a one-line error."""

import numpy as np
import pytest
import torch
from coding.image_files import SRGB, colors, saved, written
from PIL import Image

from dkic.coding.container import MAX_PIXELS
from dkic.coding.image_conversion import image_from
from dkic.coding.image_data import ImageData
from dkic.errors import DkicError


def test_image_from_takes_paths_and_images(tmp_path):
    path = written(tmp_path, saved(Image.fromarray(colors()), "PNG"))
    assert np.array_equal(image_from(path).pixels, colors())
    assert np.array_equal(image_from(str(path)).pixels, colors())
    image = ImageData(colors())
    assert image_from(image) is image


def test_image_from_pil():
    image = Image.fromarray(colors())
    image.info["icc_profile"] = SRGB
    result = image_from(image)
    assert np.array_equal(result.pixels, colors()) and result.icc == SRGB
    assert image_from(image.convert("L")).grayscale
    assert np.array_equal(image_from(image.convert("YCbCr")).pixels, image.convert("YCbCr").convert("RGB"))
    for mode, message in [
        ("RGBA", "transparency"),
        ("CMYK", "CMYK"),
        ("I", "8 bits"),
        ("F", "8 bits"),
        ("HSV", "HSV"),
    ]:
        with pytest.raises(DkicError, match=f"^the image: .*{message}"):
            image_from(Image.new(mode, (2, 2)))


def test_image_from_numpy():
    assert np.array_equal(image_from(colors()).pixels, colors())
    turned = image_from(colors()[::-1, ::-1])
    assert np.array_equal(turned.pixels, colors()[::-1, ::-1]) and turned.pixels.flags.c_contiguous
    for gray in (colors()[:, :, 0], colors()[:, :, :1]):
        image = image_from(gray)
        assert image.grayscale
        assert np.array_equal(image.pixels, np.repeat(colors()[:, :, :1], 3, axis=2))


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
        image_from(array)
    assert f"{array.dtype} {list(array.shape)}" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_image_from_torch(dtype):
    chw = torch.from_numpy(colors()).permute(2, 0, 1)
    x = chw if dtype == torch.uint8 else (chw.double() / 255).to(dtype)
    image = image_from(x)
    # bfloat16 keeps 8 bits of a number, so a pixel may move by 255 / 2**9.
    assert np.abs(image.pixels.astype(int) - colors()).max() <= (1 if dtype == torch.bfloat16 else 0)
    assert image.pixels.flags.c_contiguous and not image.grayscale
    gray = image_from(x[:1])
    assert gray.grayscale and np.array_equal(gray.pixels[:, :, 2], image.pixels[:, :, 0])


def test_image_from_torch_with_gradient_and_all_values():
    values = torch.arange(256).repeat(3, 1, 1)
    image = image_from((values / 255).requires_grad_())
    assert np.array_equal(image.pixels[0, :, 1], np.arange(256))
    halves = torch.tensor([[[0.0, 0.4, 0.6, 254.6]]]) / 255
    assert image_from(halves).pixels[0, :, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.full((3, 2, 2), 1.01), r"must be in \[0, 1\], not in \[1.01, 1.01\].*clamp"),
        (torch.full((3, 2, 2), -0.5), r"must be in \[0, 1\]"),
        (torch.full((3, 2, 2), float("nan")), r"must be in \[0, 1\]"),
        (torch.full((3, 2, 2), 255.0), r"must be in \[0, 1\], not in \[255, 255\]"),
        (torch.zeros(3, 2, 2, dtype=torch.int64), r"uint8 or floating point in \[0, 1\].* not torch.int64"),
        (torch.zeros(1, 3, 2, 2), r"without batch or alpha, not torch.float32 \[1, 3, 2, 2\]"),
        (torch.zeros(2, 2, 3), r"must be \[3, H, W\] or \[1, H, W\]"),
        (torch.zeros(4, 2, 2), r"without batch or alpha"),
        (torch.zeros(2, 2), r"must be \[3, H, W\]"),
        (torch.zeros(3, 0, 2), r"at least 1 x 1 pixels, not 2 x 0"),
        (torch.zeros(3, 1, 1, dtype=torch.uint8).expand(3, 2**15, 2**15), f"at most {MAX_PIXELS}"),
    ],
)
def test_other_torch_tensors_are_refused(tensor, message):
    with pytest.raises(DkicError, match=message):
        image_from(tensor)


@pytest.mark.parametrize("other", [None, 3, [[1, 2], [3, 4]], b"bytes"])
def test_other_objects_are_refused(other):
    with pytest.raises(DkicError, match=f"a torch tensor or ImageData, not {type(other).__name__}"):
        image_from(other)


def test_image_checks_its_pixels():
    for pixels in (np.zeros((2, 2), np.uint8), np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2, 3))):
        with pytest.raises(DkicError, match=r"must be uint8 \[H, W, 3\], not "):
            ImageData(pixels)
    with pytest.raises(DkicError, match="at least 1 x 1 pixels, not 0 x 2"):
        ImageData(np.zeros((2, 0, 3), np.uint8))
    with pytest.raises(DkicError, match=f"at most {MAX_PIXELS}"):
        ImageData(np.broadcast_to(np.uint8(0), (2**14 + 1, 2**14, 3)))
