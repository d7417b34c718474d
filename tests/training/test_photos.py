"""Crops from a folder of photographs."""

import numpy as np
import pytest
import torch
from photographs import crop
from PIL import Image

from dkic.errors import DkicError
from dkic.training.photos import PhotoFolder


def save(pixels: np.ndarray, path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """Three good photographs, one of them in a folder below, one of just the crop's size."""
    save(crop(90, 120), tmp_path / "a.png")
    save(crop(64, 64, top=0), tmp_path / "b.bmp")
    save(crop(130, 80, left=500), tmp_path / "below" / "c.JPG")
    return tmp_path


def test_a_batch_is_crops(folder):
    photos = PhotoFolder(folder, 64)
    assert len(photos) == 3 and photos.skipped == {"too small": 0, "unreadable": 0}
    batch = photos.batch(5, seed=0, step=0)
    assert batch.shape == (5, 3, 64, 64) and batch.dtype == torch.float32
    assert batch.min() >= 0 and batch.max() <= 1 and batch.std() > 0.01
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_every_crop_is_a_piece_of_a_photograph_upright_mirrored_or_turned(tmp_path):
    original = crop(66, 66)
    save(original, tmp_path / "a.png")
    pieces = [original[top : top + 64, left : left + 64] for top in range(3) for left in range(3)]
    mirrored = [m for p in pieces for m in (p, p[:, ::-1])]
    possible = {p.tobytes() for m in mirrored for p in (m, m.transpose(1, 0, 2))}
    batch = PhotoFolder(tmp_path, 64).batch(60, seed=1, step=2).permute(0, 2, 3, 1).mul(255).round().to(torch.uint8).numpy()
    drawn = {picture.tobytes() for picture in batch}
    assert drawn <= possible and len(drawn) > 15


def test_seed_and_step_decide_the_batch(folder):
    photos = PhotoFolder(folder, 64)
    first = photos.batch(4, seed=3, step=10)
    photos.batch(4, seed=3, step=11)
    assert torch.equal(PhotoFolder(folder, 64).batch(4, seed=3, step=10), first)
    assert torch.equal(photos.batch(4, seed=3, step=10), first)
    assert not torch.equal(photos.batch(4, seed=3, step=11), first)
    assert not torch.equal(photos.batch(4, seed=4, step=10), first)


def test_a_cache_too_small_changes_nothing(folder):
    batches = [PhotoFolder(folder, 64, cache_bytes).batch(12, seed=0, step=0) for cache_bytes in (0, 30_000, 2**30)]
    assert torch.equal(batches[0], batches[1]) and torch.equal(batches[1], batches[2])


def spoil(folder) -> None:
    save(crop(63, 200), folder / "small.png")
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.jpg").touch()
    (folder / "odd.ppm").write_bytes(b"P6 x y")
    (folder / "folder.png").mkdir()
    (folder / "notes.txt").write_text("of no concern")


def test_small_and_broken_files_are_skipped_and_counted(folder):
    good = PhotoFolder(folder, 64).batch(6, seed=0, step=0)
    spoil(folder)
    photos = PhotoFolder(folder, 64)
    assert len(photos) == 3 and photos.skipped == {"too small": 1, "unreadable": 4}
    assert torch.equal(photos.batch(6, seed=0, step=0), good)


def test_what_proves_unreadable_when_it_is_drawn_is_skipped_too(folder):
    whole = folder / "a.png"
    (folder / "cut.png").write_bytes(whole.read_bytes()[:3000])
    transparent = Image.fromarray(crop(200, 200))
    transparent.putalpha(100)
    transparent.save(folder / "alpha.png")
    photos = PhotoFolder(folder, 64)
    batches = [photos.batch(4, seed=0, step=step) for step in range(12)]
    assert len(photos) == 3 and photos.skipped["unreadable"] == 2
    again = PhotoFolder(folder, 64)
    assert torch.equal(again.batch(4, seed=0, step=11), batches[11])  # whatever was drawn before


def test_a_folder_of_nothing_readable_is_an_error_with_the_reason(tmp_path):
    transparent = Image.fromarray(crop(100, 100))
    transparent.putalpha(100)
    transparent.save(tmp_path / "alpha.png")
    with pytest.raises(DkicError, match="none of its photographs can be read.*transparency"):
        PhotoFolder(tmp_path, 64).batch(1, 0, 0)


def test_a_folder_without_photographs_is_an_error_with_the_counts(tmp_path):
    with pytest.raises(DkicError, match="no photograph of at least 64x64"):
        PhotoFolder(tmp_path, 64)
    spoil(tmp_path)
    with pytest.raises(DkicError, match="'too small': 1, 'unreadable': 4"):
        PhotoFolder(tmp_path, 64)


def test_what_is_no_folder_is_an_error(folder):
    for path in (folder / "a.png", folder / "nowhere"):
        with pytest.raises(DkicError, match="not a folder"):
            PhotoFolder(path, 64)
