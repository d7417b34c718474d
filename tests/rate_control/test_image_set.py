"""`dkic compress --target-bpp`: of the files' own bytes, never more than the target, and the best that there is within it."""

import itertools
import math
import re
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
from rate_control.rate_control_cases import LEVELS, POINTS, SIZES

import dkic as package
from dkic.coding import codec as codec_module
from dkic.coding.codec import Codec
from dkic.coding.color_profile import SRGB_PRIMARIES, Curve, make_profile
from dkic.coding.container import icc_section_bytes, unpack
from dkic.coding.operating_points import OperatingPoint
from dkic.errors import DkicError, FormatError
from dkic.evaluation.metrics import batch, lpips
from dkic.losses import lpips as lpips_module
from dkic.losses.lpips import LPIPS
from dkic.rate_control import cached_meter
from dkic.rate_control import image_set as image_set_module
from dkic.rate_control.image_set import ImageSet
from dkic.rate_control.measurement_cache import MeasurementCache, image_key

LEVEL_COLUMNS = {i for i, point in enumerate(POINTS) if point.qstep == 0}


def rate(pixels: np.ndarray, size: np.ndarray, mean: bool) -> float:
    return float((size * 8 / pixels).mean() if mean else size.sum() * 8 / pixels.sum())


def best(table, target: float, mean: bool = False, among: list[set[int]] | None = None) -> tuple[int, ...]:
    """Of all choices the one of least distortion within the target, by looking at each. among: columns; the levels' otherwise."""
    pixels, size, distortion = table
    rows = np.arange(len(pixels))
    choices = itertools.product(*(among or [LEVEL_COLUMNS] * len(pixels)))
    within = [choice for choice in choices if rate(pixels, size[rows, choice], mean) <= target]
    return min(within, key=lambda choice: distortion[rows, choice].sum())


def measured_at_least(choice: list[int]) -> list[set[int]]:
    """The columns that must have been measured where this is chosen."""
    return [LEVEL_COLUMNS | set(range(max(at - 3, 0), min(at + 4, len(POINTS)))) for at in choice]


def columns(files: list[bytes]) -> list[int]:
    headers = [unpack(data).header for data in files]
    return [POINTS.index((header.quality, header.qstep)) for header in headers]


def written(out) -> list[bytes]:
    assert sorted(path.name for path in out.iterdir()) == [name.replace("png", "dkic") for name in SIZES]
    return [path.read_bytes() for path in sorted(out.iterdir())]


def compress(model, *arguments: object):
    return dkic("compress", *arguments, "--model", model)


def facts(said: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in said.splitlines()[len(SIZES) :])


# Several images


@pytest.mark.parametrize("mean", [False, True])
def test_the_best_choice_within_the_target(model, images, table, tmp_path, decoded, mean):
    pixels, size, distortion = table
    low, high = (rate(pixels, each(size, axis=1), mean) for each in (np.min, np.max))
    rows = np.arange(len(pixels))
    chosen = set()
    for i, target in enumerate([low, *np.linspace(low, high, 6)[1:-1], high, 2 * high]):
        out = tmp_path / f"out{i}"
        result = compress(
            model, images, "-o", out, "--target-bpp", repr(target), "--distortion", "mse", *(["--mean"] if mean else [])
        )
        assert (result.status, result.err) == (0, "")
        files = written(out)
        reached = rate(pixels, np.array([len(data) for data in files]), mean)
        assert reached <= target * (1 + 1e-12)
        choice = columns(files)
        least = best(table, target * (1 + 1e-12), mean, measured_at_least(choice))
        assert distortion[rows, choice].sum() == pytest.approx(distortion[rows, least].sum(), rel=1e-9)
        assert [len(data) for data in files] == size[rows, choice].tolist()
        said = facts(result.out)
        unit = "bpp in the mean" if mean else "bpp over all pixels"
        total = sum(map(len, files))
        assert said["rate"] == f"{reached:.6g} of {target:.6g} {unit} ({total:,} bytes in 3 files)"
        assert said["mse"] == f"{distortion[rows, choice].mean():.6g} in the mean" and said["gap"].startswith("0 ")
        for line, name, data in zip(result.out.splitlines(), SIZES, files, strict=False):
            where = f"{images / name} -> {out / name.replace('png', 'dkic')}"
            header = unpack(data).header
            point = f"quality {header.quality}{f' qstep {header.qstep:+}' if header.qstep else ''}"
            cost = rf"{len(data)} bytes,( ICC profile \d+ bytes,)? [\d.]+ bpp"
            assert re.fullmatch(rf"{re.escape(where)}: {cost}, {re.escape(point)}", line)
        chosen.add(tuple(choice))
    assert len(chosen) >= 4  # targets that differ in what is best at them
    assert any(POINTS[column].qstep for choice in chosen for column in choice)
    assert len(decoded) == len(set(decoded)) < size.size  # each once for all of them, and not everything


