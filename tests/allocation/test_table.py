"""`dkic allocate`: tables as files, the plan, and the errors of invalid tables."""

import csv
import sys

import numpy as np
import pyarrow as pa
import pytest
from allocation.allocation_cases import chosen, rate_distortion
from command_line import dkic
from pyarrow import parquet

from dkic.allocation import allocate

PIXELS = 768 * 512
HEADER = ["image", "quality", "bytes", "width", "height", "lpips"]


def columns(n: int = 40, qualities: int = 5) -> dict[str, list]:
    """A table of n images, as columns."""
    rate, distortion = rate_distortion(n, qualities)
    size = (rate * PIXELS / 8).round()
    rows = [(f"p{i}.png", 2 * j + 1, int(size[i, j]), 768, 512, distortion[i, j]) for i in range(n) for j in range(qualities)]
    return dict(zip(HEADER, map(list, zip(*rows, strict=True)), strict=True))


def arrays_of(table: dict[str, list], n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """bytes and lpips `[n, M]`."""
    return np.reshape(np.array(table["bytes"], float), (n, -1)), np.reshape(table["lpips"], (n, -1))


def write(path, table: dict[str, list]):
    if path.suffix == ".parquet":
        parquet.write_table(pa.table(table), path)
    else:
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(table)
            writer.writerows(zip(*table.values(), strict=True))
    return path


def read(path) -> dict[str, list[str]]:
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def allocated(table, *options: object) -> dict[str, str]:
    """Output of the command; the plan is plan.csv next to the table."""
    result = dkic("allocate", table, "-o", table.parent / "plan.csv", *options)
    assert (result.status, result.err) == (0, ""), result
    return dict(line.split(": ", 1) for line in result.out.splitlines())


def refused(table, *options: object, status: int = 1) -> str:
    """The last line of the command's error; no plan is written."""
    result = dkic("allocate", table, "-o", table.parent / "plan.csv", *(options or ("--target-bpp", 0.15)))
    assert (result.status, result.out) == (status, ""), result
    assert not (table.parent / "plan.csv").exists()
    assert status == 2 or len(result.err.splitlines()) == 1
    return result.err.splitlines()[-1].removeprefix("dkic: ")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("kind", "budget", "options"),
    [
        ("total_bpp", 0.15, ["--target-bpp", 0.15]),
        ("mean_bpp", 0.15, ["--target-bpp", 0.15, "--mean"]),
        ("total_bytes", 300_000, ["--total-bytes", 300_000]),
        ("total_bytes", 300_000, ["--total-bytes", 300_000, "--min-quality", 3, "--max-bytes", 15_000, "--max-distortion", 0.3]),
    ],
)
def test_the_plan_is_the_optimum_of_the_table(tmp_path, suffix, kind, budget, options):
    table = columns()
    table["width"] = [768 + 16 * (row // 5) for row in range(len(table["width"]))]  # so that the two rates differ
    said = allocated(write(tmp_path / f"t.{suffix}", table), *options)
    size, lpips = arrays_of(table)
    pixels = np.array(table["width"][::5]) * 512
    rate = size if kind == "total_bytes" else size * 8 / pixels[:, None]
    limits = {"min_quality": 1, "max_bytes": 15_000, "max_distortion": 0.3} if "--min-quality" in options else {}
    expected = allocate(rate, lpips, budget, kind=kind, pixels=pixels, **limits)
    got = read(tmp_path / "plan.csv")
    assert got["image"] == table["image"][::5]
    assert got["quality"] == [str(2 * j + 1) for j in expected.choice]
    assert got["bytes"] == [str(int(v)) for v in chosen(size, expected.choice)]
    assert [float(v) for v in got["lpips"]] == chosen(lpips, expected.choice).tolist()
    assert ("pixels" in got) == (kind != "total_bytes")
    assert said["images"] == "40 with 200 options" and said["plan"] == str(tmp_path / "plan.csv")
    assert said["rate"].startswith(f"{expected.rate:.9g} of {budget} ")
    assert f"{expected.objective:.9g} in all" in said["lpips"] and said["gap"].startswith(f"{expected.gap:.2g} ")


def test_row_order_missing_pairs_and_other_columns_do_not_matter(tmp_path):
    table = columns()
    whole = allocated(write(tmp_path / "whole.csv", table), "--target-bpp", 0.15)
    plan = read(tmp_path / "plan.csv")
    unused = [
        row
        for row, (image, quality) in enumerate(zip(table["image"], table["quality"], strict=True))
        if plan["quality"][plan["image"].index(image)] != str(quality)
    ]
    table |= {"pixels": [PIXELS] * 200, "note": ["a, b"] * 200, "lpips": list(table["lpips"]), "bytes": list(table["bytes"])}
    del table["width"], table["height"]
    for row in unused[::7]:  # no such option; another choice would not have been better
        table["bytes"][row] = table["lpips"][row] = ""
    order = np.random.default_rng(0).permutation([row for row in range(200) if row not in unused[1::7]])
    shuffled = {name: [values[row] for row in order] for name, values in table.items()}
    less = allocated(write(tmp_path / "less.csv", shuffled), "--target-bpp", 0.15, "--force")
    assert (less["rate"], less["lpips"]) == (whole["rate"], whole["lpips"])
    again = read(tmp_path / "plan.csv")
    assert sorted(zip(*again.values(), strict=True)) == sorted(zip(*plan.values(), strict=True))
    assert again["image"] == list(dict.fromkeys(shuffled["image"]))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("column", "row", "value", "said"),
    [
        ("bytes", 7, -1, "{7} (p1.png): bytes is -1; give a finite number of at least 0"),
        ("bytes", 7, float("inf"), "{7} (p1.png): bytes is inf; give a finite number"),
        ("bytes", 7, float("nan"), "{7} (p1.png): bytes is missing; give a number, as lpips is one"),
        ("lpips", 11, float("nan"), "{11} (p2.png): lpips is missing; give a number, as bytes is one"),
        ("lpips", 11, float("-inf"), "{11} (p2.png): lpips is -inf; give a finite number"),
        ("quality", 3, float("nan"), "{3} (p0.png): quality is missing; give a finite number"),
        ("quality", 8, 9, "p1.png with quality 9 appears twice, in {8} and {9}"),
        ("width", 6, 0, "{6} (p1.png): width is 0; give at least 1"),
        ("height", 6, 513, "{6} (p1.png): width is 768; give the width x height of this image's first row"),
        ("image", 2, "", "{2}: image is missing; give a name"),
    ],
)
def test_bad_rows_are_named(tmp_path, suffix, column, row, value, said):
    table = columns()
    table[column] = [type(value)(v) for v in table[column]]
    table[column][row] = value
    path = write(tmp_path / f"t.{suffix}", table)
    for line in range(200):  # the header is a CSV file's first line
        said = said.replace(f"{{{line}}}", f"line {line + 2}" if suffix == "csv" else f"row {line + 1}", 1)
    said = said.replace(" and line ", " and ").replace(" and row ", " and ")
    assert refused(path).startswith(str(path)) and said in refused(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the table has no column image, quality, bytes, lpips, pixels (or width, height); its columns are none"),
        ("image,quality,bytes,lpips\n", "the table has no column pixels (or width, height); its columns are image, quality, "),
        ("image,quality,bytes,lpips,pixels,bytes\n", "the table has several columns bytes; give one"),
        ("image,quality,bytes,lpips,pixels\n", "the table has no rows"),
        ("image,quality,bytes,lpips,pixels\na,1,2,3,4\n\na,2,3\n", "line 4: 3 cells; give 5, as in the header"),
        ("image,quality,bytes,lpips,pixels\na,high,2,3,4\n", "line 2: quality is 'high'; give a number"),
        ("image,quality,bytes,lpips,pixels\na,1,,,4\n", "row 0 (a): each of its 1 columns is NaN"),
        (b"\xff\xfe\x00\x01", "can't be read as CSV ("),
    ],
)
def test_files_that_are_not_tables_are_refused(tmp_path, text, said):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert refused(path).startswith(f"{path}") and said in refused(path)


