"""Crops of photographs: distribution, reproducibility, folder layouts, and unusable files."""

import numpy as np
import pytest
import torch
from photographs import crop
from PIL import Image

from dkic.errors import DkicError
from dkic.training.batches import Batches, pixels_of
from dkic.training.photos import PhotoFolder


def save(pixels: np.ndarray, path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """Three valid photographs, one of them in a subfolder, one of exactly the crop's size."""
    save(crop(90, 120), tmp_path / "a.png")
    save(crop(64, 64, top=0), tmp_path / "b.bmp")
    save(crop(130, 80, left=500), tmp_path / "below" / "c.JPG")
    return tmp_path


def batch(photos: PhotoFolder, size: int, seed: int, step: int) -> torch.Tensor:
    return photos.crops(seed, step, range(size)).pixels


def test_a_batch_is_crops(folder):
    photos = PhotoFolder(folder, 64)
    assert len(photos) == 3 and photos.too_small == 0 and photos.broken == []
    crops = photos.crops(0, 0, range(5))
    assert crops.pixels.shape == (5, 64, 64, 3) and crops.pixels.dtype == torch.uint8 and crops.unreadable == {}
    assert len(crops.files) == 5 and set(crops.files) <= {str(path) for path in photos.paths}
    x = pixels_of(crops, torch.device("cpu"))
    assert x.shape == (5, 3, 64, 64) and x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
    assert x.min() >= 0 and x.max() <= 1 and x.std() > 0.01
    assert torch.equal(x.mul(255).round().permute(0, 2, 3, 1), crops.pixels.float())


def test_every_crop_is_a_mirrored_or_rotated_part_of_a_photograph(tmp_path):
    original = crop(66, 66)
    save(original, tmp_path / "a.png")
    pieces = [original[top : top + 64, left : left + 64] for top in range(3) for left in range(3)]
    mirrored = [m for p in pieces for m in (p, p[:, ::-1])]
    possible = {p.tobytes() for m in mirrored for p in (m, m.transpose(1, 0, 2))}
    drawn = {image.tobytes() for image in batch(PhotoFolder(tmp_path, 64), 60, 1, 2).numpy()}
    assert drawn <= possible and len(drawn) > 15


def test_scales_are_between_least_scale_and_1(tmp_path):
    """The slope of a ramp in a crop gives its scale; a small photograph is not scaled below the crop's size."""
    for side, least in ((256, 0.5), (80, 0.8)):
        folder = tmp_path / str(side)
        ramp = np.broadcast_to(np.arange(side, dtype=np.uint8)[:, None], (side, side))
        save(np.stack([ramp, ramp.T, ramp], axis=2), folder / "a.png")
        crops = batch(PhotoFolder(folder, 64, least_scale=0.5), 100, 0, 0).numpy()
        slopes = [abs(np.diff(crop[4:60, 4:60, 0].astype(float), axis=axis).mean()) for crop in crops for axis in (0, 1)]
        scales = [1 / slope for slope in slopes if slope > 0.5]
        assert len(scales) == 100 and least - 0.02 <= min(scales) < least + 0.05 and 0.95 < max(scales) < 1.02


@pytest.mark.parametrize("least", [1.0, 0.5])
def test_a_crop_depends_on_seed_step_and_number(folder, least):
    photos = PhotoFolder(folder, 64, least_scale=least)
    first = batch(photos, 4, 3, 10)
    batch(photos, 4, 3, 11)
    assert torch.equal(batch(PhotoFolder(folder, 64, least_scale=least), 4, 3, 10), first)
    assert torch.equal(batch(photos, 4, 3, 10), first)
    assert torch.equal(photos.crops(3, 10, range(2, 4)).pixels, first[2:])  # whichever worker creates the others
    assert not torch.equal(batch(photos, 4, 3, 11), first)
    assert not torch.equal(batch(photos, 4, 4, 10), first)
    assert not torch.equal(first[0], first[1])


def test_photographs_are_drawn_in_proportion_to_their_area(tmp_path):
    save(crop(64, 64), tmp_path / "a.png")
    save(crop(192, 192), tmp_path / "b.png")
    files = PhotoFolder(tmp_path, 64).crops(0, 0, range(300)).files
    assert files.count(str(tmp_path / "a.png")) / 300 == pytest.approx(0.1, abs=0.05)


def test_the_size_of_the_cache_changes_nothing(folder):
    batches = [batch(PhotoFolder(folder, 64, cache_bytes), 12, 0, 0) for cache_bytes in (0, 30_000, 2**30)]
    assert torch.equal(batches[0], batches[1]) and torch.equal(batches[1], batches[2])


# Layouts


@pytest.mark.parametrize("below", [".", "train", "ILSVRC/Data/CLS-LOC/train"])
def test_imagenet_contributes_its_training_images(tmp_path, below):
    wanted = [f"{synset}/{synset}_{i}.JPEG" for synset in ("n01440764", "n15075141") for i in range(4)]
    for name in wanted:
        save(crop(70, 70), tmp_path / below / name)
    save(crop(70, 70), tmp_path / below / ".." / "val" / "n01440764" / "ILSVRC2012_val_00000293.JPEG")
    save(crop(70, 70), tmp_path / below / ".." / "test" / "ILSVRC2012_test_00000001.JPEG")
    photos = PhotoFolder(tmp_path, 64)
    assert {path.relative_to(tmp_path / below).as_posix() for path in photos.paths} == set(wanted)
    some = PhotoFolder(tmp_path, 64, imagenet_photos=3)
    assert len(some) == 3 and some.paths == photos.paths[:3] == PhotoFolder(tmp_path, 64, imagenet_photos=3).paths
    assert some.paths != sorted(photos.paths)[:3]  # not of one class
    assert some.fingerprint != photos.fingerprint


def test_several_folders_are_joined_and_only_imagenet_is_limited(folder, tmp_path_factory):
    """As in the paper: all of Flicker2W, which is one folder of images, and a part of ImageNet."""
    imagenet = tmp_path_factory.mktemp("imagenet")
    for i in range(3):
        save(crop(70 if i else 50, 70), imagenet / "train" / "n01440764" / f"{i}.JPEG")
    photos = PhotoFolder([folder, imagenet], 64, imagenet_photos=1)
    assert len(photos) == 4 and sum(path.is_relative_to(imagenet) for path in photos.paths) == 1


# Unusable files


def spoil(folder) -> None:
    save(crop(63, 200), folder / "small.png")
    (folder / "text.png").write_text("not an image")
    (folder / "empty.jpg").touch()
    (folder / "odd.ppm").write_bytes(b"P6 x y")
    (folder / "folder.png").mkdir()
    (folder / "notes.txt").write_text("of no concern")
    (folder / "._a.png").write_text("neither")


BROKEN = ("empty.jpg", "odd.ppm", "text.png")


def test_small_and_broken_files_are_skipped_and_counted(folder):
    good = batch(PhotoFolder(folder, 64), 6, 0, 0)
    spoil(folder)
    photos = PhotoFolder(folder, 64)
    assert len(photos) == 3 and photos.too_small == 1 and photos.broken == [folder / name for name in BROKEN]
    assert photos.others == 1  # notes.txt
    assert torch.equal(batch(photos, 6, 0, 0), good)


@pytest.fixture
def with_undecodable(folder):
    """The folder with two more photographs, which have valid headers but can't be decoded."""
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:3000])
    transparent = Image.fromarray(crop(200, 200))
    transparent.putalpha(100)
    transparent.save(folder / "alpha.png")
    return folder