def test_levels_alone(model, images, table, tmp_path, decoded):
    pixels, size, _ = table
    target = rate(pixels, size[:, sorted(LEVEL_COLUMNS)].mean(axis=1), mean=False)
    options = ("--target-bpp", repr(target), "--distortion", "mse", "--no-qsteps")
    assert compress(model, images, "-o", tmp_path / "out", *options).status == 0
    assert columns(written(tmp_path / "out")) == list(best(table, target))
    assert compress(model, images / "c.png", "-o", tmp_path / "c.dkic", *options).status == 0
    assert len(decoded) == len(SIZES) * len(LEVELS) and unpack((tmp_path / "c.dkic").read_bytes()).header.qstep == 0


def test_neighbours_do_for_many_images(model, images, table, tmp_path, monkeypatch, decoded):
    monkeypatch.setattr(image_set_module, "_FEW", 2)
    pixels, size, distortion = table
    target = rate(pixels, size[:, sorted(LEVEL_COLUMNS)].mean(axis=1), mean=False)
    assert compress(model, images, "-o", tmp_path / "out", "--target-bpp", repr(target), "--distortion", "mse").status == 0
    choice, rows = columns(written(tmp_path / "out")), np.arange(3)
    beside = [LEVEL_COLUMNS | set(range(max(at - 1, 0), min(at + 2, len(POINTS)))) for at in choice]
    assert distortion[rows, choice].sum() == pytest.approx(distortion[rows, best(table, target, among=beside)].sum(), rel=1e-9)
    assert len(decoded) < 3 * 7


def test_a_step_that_fails_is_named(model, images, tmp_path, monkeypatch):
    compress_one = Codec.compress

    def failing(self, image, quality=None, target_bpp=None, *, qstep=0, **options):
        if qstep:
            raise MemoryError
        return compress_one(self, image, quality, target_bpp, qstep=qstep, **options)

    monkeypatch.setattr(Codec, "compress", failing)
    result = compress(model, images, "-o", tmp_path / "out", "--target-bpp", 9, "--distortion", "mse")
    said = f"dkic: {images / 'a.png'}: not enough memory for this image"
    assert (result.status, result.out, result.err.strip()) == (1, "", said) and list((tmp_path / "out").iterdir()) == []


def test_total_and_mean_are_not_the_same(table):
    pixels, size, _ = table
    low = max(rate(pixels, size[:, sorted(LEVEL_COLUMNS)].min(axis=1), mean) for mean in (False, True))
    targets = np.linspace(low, 2 * low, 20)
    assert any(best(table, target) != best(table, target, mean=True) for target in targets)


def test_lpips_by_default(model, images, table, tmp_path, alex):
    codec, network = package.load(model), LPIPS("alex")
    pixels, size, _ = table
    distances = np.array(
        [
            [
                lpips(batch(x), batch(codec.decompress(codec.compress(x, r.quality, qstep=r.qstep), "numpy")), network).item()
                for r in POINTS
            ]
            for x in (crop(height, width, top=top) for height, width, top in SIZES.values())
        ]
    )
    target = rate(pixels, size, mean=False) / 3
    result = compress(model, images, "-o", tmp_path / "out", "--target-bpp", target)
    assert (result.status, result.err) == (0, "")
    choice = columns(written(tmp_path / "out"))
    least = best((pixels, size, distances), target, among=measured_at_least(choice))
    assert distances[np.arange(3), choice].sum() == pytest.approx(distances[np.arange(3), least].sum(), rel=1e-6)
    assert facts(result.out)["lpips"] == f"{distances[np.arange(3), choice].mean():.6g} in the mean"


