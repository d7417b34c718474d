"""`dkic measure`: rate and distortion of images at every quality, as input of `dkic allocate`."""

import csv
import re
import sys

import pytest
from awkward_names import AWKWARD
from command_line import dkic
from photographs import crop
from PIL import Image
from pyarrow import parquet
from rate_control.rate_control_cases import GAINS, POINTS, SIZES
from standard_streams import stdin  # noqa: F401 (a fixture)

from dkic.allocation.table import read_table
from dkic.coding.container import unpack


def measure(model, *arguments: object):
    return dkic("measure", *arguments, "--model", model, "--distortion", "mse")


def rows_of(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_image_and_quality(model, images, table, tmp_path):
    out = tmp_path / "t.csv"
    result = measure(model, images, "-o", out)
    assert (result.status, result.err, result.out) == (0, "", f"{out}: 9 rows, 3 images at quality 1, 2, 5\n")
    pixels, size, distortion = table
    expected = [
        (str(images / name), quality, size[i, j], pixels[i], distortion[i, j])
        for i, name in enumerate(SIZES)
        for quality, j in ((quality, POINTS.index((quality, 0))) for quality in GAINS)
    ]
    assert [list(row) for row in rows_of(out)] == [["image", "quality", "bytes", "pixels", "mse"]] * 9
    found = [(image, int(q), int(b), int(p), float(d)) for image, q, b, p, d in map(dict.values, rows_of(out))]
    assert found == expected
    assert measure(model, images, "-o", tmp_path / "t.parquet").status == 0
    assert list(map(tuple, map(dict.values, parquet.read_table(tmp_path / "t.parquet").to_pylist()))) == expected


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_allocate_and_compress_use_the_measurements(model, images, tmp_path, decoded, suffix):
    out = tmp_path / f"t.{suffix}"
    assert measure(model, images, "-o", out).status == 0
    del decoded[:]
    plan = dkic("allocate", out, "--target-bpp", 1.5, "--distortion", "mse", "--gap", 0, "-o", tmp_path / "plan.csv")
    together = ("--target-bpp", 1.5, "--distortion", "mse", "--model", model)
    written = dkic("compress", images, "-o", tmp_path / "out", *together)
    assert plan.status == written.status == 0
    assert decoded and all(unpack(data).header.qstep for data in decoded)  # qsteps other than 0; none of these again
    by_qualities = [float(row["mse"]) for row in rows_of(tmp_path / "plan.csv")]
    found = re.search(r"^mse: (.*) in the mean$", written.out, re.MULTILINE)
    assert found and float(found[1]) <= sum(by_qualities) / len(by_qualities) * (1 + 1e-5)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_any_file_name_is_preserved_from_measure_to_compress(model, tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    for name in AWKWARD:
        Image.fromarray(crop(8, 8)).save(tmp_path / name)
    result = measure(model, ".", "-o", f"t.{suffix}")
    assert (result.status, result.err) == (0, "") and len(result.out.splitlines()) == 1
    assert dkic("allocate", f"t.{suffix}", "--total-bytes", 1e9, "--distortion", "mse", "-o", "plan.csv").status == 0
    images = read_table(tmp_path / "plan.csv", "mse", need_pixels=False).images
    assert sorted(images) == sorted(AWKWARD)
    for arguments in ((), ("-t", 50, "--distortion", "mse", "--force")):
        result = dkic("compress", "--model", model, *arguments, "--", *images)
        assert (result.status, result.err) == (0, "")
        assert len([line for line in result.out.splitlines() if " -> " in line]) == len(AWKWARD)
    assert sorted(path.stem for path in tmp_path.glob("*.dkic")) == sorted(name.removesuffix(".png") for name in AWKWARD)


def test_a_table_passes_through_standard_streams(model, images, tmp_path, stdin, capfdbinary):  # noqa: F811
    assert measure(model, images, "-o", tmp_path / "t.csv").status == 0
    capfdbinary.readouterr()
    result = measure(model, images, "-o", "-")
    assert (result.status, result.out) == (0, "") and result.err == "/dev/stdout: 9 rows, 3 images at quality 1, 2, 5\n"
    table = capfdbinary.readouterr().out
    assert table == (tmp_path / "t.csv").read_bytes()
    budget = ("-t", 1.5, "--distortion", "mse")
    assert dkic("allocate", tmp_path / "t.csv", *budget, "-o", tmp_path / "plan.csv").status == 0
    stdin(table)
    result = dkic("allocate", "-", *budget, "-o", "-")
    assert (result.status, result.out) == (0, "") and result.err.endswith("plan: /dev/stdout\n")
    assert capfdbinary.readouterr().out == (tmp_path / "plan.csv").read_bytes()


def test_a_stream_is_not_measured(model, images, tmp_path, stdin):  # noqa: F811
    stdin((images / "a.png").read_bytes())
    result = measure(model, "-", "-o", tmp_path / "t.csv")
    assert result.status == 1 and "/dev/stdin: a stream can be read only once" in result.err and not (tmp_path / "t.csv").exists()


def test_lpips_by_default(model, images, tmp_path, alex):
    assert dkic("measure", images / "a.png", "-o", tmp_path / "t.csv", "--model", model).status == 0
    assert [0 < float(row["lpips"]) < 2 for row in rows_of(tmp_path / "t.csv")] == [True] * 3


def test_images_that_fail_do_not_stop_the_others(model, images, tmp_path):
    (tmp_path / "text.png").write_text("this is text\n")
    given = (tmp_path / "text.png", images, images / "a.png", tmp_path / "missing.png")  # one is there twice
    result = measure(model, *given, "-o", tmp_path / "t.csv")
    assert result.status == 1 and len(rows_of(tmp_path / "t.csv")) == 9
    complaints = [line for line in result.err.splitlines() if line.startswith("dkic: ")]
    assert [line.split(": ")[1] for line in complaints] == [str(tmp_path / "text.png"), str(tmp_path / "missing.png")]
    result = measure(model, tmp_path / "text.png", "-o", tmp_path / "none.csv")
    assert (result.status, result.out) == (1, "") and not (tmp_path / "none.csv").exists()


def test_a_gpu_is_refused_on_a_cluster(model, images, tmp_path):
    result = measure(model, images, "-o", tmp_path / "t.csv", "--ray", "auto", "--device", "cuda")
    assert result.status == 2 and "--ray: a cluster measures on CPUs" in result.err


def test_outputs_that_are_refused(model, images, tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("precious")
    image = tmp_path / "image.csv"
    Image.fromarray(crop(20, 20)).save(image, "PNG")
    for given, out, said in (
        (images, tmp_path / "t.csv", "t.csv: the file exists; overwrite it with --force"),
        (images, tmp_path / "t.txt", "t.txt: the name of a table must end in .csv or .parquet"),
        (images, tmp_path / "no" / "t.csv", "does not exist; make it first"),
        (image, image, "image.csv: is an input itself"),
    ):
        result = measure(model, given, "-o", out)
        assert (result.status, result.out) == (2, "") and said in result.err.splitlines()[-1]
    assert (tmp_path / "t.csv").read_text() == "precious"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = measure(model, images, "-o", tmp_path / "t.parquet")
    assert result.status == 2 and "needs pyarrow to read Parquet (" in result.err and ".[eval]" in result.err


def test_without_ray(model, images, tmp_path, monkeypatch, decoded):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = measure(model, images, "-o", tmp_path / "t.csv", "--ray", "auto")
    assert (result.status, result.out) == (2, "") and len(result.err.splitlines()) == 1
    assert "--ray: needs Ray Data (" in result.err and "pip install -e '.[cluster]'" in result.err
    assert decoded == []  # not here instead
