"""`dkic compress --target-bpp` of several images: never above the target, with the least distortion within it."""

import re
import shutil

import numpy as np
import pytest
from photographs import crop
from PIL import Image
from rate_control.image_set_cases import QSTEP_0, best, columns, compress, facts, measured_at_least, rate, written
from rate_control.rate_control_cases import GAINS, POINTS, SIZES

import dkic as package
from dkic.coding import codec as codec_module
from dkic.coding.codec import Codec
from dkic.coding.container import unpack
from dkic.errors import FormatError
from dkic.evaluation.metrics import batch, lpips
from dkic.losses import lpips as lpips_module
from dkic.losses.lpips import LPIPS
from dkic.rate_control import image_set as image_set_module


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


def test_no_qsteps_uses_only_qualities(model, images, table, tmp_path, decoded):
    pixels, size, _ = table
    target = rate(pixels, size[:, sorted(QSTEP_0)].mean(axis=1), mean=False)
    options = ("--target-bpp", repr(target), "--distortion", "mse", "--no-qsteps")
    assert compress(model, images, "-o", tmp_path / "out", *options).status == 0
    assert columns(written(tmp_path / "out")) == list(best(table, target))
    assert compress(model, images / "c.png", "-o", tmp_path / "c.dkic", *options).status == 0
    assert len(decoded) == len(SIZES) * len(GAINS) and unpack((tmp_path / "c.dkic").read_bytes()).header.qstep == 0


def test_many_images_are_searched_near_the_allocated_points(model, images, table, tmp_path, monkeypatch, decoded):
    monkeypatch.setattr(image_set_module, "_FEW", 2)
    pixels, size, distortion = table
    target = rate(pixels, size[:, sorted(QSTEP_0)].mean(axis=1), mean=False)
    assert compress(model, images, "-o", tmp_path / "out", "--target-bpp", repr(target), "--distortion", "mse").status == 0
    choice, rows = columns(written(tmp_path / "out")), np.arange(3)
    beside = [QSTEP_0 | set(range(max(at - 1, 0), min(at + 2, len(POINTS)))) for at in choice]
    assert distortion[rows, choice].sum() == pytest.approx(distortion[rows, best(table, target, among=beside)].sum(), rel=1e-9)
    assert len(decoded) < 3 * 7


def test_a_qstep_that_fails_is_named(model, images, tmp_path, monkeypatch):
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
    low = max(rate(pixels, size[:, sorted(QSTEP_0)].min(axis=1), mean) for mean in (False, True))
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


def test_an_unreachable_target_is_refused(model, images, table, tmp_path):
    pixels, size, _ = table
    for mean in (False, True):
        down = [i for i, point in enumerate(POINTS) if point.qstep == 0 or (point.quality == 1 and point.qstep > 0)]
        least = rate(pixels, size[:, down].min(axis=1), mean)
        assert least < rate(pixels, size[:, sorted(QSTEP_0)].min(axis=1), mean)
        options = ["--mean"] if mean else []
        result = compress(model, images, "-o", tmp_path / "out", "--target-bpp", least * 0.999, "--distortion", "mse", *options)
        assert (result.status, result.out) == (1, "") and f"give at least {least:.12g}" in result.err
        assert len(result.err.splitlines()) == 1 and list((tmp_path / "out").iterdir()) == []


def test_existing_files_are_kept_without_force(model, images, tmp_path):
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


def test_an_image_too_small_for_lpips(model, images, tmp_path, alex):
    Image.fromarray(crop(30, 200)).save(tmp_path / "low.png")
    given = (images / "a.png", tmp_path / "low.png", "-o", tmp_path / "out", "--target-bpp", 9)
    result = compress(model, *given)
    assert result.status == 1 and (tmp_path / "out" / "a.dkic").is_file() and not (tmp_path / "out" / "low.dkic").exists()
    assert f"{tmp_path / 'low.png'}: LPIPS: is not defined for 200x30 pixels" in result.err and "--distortion mse" in result.err
    assert compress(model, *given, "--distortion", "mse", "--force").status == 0


def test_without_lpips(model, images, tmp_path, monkeypatch, alex):
    monkeypatch.setattr(lpips_module, "find_spec", lambda package: None)
    result = compress(model, images, "-o", tmp_path / "out", "--target-bpp", 9)
    assert (result.status, result.out) == (2, "") and len(result.err.splitlines()) == 1
    assert "pip install -e '.[train]'" in result.err and "or use --distortion mse" in result.err


def test_an_image_that_fails_while_files_are_written_is_named(model, images, tmp_path, monkeypatch):
    def wrong(*_: object) -> None:
        raise FormatError("image section: wrong")

    monkeypatch.setattr(codec_module, "decode_latent", wrong)
    monkeypatch.setattr(Codec, "decompress", lambda self, data, *_, **__: np.zeros((*SIZES["c.png"][:2], 3), np.uint8))
    given = (images / "c.png", shutil.copy(images / "c.png", tmp_path / "d.png"))
    result = compress(model, *given, "-o", tmp_path / "out", "--target-bpp", 9, "--distortion", "mse")
    assert (result.status, result.out) == (1, "") and len(result.err.splitlines()) == 1
    assert result.err.startswith(f"dkic: {images / 'c.png'}: verification failed: ")
    assert list((tmp_path / "out").iterdir()) == []