def test_a_photograph_that_fails_when_drawn_is_skipped(with_undecodable):
    photos = PhotoFolder(with_undecodable, 64)
    crops = [photos.crops(0, step, range(4)) for step in range(12)]
    skipped = [path for c in crops for path in c.unreadable]
    assert len(photos) == 3 and sorted(skipped) == [str(with_undecodable / name) for name in ("alpha.png", "cut.png")]
    again = PhotoFolder(with_undecodable, 64)
    assert torch.equal(batch(again, 4, 0, 11), crops[11].pixels)  # independent of earlier draws


def test_a_folder_without_readable_files_is_refused_with_the_reason(tmp_path):
    transparent = Image.fromarray(crop(100, 100))
    transparent.putalpha(100)
    transparent.save(tmp_path / "alpha.png")
    for workers in (0, 1):
        with pytest.raises(DkicError, match="^[^\n]*none of its photographs can be read.*transparency[^\n]*$"):
            Batches(PhotoFolder(tmp_path, 64), 0, [range(1)], workers).of(0)


def test_a_folder_without_photographs_is_an_error_with_the_counts(tmp_path):
    with pytest.raises(DkicError, match="no photograph of at least 64x64"):
        PhotoFolder(tmp_path, 64)
    spoil(tmp_path)
    with pytest.raises(DkicError, match="1 too small, 3 unreadable"):
        PhotoFolder(tmp_path, 64)


def test_a_path_that_is_not_a_folder_is_refused(folder):
    for path in (folder / "a.png", folder / "nowhere"):
        with pytest.raises(DkicError, match="no such folder"):
            PhotoFolder(path, 64)


# Batches


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_crops_do_not_depend_on_workers_or_the_first_step(with_undecodable, workers):
    warnings: list[str] = []
    batches = Batches(PhotoFolder(with_undecodable, 64), 5, [range(0, 2), range(4, 6)], workers, warn=warnings.append)
    photos = PhotoFolder(with_undecodable, 64)
    for step in (0, 1, 2, 7, 8, 3, 4, 5, 6, 7, 8, 9):
        for got, which in zip(batches.of(step), (range(0, 2), range(4, 6)), strict=True):
            expected = photos.crops(5, step, which)
            assert torch.equal(got.pixels, expected.pixels) and got.files == expected.files
    assert batches.unreadable == {str(with_undecodable / "alpha.png"), str(with_undecodable / "cut.png")}
    assert len(warnings) == 2  # one per photograph, not per worker
    assert "alpha.png: " in "".join(warnings) and "cut.png: " in "".join(warnings)


def test_linked_folders_are_searched_once(folder, tmp_path_factory):
    linking = tmp_path_factory.mktemp("linking")
    (linking / "link").symlink_to(folder)
    (folder / "loop").symlink_to(linking)
    photos = PhotoFolder(linking, 64)
    assert [path.relative_to(linking).as_posix() for path in photos.paths] == ["link/a.png", "link/b.bmp", "link/below/c.JPG"]
