"""Figures: crops where images differ, with the codecs' pixels."""

import numpy as np
import pytest
from evaluation_cases import measurement
from photographs import crop
from PIL import Image

from dkic.errors import DkicError
from dkic.evaluation.figures import Crop, figure, find_crops, most_different_images, parse_crops
from dkic.evaluation.table import at_target


def test_crops_are_at_the_largest_errors():
    original = crop(200, 320)
    bad = original.copy()
    bad[130:170, 20:60] = 255 - bad[130:170, 20:60]
    bad[10:40, 250:280] = 255 - bad[10:40, 250:280]
    first, second = find_crops(original, [original, bad])
    for found, (top, bottom, left, right) in ((first, (130, 170, 20, 60)), (second, (10, 40, 250, 280))):
        assert (found.width, found.height) == (50, 50)
        assert found.left <= left + 12 and found.left + 50 >= right - 12
        assert found.top <= top + 12 and found.top + 50 >= bottom - 12


@pytest.mark.parametrize("size", [(1, 1), (3, 20), (30, 17)])
def test_small_images_have_crops_too(size):
    original = crop(*size)
    for found in find_crops(original, [255 - original]):
        assert found.of(original).shape[:2] == (found.height, found.width)


def test_the_tiles_hold_the_pixels_of_each_codec():
    original = crop(128, 192)
    crops = [Crop(10, 20, 64, 32), Crop(100, 60, 40, 40)]
    decoded = [(measurement(f"c{i}", bpp=0.1 * i, lpips=0.2), np.roll(original, 9 * i, axis=0)) for i in range(1, 5)]
    sheet = np.array(figure(original, crops, decoded))
    enlarged = [
        np.repeat(np.repeat(Crop.of(c, p), times, 0), times, 1)
        for p in (original, *(p for _, p in decoded))
        for c, times in zip(crops, (4, 6), strict=True)
    ]
    windows = {}
    for tile in enlarged:  # where it lies: unlike the others, and in full
        height, width = tile.shape[:2]
        places = np.argwhere((sheet[: sheet.shape[0] - height, : sheet.shape[1] - width] == tile[0, 0]).all(2))
        at = [(y, x) for y, x in places.tolist() if np.array_equal(sheet[y : y + height, x : x + width], tile)]
        assert len(at) == 1
        windows[at[0]] = tile
    assert len(windows) == 10
    yellow, green = ((sheet == np.array(color)).all(2).sum() for color in ((255, 212, 0), (32, 192, 32)))
    assert yellow > 5 * 2000 and green > 5 * 2000  # frames of five tiles, and the rectangles


def test_images_with_the_largest_differences_are_chosen():
    cells = [
        at_target([measurement(c, i, lpips=v) for i, v in zip("xyz", values, strict=True)], 1)
        for c, values in (("a", (0.1, 0.5, 0.3)), ("b", (0.2, 0.1, 0.25)))
    ]
    assert most_different_images(cells) == ["y", "x"]


def test_given_crops(tmp_path):
    images = {"a:b": tmp_path / "a:b.png"}
    Image.new("RGB", (40, 30)).save(images["a:b"])
    assert parse_crops(["a:b:1,2,8,9", "a:b:0,0,40,30"], images) == {"a:b": [Crop(1, 2, 8, 9), Crop(0, 0, 40, 30)]}
    for text, said in [
        ("a:b:1,2,8", "must be IMAGE:LEFT,TOP,WIDTH,HEIGHT"),
        ("a:b:1,2,8,x", "must be IMAGE:LEFT,TOP,WIDTH,HEIGHT"),
        ("c:1,2,8,8", "there is no image c; use a:b"),
        ("a:b:33,0,8,8", "inside the image of 40x30"),
        ("a:b:0,0,7,8", "at least 8x8"),
    ]:
        with pytest.raises(DkicError, match=said):
            parse_crops([text], images)
    with pytest.raises(DkicError, match="two crops"):
        parse_crops(["a:b:1,2,8,9"] * 3, images)