def test_a_parquet_file_with_other_contents_is_refused(tmp_path):
    path = tmp_path / "t.parquet"
    assert "can't be read as Parquet (" in refused(path)
    path.write_text("image,quality\n")
    assert "can't be read as Parquet (" in refused(path)
    write(path, columns() | {"bytes": ["many"] * 200})
    assert "column bytes must hold numbers (" in refused(path)
    write(path, {"image": ["a"]})
    assert "the table has no column quality, bytes, lpips, pixels (or width, height); its columns are image" in refused(path)


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "t.parquet", columns())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = refused(path)
    assert said.startswith(f"{path}: needs pyarrow to read Parquet (") and "pip install -e '.[eval]'" in said


def test_an_unreachable_budget_is_refused(tmp_path):
    path = write(tmp_path / "t.csv", columns())
    least = sum(columns()["bytes"][::5])
    said = refused(path, "--total-bytes", least - 10)
    assert said.startswith(f"{path}: budget: {least - 10} bytes is below the cheapest choice by 10 ")
    assert said.endswith(f"; give at least {least}")
    assert allocated(path, "--total-bytes", least)["rate"] == f"{least} of {least} bytes"


def test_limits_that_exclude_all_options_name_the_image(tmp_path):
    path = write(tmp_path / "t.csv", columns())
    assert "row 0 (p0.png): no option is left of 5 (5 below min_quality)" in refused(path, "--target-bpp", 1, "--min-quality", 10)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--target-bpp, --total-bytes: give exactly one"),
        (["--target-bpp", 1, "--total-bytes", 1], "--target-bpp, --total-bytes: give exactly one"),
        (["--total-bytes", 1, "--mean"], "--mean: needs --target-bpp"),
        (["--target-bpp", "low"], "is not a valid float"),
    ],
)
def test_wrong_usage(tmp_path, options, said):
    path = write(tmp_path / "t.csv", columns())
    result = dkic("allocate", path, "-o", tmp_path / "plan.csv", *options)
    assert result.status == 2 and said in result.err and not (tmp_path / "plan.csv").exists()


def test_outputs_that_are_refused(tmp_path):
    path = write(tmp_path / "t.csv", columns())
    before = path.read_bytes()
    for out, status, said in (
        (tmp_path / "plan.parquet", 2, "must end in .csv"),
        (path, 2, f"-o {path}: is TABLE itself"),
        (tmp_path / "no" / "plan.csv", 1, "does not exist; make it first"),
    ):
        result = dkic("allocate", path, "-o", out, "--target-bpp", 0.15, "--force")
        assert result.status == status and said in result.err
    (tmp_path / "plan.csv").write_text("precious")
    result = dkic("allocate", path, "-o", tmp_path / "plan.csv", "--target-bpp", 0.15)
    assert result.status == 1 and "--force" in result.err and (tmp_path / "plan.csv").read_text() == "precious"
    assert path.read_bytes() == before
