"""Tables of measurements as files: reads one, allocates a budget, and writes the chosen quality of each image.

A table, CSV with a header or Parquet, has a row for each image and quality, in any order, and the columns image, quality
(a number), bytes, the distortion, and pixels or width and height if the budget is in bits per pixel; other
columns are ignored. An image need not have every quality: its row may be absent, or empty (null, NaN) in both bytes and
distortion.

Any file name is supported; see `dkic.table_file`.
"""

import csv
import io
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dkic.allocation.problem import UNITS, Kind
from dkic.allocation.solve import allocate
from dkic.errors import DkicError, install
from dkic.output_file import check_output, reason, write_atomically
from dkic.streams import is_stream, open_input
from dkic.table_file import csv_bytes, name_of, parquet_bytes


@dataclass(frozen=True, eq=False)
class Table:
    """A table of measurements.

    images: N names.
    qualities: `[M]`, increasing.
    size, distortion: `[N, M]`, size in bytes; NaN where the image lacks the quality.
    pixels: `[N]`, or None.
    """

    images: list[str]
    qualities: np.ndarray
    size: np.ndarray
    distortion: np.ndarray
    pixels: np.ndarray | None


@dataclass(frozen=True, eq=False)
class _Rows:
    """The requested columns, and the position of each row for errors: `lines[row]` in a CSV file."""

    path: Path
    image: Sequence[str | None]
    numbers: dict[str, np.ndarray]
    lines: Sequence[int]
    line: str

    def refuse(self, bad: np.ndarray, column: str, must: str) -> None:
        """Raises DkicError for the first row of `bad`, if any."""
        if bad.any():
            row = int(np.argmax(bad))
            value = self.numbers[column][row]
            where = f"{self.path}, {self.line} {self.lines[row]} ({self.image[row]})"
            raise DkicError(f"{where}: {column} is {'missing' if np.isnan(value) else f'{value:g}'}; give {must}")


def plan(
    path: Path, out: Path, *, kind: Kind, budget: float, distortion: str, force: bool, min_quality: float | None, **options: Any
) -> Iterator[tuple[str, str]]:
    """Allocates the table at `path`, writes the plan to `out`, and yields a summary as (name, value).

    Args:
        path: of the table.
        out: of the plan, CSV.
        kind, budget: as in `dkic.allocation.allocate`.
        distortion: name of the distortion's column.
        force: overwrite an existing plan.
        min_quality: the lowest allowed quality.
        options: max_bytes, max_distortion, gap, time_limit, as in `dkic.allocation.allocate`.

    Raises:
        DkicError: the table is invalid, the budget can't be met, or the plan can't be written.
    """
    check_output(out, force)
    table = read_table(path, distortion, need_pixels=kind != "total_bytes")
    if min_quality is not None:
        options["min_quality"] = int(np.searchsorted(table.qualities, min_quality))
    rate = table.size if kind == "total_bytes" else table.size * 8 / table.pixels[:, None]  # type: ignore[index]
    try:
        found = allocate(rate, table.distortion, budget, kind=kind, pixels=table.pixels, names=table.images, **options)
    except DkicError as error:
        raise DkicError(f"{path}: {error}") from None
    rows = np.arange(len(table.images))
    size, value = table.size[rows, found.choice], table.distortion[rows, found.choice]
    write_atomically(out, _csv(table, found.choice, distortion), force)
    yield "images", f"{len(rows):,} with {np.isfinite(table.size).sum():,} options"
    in_bytes = "" if kind == "total_bytes" else f" ({size.sum():,.0f} bytes)"
    yield "rate", f"{found.rate:.9g} of {budget:.9g} {UNITS[kind]}{in_bytes}"
    yield distortion, f"{value.mean():.6g} in the mean, {found.objective:.9g} in all"
    yield "gap", f"{found.gap:.2g} (no choice within the budget has less than {found.bound:.9g} in all)"
    yield "price", f"{found.price:.4g} of {distortion} for a bit{' per pixel of one image' if kind == 'mean_bpp' else ''}"
    yield "left to the solver", f"{found.mip_variables:,} options"
    yield "plan", str(out)


