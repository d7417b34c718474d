"""Integer frequency tables for the entropy coder, and their computation from probabilities.

A table assigns a frequency to each integer of a range, and to an escape symbol for all other integers; they sum to 2**16. Tables
are computed once, when a model is quantized, and stored in its weights file. A decoder only reads them, because mathematical
functions on another machine may differ in the last bit.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dkic.errors import FormatError
from dkic.gaussian_scales import SCALE_COUNT, SCALE_FIRST, SCALE_LAST

FREQUENCY_BITS = 16
FREQUENCY_SUM = 2**FREQUENCY_BITS
MAX_TABLES = 256  # a table index is one byte
MAX_LENGTH = FREQUENCY_SUM  # every frequency is at least 1

SCALES: np.ndarray = np.exp(np.linspace(math.log(SCALE_FIRST), math.log(SCALE_LAST), SCALE_COUNT))
"""Standard deviations of `gaussian_tables`, float64 `[64]`, equally spaced in their logarithm."""

_ARRAY_NAMES = ("frequencies", "length", "offset")
_INT32 = np.iinfo(np.int32)


def escape_order(length: np.ndarray | int) -> np.ndarray:
    """Order k of the Exp-Golomb code for values outside a table of this length; elementwise for an array.

    Values outside a long table spread further than values outside a short one, so the order grows with the length. A value just
    outside costs k + 1 bits. The order is at least 1: one bit gives the side.
    """
    bit_length = np.frexp(np.asarray(length, dtype=np.float64))[1]
    return np.maximum(1, bit_length - 5)


@dataclass(frozen=True, eq=False)
class Tables:
    """T frequency tables for integer symbols; immutable, checked when created.

    Row t codes the symbols `offset[t] ... offset[t] + length[t] - 2` with the frequencies
    `frequencies[t, 0 ... length[t] - 2]`. `frequencies[t, length[t] - 1]` is the frequency of the escape symbol, which precedes
    any other int32. These frequencies are at least 1 and sum to 2**16; the rest of the row is 0.

    Attributes:
        frequencies: int32 `[T, L]`, 1 <= T <= 256, L <= 65536.
        length: int32 `[T]`.
        offset: int32 `[T]`.

    Raises:
        FormatError: an array is invalid; the message names it.
    """

    frequencies: np.ndarray
    length: np.ndarray
    offset: np.ndarray

    def __post_init__(self) -> None:
        for name, dimensions in zip(_ARRAY_NAMES, (2, 1, 1), strict=True):
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != np.int32 or array.ndim != dimensions:
                rule = f"an int32 array, {dimensions}-d"
                raise FormatError(f"tables: {name} must be {rule}, got {_describe(array)}")
            array = np.array(array, order="C")  # a private copy, so that the tables are immutable
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        _check(self.frequencies, self.length, self.offset)

    def __len__(self) -> int:
        return len(self.length)

    def least_bits(self) -> np.ndarray:
        """Bits of the most probable symbol of each table, float64 `[T]`: a lower bound for all symbols."""
        return FREQUENCY_BITS - np.log2(self.frequencies.max(axis=1))

    def concat(self, other: Tables) -> Tables:
        """These tables followed by those of `other`, whose indexes begin at `len(self)`."""
        columns = max(self.frequencies.shape[1], other.frequencies.shape[1])
        rows = [np.pad(t.frequencies, ((0, 0), (0, columns - t.frequencies.shape[1]))) for t in (self, other)]
        return Tables(
            np.concatenate(rows),
            np.concatenate([self.length, other.length]),
            np.concatenate([self.offset, other.offset]),
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The three arrays by name, as stored in a weights file: frequencies row by row, without the zeros."""
        used = np.arange(self.frequencies.shape[1]) < self.length[:, None]
        return {"frequencies": self.frequencies[used], "length": np.array(self.length), "offset": np.array(self.offset)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Tables:
        """Tables from the result of `to_arrays`, or from the attributes. Raises FormatError that names an invalid array."""
        missing = [name for name in _ARRAY_NAMES if name not in arrays]
        if missing:
            raise FormatError(f"tables: the array {missing[0]} is missing")
        frequencies, length, offset = (arrays[name] for name in _ARRAY_NAMES)
        ragged = getattr(frequencies, "ndim", 2) == 1
        return cls(_rows(frequencies, length) if ragged else frequencies, length, offset)

    @classmethod
    def from_cdfs(cls, cdf: np.ndarray, length: np.ndarray, offset: np.ndarray) -> Tables:
        """Tables from the quantized CDFs of a CompressAI entropy model.

        Args:
            cdf: integers `[T, L + 1]`. The first `length[t]` entries of row t rise from 0 to 65536; the last interval is the
                sentinel's, which becomes the escape symbol.
            length, offset: integers `[T]`.

        Raises:
            FormatError: an array is invalid; the message names it.
        """
        arrays = [np.asarray(array) for array in (cdf, length, offset)]
        for name, array in zip(("cdf", "length", "offset"), arrays, strict=True):
            if array.dtype.kind not in "iu" or (array.size and not _INT32.min <= array.min() <= array.max() <= _INT32.max):
                raise FormatError(f"tables: {name} must be integers in the range of int32, got {_describe(array)}")
        cdf, length, offset = (array.astype(np.int64) for array in arrays)
        if cdf.ndim != 2 or cdf.shape[1] < 2 or length.shape != cdf.shape[:1] or (cdf[:, 0] != 0).any():
            raise FormatError(f"tables: cdf must have rows that begin with 0, one for each length, got {_describe(cdf)}")
        inside = np.arange(1, cdf.shape[1]) < length[:, None]
        frequencies = np.where(inside, np.diff(cdf, axis=1).clip(-1, FREQUENCY_SUM + 1), 0)
        return cls(frequencies.astype(np.int32), (length.clip(0) - 1).astype(np.int32), offset.astype(np.int32))

    def ideal_bits(self, symbols: np.ndarray, indexes: np.ndarray) -> float:
        """Bits that an ideal coder needs for symbols with these tables, including escaped values.

        Args:
            symbols: integers in the range of int32, of any shape.
            indexes: the table of each symbol, of the same shape.

        Raises:
            ValueError: the shapes differ, a symbol is beyond int32, or an index has no table.
        """
        symbols, indexes = np.asarray(symbols), np.asarray(indexes)
        for name, numbers in (("symbols", symbols), ("indexes", indexes)):
            if numbers.size and not np.issubdtype(numbers.dtype, np.integer):
                raise ValueError(f"ideal_bits/{name}: have dtype {numbers.dtype}; give integers")
        if symbols.shape != indexes.shape:
            raise ValueError(f"ideal_bits/indexes: have shape {indexes.shape}; give the shape of symbols, {symbols.shape}")
        if symbols.size and not _INT32.min <= int(symbols.min()) <= int(symbols.max()) <= _INT32.max:
            bounds = f"{symbols.min()} to {symbols.max()}"
            raise ValueError(f"ideal_bits/symbols: are {bounds}; give {_INT32.min} to {_INT32.max}")
        if indexes.size and not 0 <= int(indexes.min()) <= int(indexes.max()) < len(self):
            bounds = f"{indexes.min()} to {indexes.max()}"
            raise ValueError(f"ideal_bits/indexes: are {bounds}; give 0 to {len(self) - 1}")
        indexes = indexes.astype(np.int64)
        number = symbols.astype(np.int64) - self.offset[indexes]
        escape = self.length[indexes] - 1
        escaped = (number < 0) | (number >= escape)
        bits = FREQUENCY_BITS - np.log2(self.frequencies[indexes, np.where(escaped, escape, number)])
        number, escape, order = number[escaped], escape[escaped], escape_order(self.length[indexes[escaped]])
        return float(bits.sum() + _escape_bits(number, escape, order).sum())


def _escape_bits(number: np.ndarray, escape: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Bits of the Exp-Golomb code after an escape symbol; `number` is the value minus the first symbol of its table."""
    distance = np.where(number < 0, -2 * number - 1, 2 * (number - escape))
    value_bits = np.frexp((distance + (1 << order)).astype(np.float64))[1] - 1
    return 2 * value_bits - order + 1


def _rows(frequencies: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Rows of these lengths, padded with zeros."""
    valid = isinstance(length, np.ndarray) and length.dtype == np.int32 and length.ndim == 1 and 1 <= len(length) <= MAX_TABLES
    if not valid or length.min() < 1 or length.max() > MAX_LENGTH or length.sum(dtype=np.int64) != len(frequencies):
        raise FormatError(f"tables: length must be int32, 1 to {MAX_LENGTH} each and {len(frequencies)} together")
    rows = np.zeros((len(length), length.max()), frequencies.dtype)
    rows[np.arange(rows.shape[1]) < length[:, None]] = frequencies
    return rows


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return type(value).__name__


def _check(frequencies: np.ndarray, length: np.ndarray, offset: np.ndarray) -> None:
    count, columns = frequencies.shape
    if not 1 <= count <= MAX_TABLES:
        raise FormatError(f"tables: there must be 1 to {MAX_TABLES} tables, got {count}")
    if len(length) != count or len(offset) != count:
        raise FormatError(
            f"tables: length and offset must have {count} entries as frequencies has rows, got {len(length)} and {len(offset)}"
        )
    if columns > MAX_LENGTH or length.min() < 1 or length.max() > columns:
        raise FormatError(
            f"tables: length must be 1 to the {columns} columns of frequencies, of which there are at most "
            f"{MAX_LENGTH}, got {length.min()} to {length.max()}"
        )
    used = np.arange(columns) < length[:, None]
    misplaced = np.where(used, frequencies < 1, frequencies != 0).any(1)
    missummed = frequencies.sum(1, dtype=np.int64) != FREQUENCY_SUM
    for wrong, rule in (
        (misplaced, "be at least 1 within length and 0 after it"),
        (missummed, f"sum to {FREQUENCY_SUM}"),
    ):
        if wrong.any():
            raise FormatError(f"tables: the frequencies of table {int(wrong.argmax())} must {rule}")
    wrong = offset.astype(np.int64) + length - 2 > _INT32.max
    if wrong.any():
        row = int(wrong.argmax())
        given = f"offset {offset[row]} with length {length[row]}"
        raise FormatError(f"tables: {given} takes table {row} beyond int32's {_INT32.max}")


def integer_frequencies(pmf: np.ndarray) -> np.ndarray:
    """Frequencies that code `pmf` in nearly the fewest bits: int32 `[n]`, each at least 1, with the sum 2**16.

    Each entry is rounded. Then, while the sum is wrong, the entry where it costs the fewest (or saves the most) bits is reduced
    (or increased) by 1; of equal entries, the first.

    Args:
        pmf: finite, non-negative float64 `[n]`, n <= 65536, with a positive sum; it is normalized.

    Raises:
        ValueError: pmf is not as above.
    """
    pmf = np.asarray(pmf, dtype=np.float64)
    if pmf.ndim != 1 or not 1 <= pmf.size <= MAX_LENGTH:
        raise ValueError(f"integer_frequencies/pmf: has shape {pmf.shape}; give one dimension of 1 to {MAX_LENGTH} entries")
    if not np.isfinite(pmf).all() or pmf.min() < 0 or pmf.max() == 0:
        raise ValueError("integer_frequencies/pmf: is not a distribution; give finite, non-negative numbers with a positive sum")
    pmf = np.ldexp(pmf, -np.frexp(pmf.max())[1])  # exact; the sum of the input may overflow
    pmf = pmf / pmf.sum()
    frequencies = np.maximum(1, np.rint(pmf * FREQUENCY_SUM)).astype(np.int64)
    excess = int(frequencies.sum()) - FREQUENCY_SUM
    step = -1 if excess > 0 else 1

    def cost(i: int) -> float:
        """Bits per symbol added by the next step at entry i."""
        if frequencies[i] + step < 1:
            return math.inf
        return -float(pmf[i]) * math.log2((frequencies[i] + step) / frequencies[i])

    heap = [(cost(i), i) for i in range(len(pmf))] if excess else []
    heapq.heapify(heap)
    for _ in range(abs(excess)):
        i = heap[0][1]
        frequencies[i] += step
        heapq.heapreplace(heap, (cost(i), i))
    return frequencies.astype(np.int32)


def tables_from_pmf(pmfs: Sequence[np.ndarray], offsets: Sequence[int]) -> Tables:
    """Tables for given probabilities, one for each pmf.

    Args:
        pmfs: float64 `[n_t]` each: the probabilities of the symbols `offsets[t]`, `offsets[t] + 1`, ..., and in the last entry
            that of all other symbols, which are escaped.
        offsets: the first symbol of each table.

    Raises:
        ValueError: a pmf is invalid, an offset is not an int32, or their numbers differ.
    """
    if len(pmfs) != len(offsets) or not 1 <= len(pmfs) <= MAX_TABLES:
        counts = f"{len(offsets)} for {len(pmfs)} pmfs"
        raise ValueError(f"tables_from_pmf/offsets: are {counts}; give one for each pmf, 1 to {MAX_TABLES}")
    for offset in offsets:
        if not (_INT32.min <= offset <= _INT32.max and offset == int(offset)):
            raise ValueError(f"tables_from_pmf/offsets: one is {offset}; give integers in the range of int32")
    rows = [integer_frequencies(pmf) for pmf in pmfs]
    frequencies = np.zeros((len(rows), max(map(len, rows))), dtype=np.int32)
    for row, values in zip(frequencies, rows, strict=True):
        row[: len(values)] = values
    return Tables(frequencies, np.array([len(row) for row in rows], np.int32), np.array(offsets, np.int32))


def gaussian_pmf(scale: float, half_width: int) -> np.ndarray:
    """Probabilities of the integers -half_width ... half_width under a zero-mean Gaussian, then that of all other integers.

    Each is a difference of complementary error functions on its side of 0, which keeps the relative precision in the tails.

    Args:
        scale: standard deviation, above 0.
        half_width: at least 0.

    Returns:
        float64 `[2 * half_width + 2]`.

    Raises:
        ValueError: scale or half_width is out of range.
    """
    if not scale > 0 or half_width < 0:
        given = f"scale={scale} and half_width={half_width}"
        raise ValueError(f"gaussian_pmf: {given} are out of range; give a scale above 0 and a half_width of at least 0")
    upper = np.array([math.erfc((v + 0.5) / (scale * math.sqrt(2))) for v in range(half_width + 1)])
    side = (upper[:-1] - upper[1:]) / 2
    center = math.erf(0.5 / (scale * math.sqrt(2)))  # 1 - upper[0] would cancel at a large scale
    return np.concatenate([side[::-1], [center], side, upper[-1:]])


# A table contains the symbols whose expected frequency is at least this: a symbol in the table takes a frequency of 1 or more, a
# symbol outside costs the longer escape. Over all of SCALES, the expected bits exceed the entropy by 0.0020 % with 0.5, 0.0033 %
# with 0.25 and 0.0065 % with 0.12. With 0.5, the probability outside is 1.5e-5 in the median and 1.1e-3 at the largest scale.
_LEAST_EXPECTED_FREQUENCY = 0.5


def _gaussian_half_width(scale: float) -> int:
    wide = math.ceil(5 * scale) + 1
    side = gaussian_pmf(scale, wide)[wide + 1 : -1]  # the symbols 1 ... wide
    return int(np.count_nonzero(side * FREQUENCY_SUM >= _LEAST_EXPECTED_FREQUENCY))


def gaussian_tables() -> Tables:
    """Tables of zero-mean Gaussians, integrated over unit bins, with the standard deviations `SCALES`."""
    half_widths = [_gaussian_half_width(float(scale)) for scale in SCALES]
    pmfs = [gaussian_pmf(float(scale), width) for scale, width in zip(SCALES, half_widths, strict=True)]
    return tables_from_pmf(pmfs, [-half_width for half_width in half_widths])
