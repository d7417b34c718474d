"""Tables as files: round trips of all cells, file names byte by byte, and compatibility with other readers."""

import csv
import io
import os

import numpy as np
import pytest
from awkward_names import AWKWARD, file_names
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from dkic.allocation.table import plan, read_table, write_table
from dkic.table_file import csv_bytes, parquet_bytes


def columns_of(names: list[str]) -> dict[str, list]:
    """A table of two qualities for each name."""
    rows = [(name, quality, 100 * quality + i, 64, 1 / quality) for i, name in enumerate(names) for quality in (1, 2)]
    return dict(zip(("image", "quality", "bytes", "pixels", "mse"), map(list, zip(*rows, strict=True)), strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@settings(deadline=None)
@given(names=st.lists(file_names, min_size=1, max_size=8, unique=True))
@example(names=AWKWARD)
def test_any_file_name_is_preserved_in_table_and_plan(folder, suffix, names):
    table, out = folder / f"t{suffix}", folder / "plan.csv"
    write_table(table, columns_of(names), force=True)
    read = read_table(table, "mse", need_pixels=True)
    assert read.images == names and read.size[:, 0].tolist() == [100 + i for i in range(len(names))]
    list(plan(table, out, kind="total_bytes", budget=1e9, distortion="mse", force=True, min_quality=None))
    assert read_table(out, "mse", need_pixels=False).images == names


@settings(deadline=None)
@given(rows=st.lists(st.tuples(file_names, file_names, st.integers()), max_size=5))
def test_csv_is_read_by_python(rows):
    data = csv_bytes([("a", "b", "c"), *rows])
    with io.TextIOWrapper(io.BytesIO(data), "utf-8", "surrogateescape", newline="") as file:
        assert list(csv.reader(file)) == [["a", "b", "c"], *([a, b, str(c)] for a, b, c in rows)]


def test_csv_stores_bytes_and_quotes_only_where_needed():
    rows = [("image", "x"), ("plain name.png", 0.5), (" a", 1), ('b"c', 2), ("d,e", 3), ("f\rg", 4), (os.fsdecode(b"\xff"), 5)]
    expected = b'image,x\nplain name.png,0.5\n" a",1\n"b""c",2\n"d,e",3\n"f\rg",4\n\xff,5\n'
    assert csv_bytes(rows) == expected


def test_parquet_columns_are_binary_if_a_name_is_not_utf_8():
    names, other = ["a", "\u00e9"], ["a", os.fsdecode(b"\xff")]
    data = parquet_bytes({"names": names, "other": other, "numbers": [1, 2]})
    assert parquet.read_table(io.BytesIO(data)).to_pylist() == [
        {"names": "a", "other": b"a", "numbers": 1},
        {"names": "\u00e9", "other": b"\xff", "numbers": 2},
    ]


def test_a_name_that_is_missing_from_a_binary_column(tmp_path):
    columns = columns_of([os.fsdecode(b"\xff"), "b"])
    columns["image"] = [b"\xff", b"\xff", None, b"b"]
    (tmp_path / "t.parquet").write_bytes(parquet_bytes(columns))
    with pytest.raises(Exception, match="row 3: image is missing"):
        read_table(tmp_path / "t.parquet", "mse", need_pixels=False)


def test_numbers_are_written_in_full(tmp_path):
    columns = columns_of(["a", "b"]) | {"mse": [1 / 3, np.pi, 1e-300, 0.1]}
    for suffix in ("csv", "parquet"):
        write_table(tmp_path / f"t.{suffix}", columns, force=False)
        assert read_table(tmp_path / f"t.{suffix}", "mse", need_pixels=False).distortion.ravel().tolist() == columns["mse"]
