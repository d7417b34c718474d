"""Interrupted runs, changed images and outdated measurements of `dkic compress --target-bpp`."""

import itertools
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import dkic
from photographs import crop
from PIL import Image
from rate_control.image_set_cases import best, columns, compress, rate, written
from rate_control.rate_control_cases import GAINS, POINTS, SIZES

import dkic as package
from dkic.coding.container import unpack
from dkic.rate_control import cached_meter
from dkic.rate_control import image_set as image_set_module
from dkic.rate_control.image_set import ImageSet
from dkic.rate_control.measurement_cache import MeasurementCache, image_key


def killed(call: str, at: int, *arguments: object) -> None:
    """A run of dkic that SIGKILL ends as it calls `call`, a dotted name, for that time."""
    owner, name = call.rsplit(".", 1)
    code = (
        "import itertools, os, pkgutil, signal\n"
        "from dkic import cli\n"
        f"owner = pkgutil.resolve_name({owner!r})\n"
        f"original, count = owner.{name}, itertools.count(1)\n"
        "def watched(*args, **options):\n"
        f"    if next(count) == {at}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(*args, **options)\n"
        f"owner.{name} = watched\n"
        "cli.main()\n"
    )
    assert subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True).returncode == -signal.SIGKILL


def test_a_killed_run_is_continued(model, images, table, tmp_path, decoded, cache):
    arguments = ["compress", images, "-o", tmp_path / "out", "--target-bpp", 9, "--distortion", "mse", "--model", model]
    killed("dkic.coding.codec.Codec.decompress", 5, *arguments)
    assert list((tmp_path / "out").iterdir()) == []
    result = dkic(*arguments)
    assert (result.status, result.err) == (0, "") and len(written(tmp_path / "out")) == 3
    lines = [(path.name, line) for path in cache.iterdir() for line in path.read_text().split("\n") if line]
    kept = {(name, *line.split(" ")[:2]) for name, line in lines}  # weights, image, distortion and qstep
    assert len(decoded) == len(lines) - 4 and len(kept) == len(lines) >= len(SIZES) * len(GAINS)  # none twice
    assert dkic(*arguments, "--force").status == 0
    assert len(decoded) == len(lines) - 4  # nothing again


def test_a_run_killed_while_writing_leaves_only_complete_files(model, images, tmp_path):
    """In the middle of what it codes, of files that it puts in place, and of such as are there."""
    out = tmp_path / "out"
    arguments = ["compress", images, "-o", out, "--target-bpp", 9, "--distortion", "mse", "--model", model]
    killed("dkic.rate_control.spool.Spool.put", 2, *arguments)
    assert list(out.iterdir()) == []
    killed("os.link", 2, *arguments)
    assert [path.name for path in out.glob("*.dkic")] == ["a.dkic"] and unpack((out / "a.dkic").read_bytes())
    killed("os.replace", 1, *arguments, "--force")
    assert dkic(*arguments, "--force").status == 0
    assert all(path.suffix == ".dkic" for path in out.iterdir())  # what the killed ones left is gone
    assert all(unpack(data) for data in written(out))


def test_a_changed_image_is_measured_again(model, images, tmp_path, decoded):
    folder = tmp_path / "copies"
    folder.mkdir()
    for name in SIZES:
        (folder / name).write_bytes((images / name).read_bytes())
    arguments = ["-o", tmp_path / "out", "--target-bpp", 9, "--distortion", "mse", "--force"]
    assert compress(model, folder, *arguments).status == 0
    Image.fromarray(crop(48, 64, left=0)).save(folder / "a.png")
    (folder / "b.png").rename(folder / "z.png")  # the same by another name
    del decoded[:]
    assert compress(model, folder, *arguments).status == 0
    headers = [unpack(data).header for data in decoded]
    assert {(header.width, header.height) for header in headers} == {(64, 48)} and len(headers) >= len(GAINS)


@pytest.mark.parametrize(("module", "at"), [(cached_meter, "read_image"), (image_set_module, "allocate"), (ImageSet, "_best")])
def test_an_image_that_changes_during_the_run_is_refused(model, images, tmp_path, monkeypatch, module, at):
    """As it is read, before qsteps are measured, or once all is: what is kept and written is of what is there."""
    path = Path(shutil.copy(images / "a.png", tmp_path / "d.png"))
    original = getattr(module, at)

    def changing(*args, **options):
        result = original(*args, **options)
        Image.fromarray(crop(20, 20)).save(path)
        return result

    arguments = (path, images / "b.png", "-o", tmp_path / "out", "--target-bpp", 9, "--distortion", "mse", "--force")
    with monkeypatch.context() as patched:
        patched.setattr(module, at, changing)
        result = compress(model, *arguments)
    assert result.status == 1 and f"dkic: {path}: the file changed during the run" in result.err
    assert not (tmp_path / "out" / "d.dkic").exists()
    assert compress(model, *arguments).status == 0
    header = unpack((tmp_path / "out" / "d.dkic").read_bytes()).header
    assert (header.width, header.height) == (20, 20)


def test_sizes_in_the_cache_are_verified(model, images, table, tmp_path, cache):
    """With cached sizes a third too small: the actual sizes decide."""
    pixels, size, distortion = table
    codec = package.load(model)
    target = rate(pixels, size, mean=False) / 3
    arguments = ["-o", tmp_path / "out", "--target-bpp", target, "--distortion", "mse", "--force"]
    assert compress(model, images, *arguments).status == 0
    for (quality, qstep), name in itertools.product(POINTS, SIZES):
        measured, key = MeasurementCache(cache, codec.model_hash(quality), "mse"), image_key(images / name)
        option = measured.get(key, qstep)
        assert option or qstep
        if option:
            measured.add(key, replace(option, bytes=option.bytes * 2 // 3), qstep)
    result = compress(model, images, *arguments)
    assert (result.status, result.err) == (0, "")
    sizes = [len(data) for data in written(tmp_path / "out")]
    assert rate(pixels, np.array(sizes), mean=False) <= target
    assert f"({sum(sizes):,} bytes in 3 files)" in result.out
    # Options that were never chosen are still taken for smaller than they are, and even so none of them would have been better.
    rows = np.arange(len(pixels))
    assert distortion[rows, columns(written(tmp_path / "out"))].sum() <= distortion[rows, best(table, target)].sum() * (1 + 1e-9)
