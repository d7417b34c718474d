"""Tables as CSV and Parquet files, for any file name in a cell.

A file name is a sequence of bytes, and need not be UTF-8. Python holds the other bytes as surrogates (PEP 383). A table stores
the bytes themselves:

* CSV: lines end in LF; a cell with a comma, a quote, CR, LF, or white space at an end is quoted as in RFC 4180. The file is UTF-8
  where all its names are.
* Parquet: strings where all names of a column are UTF-8, else binary.
"""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_QUOTED = re.compile(r'[",\r\n]|^\s|\s$')


def csv_bytes(rows: Iterable[Iterable[Any]]) -> bytes:
    """Rows of cells, the first is the header, as a CSV file. Cells are written with `str`."""
    lines = (",".join(map(_cell, row)) + "\n" for row in rows)
    return "".join(lines).encode("utf-8", "surrogateescape")


def parquet_bytes(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """Columns of equal length as a Parquet file. Needs pyarrow."""
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.table({name: _storable(values) for name, values in columns.items()}), file)
    return file.getvalue()


def name_of(stored: bytes) -> str:
    """The file name that a table stores as `stored`."""
    return stored.decode("utf-8", "surrogateescape")


def _cell(value: Any) -> str:
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


def _storable(values: Sequence[Any]) -> Sequence[Any]:
    """A column's values; strings as bytes where one is not UTF-8."""
    try:
        for value in values:
            if isinstance(value, str):
                value.encode()
    except UnicodeEncodeError:
        return [value.encode("utf-8", "surrogateescape") for value in values]
    return values
