"""`dkic demo` in a new process, and the figures that it prints."""

import re
import subprocess

import numpy as np
import pytest
from command_line import dkic
from photographs import photograph

from dkic import demo
from dkic.coding.image_reading import read_image
from dkic.evaluation.metrics import batch, psnr


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "made" / "here"
    result = dkic("demo", "-o", out)
    assert (result.status, result.err) == (0, "")
    return out, result.out


def test_demo_writes_three_files(done):
    out, _ = done
    assert sorted(path.name for path in out.iterdir()) == ["decoded.png", "photo.dkic", "side-by-side.png"]


def test_printed_figures_are_those_of_the_files(done):
    out, said = done
    size = (out / "photo.dkic").stat().st_size
    decoded = read_image(out / "decoded.png").pixels
    assert len(re.findall(r"(encoded and verified|decoded) in \d+\.\d\d s", said)) == 2
    x, x_hat = batch(photograph()), batch(decoded)
    figures = f"PSNR {psnr(x, x_hat).item():.2f} dB"
    assert f"{size} bytes, {size * 8 / 768 / 512:.3f} bits per pixel, {figures}" in said
    assert all(str(out / name) in said for name in ("photo.dkic", "decoded.png", "side-by-side.png"))


def test_the_pair_holds_both_images(done):
    out, _ = done
    pair, decoded = (read_image(out / name).pixels for name in ("side-by-side.png", "decoded.png"))
    assert pair.shape == (512, 1536, 3)
    below = slice(40, None)  # the captions
    assert np.array_equal(pair[below, :768], photograph()[below])
    assert np.array_equal(pair[below, 768:], decoded[below])
    assert not np.array_equal(pair[:40, :768], photograph()[:40])


def test_an_unusable_folder_is_a_one_line_error(tmp_path):
    (tmp_path / "file").touch()
    result = dkic("demo", "-o", tmp_path / "file")
    assert (result.status, result.out) == (1, "")
    assert result.err == f"dkic: {tmp_path / 'file'}: the folder can't be made (File exists)\n"


def test_an_unwritable_file_is_a_one_line_error(done, tmp_path, monkeypatch):
    in_the_way = tmp_path / "photo.dkic" / "photo.dkic"
    in_the_way.mkdir(parents=True)
    result = dkic("demo", "-o", tmp_path)
    assert result.status == 1 and len(result.err.splitlines()) == 1
    assert result.err.startswith(f"dkic: `dkic compress` failed: dkic: {in_the_way}: ")
    # And at the end, with what the two processes wrote.
    out, _ = done
    monkeypatch.setattr(demo.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "", ""))
    in_the_way.rmdir()
    (tmp_path / "photo.dkic").rmdir()
    for name in ("photo.dkic", "decoded.png"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    (tmp_path / "side-by-side.png").mkdir()
    result = dkic("demo", "-o", tmp_path)
    assert result.status == 1
    assert result.err == f"dkic: {tmp_path / 'side-by-side.png'}: this is a directory; give the name of a file\n"