def test_images_and_folders_together(model, images, tmp_path):
    (tmp_path / "below").mkdir()
    Image.fromarray(crop(20, 20)).save(tmp_path / "below" / "d.png")
    given = (tmp_path / "below", images / "b.png")
    result = compress(model, *given, "-o", tmp_path / "out", "--target-bpp", 9, "--distortion", "mse")
    assert (result.status, result.err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.dkic", "d.dkic"]
    assert compress(model, tmp_path / "below", "-o", tmp_path / "one", "--target-bpp", 9).status == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["d.dkic"]  # a folder, though it has one image


def test_a_target_out_of_reach(model, images, table, tmp_path):
    pixels, size, _ = table
    for mean in (False, True):
        down = [i for i, point in enumerate(POINTS) if point.qstep == 0 or (point.quality == 1 and point.qstep > 0)]
        least = rate(pixels, size[:, down].min(axis=1), mean)
        assert least < rate(pixels, size[:, sorted(LEVEL_COLUMNS)].min(axis=1), mean)
        options = ["--mean"] if mean else []
        result = compress(model, images, "-o", tmp_path / "out", "--target-bpp", least * 0.999, "--distortion", "mse", *options)
        assert (result.status, result.out) == (1, "") and f"the least reachable is {least:.12g}" in result.err
        assert len(result.err.splitlines()) == 1 and list((tmp_path / "out").iterdir()) == []


def test_what_is_there_stays_without_force(model, images, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.dkic").write_bytes(b"precious")
    arguments = (images, "-o", tmp_path / "out", "--target-bpp", 9, "--distortion", "mse")
    result = compress(model, *arguments)
    assert result.status == 1 and f"{tmp_path / 'out' / 'b.dkic'}: the file exists" in result.err
    assert (tmp_path / "out" / "b.dkic").read_bytes() == b"precious" and (tmp_path / "out" / "a.dkic").is_file()
    assert "9 bpp over all pixels" in result.out and "in 2 files" in result.out
    assert compress(model, *arguments, "--force").status == 0
    assert all(unpack(data) for data in written(tmp_path / "out"))


def test_images_that_fail_do_not_stop_the_others(model, images, tmp_path):
    (tmp_path / "text.png").write_text("this is text\n")
    given = (images, tmp_path / "text.png", tmp_path / "missing.png")
    result = compress(model, *given, "-o", tmp_path / "out", "--target-bpp", 9, "--distortion", "mse")
    assert result.status == 1 and len(written(tmp_path / "out")) == 3
    complaints = [line for line in result.err.splitlines() if line.startswith("dkic: ")]
    assert [line.split(": ")[1] for line in complaints] == [str(path) for path in given[1:]]
    result = compress(model, *given[1:], "-o", tmp_path / "none", "--target-bpp", 9, "--distortion", "mse")
    assert (result.status, result.out) == (1, "") and "Traceback" not in result.err


def test_a_image_too_small_for_lpips(model, images, tmp_path, alex):
    Image.fromarray(crop(30, 200)).save(tmp_path / "low.png")
    given = (images / "a.png", tmp_path / "low.png", "-o", tmp_path / "out", "--target-bpp", 9)
    result = compress(model, *given)
    assert result.status == 1 and (tmp_path / "out" / "a.dkic").is_file() and not (tmp_path / "out" / "low.dkic").exists()
    assert f"{tmp_path / 'low.png'}: LPIPS is not defined for 200x30 pixels" in result.err and "--distortion mse" in result.err
    assert compress(model, *given, "--distortion", "mse", "--force").status == 0


def test_without_lpips(model, images, tmp_path, monkeypatch, alex):
    monkeypatch.setattr(lpips_module, "find_spec", lambda package: None)
    result = compress(model, images, "-o", tmp_path / "out", "--target-bpp", 9)
    assert (result.status, result.out) == (2, "") and len(result.err.splitlines()) == 1
    assert "pip install -e '.[train]'" in result.err and "or take --distortion mse" in result.err


def test_what_fails_as_files_are_written_is_named(model, images, tmp_path, monkeypatch):
    def wrong(*_: object) -> None:
        raise FormatError("image section: wrong")

    monkeypatch.setattr(codec_module, "decode_latent", wrong)
    monkeypatch.setattr(Codec, "decompress", lambda self, data, *_, **__: np.zeros((*SIZES["c.png"][:2], 3), np.uint8))
    given = (images / "c.png", shutil.copy(images / "c.png", tmp_path / "d.png"))
    result = compress(model, *given, "-o", tmp_path / "out", "--target-bpp", 9, "--distortion", "mse")
    assert (result.status, result.out) == (1, "") and len(result.err.splitlines()) == 1
    assert result.err.startswith(f"dkic: {images / 'c.png'}: what was coded is not decoded again: image section: wrong")
    assert list((tmp_path / "out").iterdir()) == []


# What is measured is kept


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


def test_a_run_that_was_killed_goes_on(model, images, table, tmp_path, decoded, cache):
    arguments = ["compress", images, "-o", tmp_path / "out", "--target-bpp", 9, "--distortion", "mse", "--model", model]
    killed("dkic.coding.codec.Codec.decompress", 5, *arguments)
    assert list((tmp_path / "out").iterdir()) == []
    result = dkic(*arguments)
    assert (result.status, result.err) == (0, "") and len(written(tmp_path / "out")) == 3
    lines = [(path.name, line) for path in cache.iterdir() for line in path.read_text().split("\n") if line]
    kept = {(name, *line.split(" ")[:2]) for name, line in lines}  # weights, image, distortion and qstep
    assert len(decoded) == len(lines) - 4 and len(kept) == len(lines) >= len(SIZES) * len(LEVELS)  # none twice
    assert dkic(*arguments, "--force").status == 0
    assert len(decoded) == len(lines) - 4  # nothing again


def test_a_run_that_was_killed_as_it_wrote_leaves_whole_files_alone(model, images, tmp_path):
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


def test_a_image_that_changed_is_measured_anew(model, images, tmp_path, decoded):
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
    assert {(header.width, header.height) for header in headers} == {(64, 48)} and len(headers) >= len(LEVELS)


@pytest.mark.parametrize(("module", "at"), [(cached_meter, "read_image"), (image_set_module, "allocate"), (ImageSet, "_best")])
def test_a_image_that_changes_meanwhile_is_refused(model, images, tmp_path, monkeypatch, module, at):
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
    assert result.status == 1 and f"dkic: {path}: the file was changed meanwhile" in result.err
    assert not (tmp_path / "out" / "d.dkic").exists()
    assert compress(model, *arguments).status == 0
    header = unpack((tmp_path / "out" / "d.dkic").read_bytes()).header
    assert (header.width, header.height) == (20, 20)


def test_sizes_that_another_machine_measured_are_not_believed(model, images, table, tmp_path, cache):
    """As if all had taken a third less there: what they take here is what counts."""
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


# One image


def test_one_image_gets_a_level_and_a_step(model, images, tmp_path, decoded):
    codec, pixels = package.load(model), math.prod(SIZES["a.png"][:2])
    points = codec.points.all()
    sizes = {point: len(codec.compress(images / "a.png", point.quality, qstep=point.qstep)) for point in points}
    qsteps = set()
    for size in sorted(sizes.values()):
        target = size * 8 / pixels
        result = compress(model, images / "a.png", "-o", tmp_path / "a.dkic", "--target-bpp", repr(target), "--force")
        data = (tmp_path / "a.dkic").read_bytes()
        header = unpack(data).header
        assert (result.status, result.err) == (0, "") and len(data) * 8 / pixels <= target
        assert len(data) == sizes[header.quality, header.qstep]
        qstep = f" qstep {header.qstep:+}" if header.qstep else ""
        said = f"{len(data)} bytes, {len(data) * 8 / pixels:.3f} bpp, quality {header.quality}{qstep}, encoded and verified in "
        assert said in result.out
        info = dkic("info", tmp_path / "a.dkic").out
        assert f"quality {header.quality}, qstep {header.qstep:+}" in info if header.qstep else ", qstep" not in info
        qsteps.add(header.qstep)
    assert len(qsteps) > 2 and decoded == []  # nothing was measured
    least = min(sizes.values()) * 8 / pixels
    result = compress(model, images / "a.png", "-o", tmp_path / "b.dkic", "--target-bpp", least * 0.99)
    assert (result.status, result.out) == (1, "") and not (tmp_path / "b.dkic").exists()
    assert f"no quality level reaches {least * 0.99:g}" in result.err and "the lowest takes " in result.err


def test_levels_out_of_order(images, monkeypatch):
    """The golden files' second level takes less than the first."""
    codec = package.load(Path(__file__).parents[1] / "golden")
    points = [OperatingPoint(1, 0), OperatingPoint(2, 0)]
    monkeypatch.setattr(codec.points, "all", lambda: points)
    first, second = (len(codec.compress(images / "a.png", quality)) for quality in (1, 2))
    assert second < first
    assert len(codec.compress(images / "a.png", target_bpp=(first - 1) * 8 / 48 / 64)) == second
    with pytest.raises(DkicError, match=f"the lowest takes {second * 8 / 48 / 64:.6g} for"):
        codec.compress(images / "a.png", target_bpp=(second - 1) * 8 / 48 / 64)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--target-bpp", "0.3", "--quality", "1"], "give either --quality or --target-bpp"),
        (["--mean"], "--mean goes with --target-bpp"),
        (["--distortion", "mse"], "--distortion goes with --target-bpp"),
        (["--no-qsteps"], "--no-qsteps goes with --target-bpp"),
        (["--target-bpp", "0"], "--target-bpp"),
        (["--target-bpp", "low"], "--target-bpp"),
        (["--target-bpp", "nan"], "--target-bpp: it must be a finite number, not nan"),
        (["--target-bpp", "inf"], "--target-bpp: it must be a finite number, not inf"),
        (["--target-bpp", "0.3", "--distortion", "psnr"], "--distortion"),
    ],
)
def test_wrong_usage(model, images, tmp_path, options, said):
    result = compress(model, images / "a.png", "-o", tmp_path / "a.dkic", *options)
    assert (result.status, result.out) == (2, "") and said in result.err.splitlines()[-1]
    assert not (tmp_path / "a.dkic").exists()