def read_table(path: Path, distortion: str, need_pixels: bool) -> Table:
    """Reads Parquet if the name ends in .parquet, otherwise CSV. Raises DkicError that names row and column."""
    rows = (_read_parquet if path.suffix.lower() == ".parquet" else _read_csv)(path, distortion, need_pixels)
    if len(rows.image) == 0:
        raise DkicError(f"{path}: the table has no rows; give one for each image and quality")
    columns = rows.numbers
    size, value = columns["bytes"], columns[distortion]
    rows.refuse(~np.isfinite(columns["quality"]), "quality", "a finite number")
    rows.refuse(np.isnan(size) & ~np.isnan(value), "bytes", f"a number, as {distortion} is one")
    rows.refuse(~np.isnan(size) & np.isnan(value), distortion, "a number, as bytes is one")
    rows.refuse(np.isinf(size) | (size < 0), "bytes", "a finite number of at least 0")
    rows.refuse(np.isinf(value), distortion, "a finite number")
    number_of: dict[str | None, int] = {}
    image = np.fromiter((number_of.setdefault(name, len(number_of)) for name in rows.image), np.int64, len(rows.image))
    for nameless in number_of.keys() & {"", None}:
        row = rows.image.index(nameless)
        raise DkicError(f"{path}, {rows.line} {rows.lines[row]}: image is missing; give a name")
    qualities, column = np.unique(columns["quality"], return_inverse=True)
    shape = len(number_of), len(qualities)
    _refuse_duplicates(rows, image * shape[1] + column)
    return Table(
        images=list(filter(None, number_of)),
        qualities=qualities,
        size=_spread(size, image, column, shape),
        distortion=_spread(value, image, column, shape),
        pixels=_pixels(rows, image) if need_pixels else None,
    )


def write_table(path: Path, columns: Mapping[str, Sequence[Any]], force: bool) -> None:
    """Writes columns of equal length as `read_table` reads them, atomically. Raises DkicError."""
    if path.suffix.lower() == ".parquet":
        _pyarrow(path)
        data = parquet_bytes(columns)
    else:
        data = _csv_of(columns)
    write_atomically(path, data, force)


def check_table(path: Path, force: bool) -> None:
    """Checks whether a table can be written; cheap, to be called before long computations. Raises DkicError."""
    if path.suffix.lower() not in (".csv", ".parquet") and not is_stream(path):
        raise DkicError(f"{path}: the name of a table must end in .csv or .parquet")
    if path.suffix.lower() == ".parquet":
        _pyarrow(path)
    check_output(path, force)


