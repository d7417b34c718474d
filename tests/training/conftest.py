"""Photographs for training tests."""

from pathlib import Path

import pytest
from photographs import crop
from PIL import Image


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Three photographs, larger than a crop of 64x64 and smaller than one of 128x128."""
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(3):
        Image.fromarray(crop(96, 100, top=100 * i)).save(folder / f"{i}.png")
    return folder