def test_a_folder_without_images(model, tmp_path):
    result = compress(model, tmp_path, "-o", tmp_path / "out", "--target-bpp", 0.3)
    assert (result.status, result.out) == (2, "") and f"{tmp_path}: there are no images" in result.err


def test_icc_profiles_are_named_where_a_target_is_out_of_reach(model, images, tmp_path):
    profile, folder = make_profile(Curve(2.2), SRGB_PRIMARIES), tmp_path / "profiles"
    folder.mkdir()
    for path in images.iterdir():
        with Image.open(path) as image:
            image.save(folder / path.name, icc_profile=profile)
    arguments = (folder, "-o", tmp_path / "out", "--target-bpp", 0.001, "--distortion", "mse")
    result = compress(model, *arguments)
    count, size = len(SIZES), icc_section_bytes(profile)
    assert result.status == 1
    assert f"; ICC profiles of {count} images take {count * size:,} bytes, which --icc drop leaves out" in result.err
    assert "ICC" not in compress(model, *arguments, "--icc", "drop").err
    kept = compress(model, folder, "-o", tmp_path / "kept", "--target-bpp", 9, "--distortion", "mse", "--no-qsteps")
    assert kept.out.count(f" bytes, ICC profile {size} bytes, ") == count
    dropped = compress(
        model, folder, "-o", tmp_path / "dropped", "--target-bpp", 9, "--distortion", "mse", "--no-qsteps", "--icc", "drop"
    )
    assert dropped.status == 0 and "ICC" not in dropped.out
    for path in (tmp_path / "kept").iterdir():
        assert unpack(path.read_bytes()).icc == profile
        assert unpack((tmp_path / "dropped" / path.name).read_bytes()).icc is None


def test_transparency_onto_a_background(model, images, tmp_path):
    with Image.open(images / "a.png") as image:
        image.putalpha(100)
        image.save(tmp_path / "clear.png")
    arguments = (images / "b.png", tmp_path / "clear.png", "-o", tmp_path / "out", "--target-bpp", 9, "--distortion", "mse")
    result = compress(model, *arguments)
    assert result.status == 1 and "clear.png: it has transparency; give the color behind it" in result.err
    assert compress(model, *arguments, "--background", "white", "--force").status == 0
    assert (tmp_path / "out" / "clear.dkic").is_file()