def _spread(values: np.ndarray, row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    table = np.full(shape, np.nan)
    table[row, column] = values
    return table


def _refuse_duplicates(rows: _Rows, cell: np.ndarray) -> None:
    order = np.argsort(cell, kind="stable")
    again = np.flatnonzero(np.diff(cell[order]) == 0)
    if len(again):
        first, second = (int(order[at]) for at in (again[0], again[0] + 1))
        what = f"{rows.image[first]} with quality {rows.numbers['quality'][first]:g}"
        raise DkicError(
            f"{rows.path}: {what} appears twice, in {rows.line} {rows.lines[first]} and {rows.lines[second]}; remove one"
        )


def _pixels(rows: _Rows, image: np.ndarray) -> np.ndarray:
    """`[N]`; all rows of an image must state the same number."""
    names: tuple[str, ...]
    if "pixels" in rows.numbers:
        names, pixels = ("pixels",), rows.numbers["pixels"]
    else:
        names, pixels = ("width", "height"), rows.numbers["width"] * rows.numbers["height"]
    for name in names:
        rows.refuse(~(np.isfinite(rows.numbers[name]) & (rows.numbers[name] >= 1)), name, "at least 1")
    of_image = np.empty(image.max() + 1)
    of_image[image[::-1]] = pixels[::-1]  # the first row of each image
    rows.refuse(pixels != of_image[image], names[0], f"the {' x '.join(names)} of this image's first row")
    return of_image


def _needed(path: Path, header: Sequence[str], distortion: str, need_pixels: bool) -> list[str]:
    """The numeric columns to read. Raises DkicError if one is missing or repeated."""
    names = ["quality", "bytes", distortion]
    if need_pixels:
        names += ["pixels"] if "pixels" in header else ["width", "height"]
    missing = [name for name in ("image", *names) if name not in header]
    if missing:
        wanted = ", ".join(missing).replace("width, height", "pixels (or width, height)")
        raise DkicError(f"{path}: the table has no column {wanted}; its columns are {', '.join(header) or 'none'}")
    twice = [name for name in ("image", *names) if list(header).count(name) > 1]
    if twice:
        raise DkicError(f"{path}: the table has several columns {twice[0]}; give one")
    return list(dict.fromkeys(names))


def _read_csv(path: Path, distortion: str, need_pixels: bool) -> _Rows:
    try:
        with io.TextIOWrapper(open_input(path), "utf-8-sig", "surrogateescape", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            "".join(header).encode()  # only names may be other than UTF-8
            names = _needed(path, header, distortion, need_pixels)
            at = [header.index(name) for name in names]
            image_at = header.index("image")
            images: list[str] = []
            columns = [array("d") for _ in names]
            lines = array("q")
            for row in reader:
                if not row:
                    continue  # an empty line
                if len(row) != len(header):
                    raise DkicError(f"{path}, line {reader.line_num}: {len(row)} cells; give {len(header)}, as in the header")
                images.append(row[image_at])
                lines.append(reader.line_num)
                for column, i in zip(columns, at, strict=True):
                    try:
                        column.append(float(row[i] or "nan"))
                    except ValueError:
                        where = f"{path}, line {reader.line_num}"
                        raise DkicError(f"{where}: {header[i]} is {row[i]!r}; give a number") from None
    except (OSError, UnicodeEncodeError, csv.Error) as error:
        raise DkicError(f"{path}: can't be read as CSV ({reason(error)})") from None
    return _Rows(path, images, {n: np.array(c) for n, c in zip(names, columns, strict=True)}, lines, "line")


def _read_parquet(path: Path, distortion: str, need_pixels: bool) -> _Rows:
    pyarrow, parquet = _pyarrow(path)
    try:
        with parquet.ParquetFile(path) as file:
            names = _needed(path, file.schema_arrow.names, distortion, need_pixels)
            found = file.read(["image", *names])
        numbers = {}
        for name in names:
            try:
                numbers[name] = found[name].cast("float64", safe=False).to_numpy()
            except pyarrow.ArrowException as error:
                raise DkicError(f"{path}: column {name} must hold numbers ({reason(error)})") from None
        images = _image_names(found["image"])
    except (OSError, pyarrow.ArrowException) as error:
        raise DkicError(f"{path}: can't be read as Parquet ({reason(error)})") from None
    return _Rows(path, images, numbers, range(1, len(images) + 1), "row")


def _image_names(column: Any) -> list[str | None]:
    from pyarrow import types

    if types.is_binary(column.type) or types.is_large_binary(column.type):
        return [None if stored is None else name_of(stored) for stored in column.to_pylist()]
    return column.cast("string").to_pylist()


def _pyarrow(path: Path) -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DkicError(f"{path}: needs pyarrow to read Parquet ({reason(error)}); {install('eval')}, or give CSV") from None
    return pyarrow, parquet


def _csv(table: Table, choice: np.ndarray, distortion: str) -> bytes:
    """The plan: a row for each image, in the table's order."""
    rows = np.arange(len(choice))
    columns = {"quality": table.qualities[choice], "bytes": table.size[rows, choice]}
    if table.pixels is not None:
        columns["pixels"] = table.pixels
    columns[distortion] = table.distortion[rows, choice]
    numbers = {name: [int(v) if v.is_integer() else v for v in column.tolist()] for name, column in columns.items()}
    return _csv_of({"image": table.images, **numbers})


def _csv_of(columns: Mapping[str, Sequence[Any]]) -> bytes:
    return csv_bytes([columns, *zip(*columns.values(), strict=True)])
