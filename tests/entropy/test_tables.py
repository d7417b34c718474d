"""Frequency tables: constraints, closeness to the probabilities, and errors."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dkic.coding import rans
from dkic.entropy.tables import (
    SCALES,
    Tables,
    escape_order,
    gaussian_pmf,
    gaussian_tables,
    integer_frequencies,
    tables_from_pmf,
)
from dkic.errors import DkicError, FormatError

INT32_MAX = np.iinfo(np.int32).max
GAUSSIAN = gaussian_tables()


def expected_bits(pmf: np.ndarray, frequencies: np.ndarray) -> float:
    return float(-(pmf / pmf.sum() * np.log2(frequencies / 65536)).sum())


@settings(max_examples=200, deadline=None)
@given(arrays(np.float64, st.integers(1, 200), elements=st.floats(0, 1)), st.floats(1e-300, 1e-3))
def test_frequencies_are_positive_and_sum_to_2_to_the_16(pmf, least):
    pmf[0] += least
    frequencies = integer_frequencies(pmf)
    assert frequencies.dtype == np.int32 and frequencies.shape == pmf.shape
    assert frequencies.min() >= 1 and frequencies.sum() == 65536
    np.testing.assert_array_equal(frequencies, integer_frequencies(pmf))


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40), st.integers(0, 1000))
def test_no_change_of_two_frequencies_saves_bits(n, seed):
    """Moving 1 from any frequency to any other saves at most 1e-6 bits per symbol."""
    pmf = np.random.default_rng(seed).dirichlet(np.full(n, 0.1))
    frequencies = integer_frequencies(pmf).astype(np.float64)
    gain = pmf * np.log2((frequencies + 1) / frequencies)
    with np.errstate(divide="ignore"):
        loss = np.where(frequencies > 1, pmf * np.log2(frequencies / (frequencies - 1)), np.inf)
    np.fill_diagonal(saving := gain[:, None] - loss[None, :], -np.inf)
    assert saving.max() < 1e-6


def test_frequencies_at_the_limits():
    np.testing.assert_array_equal(integer_frequencies(np.array([3.0])), [65536])
    np.testing.assert_array_equal(integer_frequencies(np.array([0.0, 0.0, 1.0])), [1, 1, 65534])
    np.testing.assert_array_equal(integer_frequencies(np.ones(65536)), np.ones(65536))
    skewed = integer_frequencies(np.r_[1e9, np.ones(65534)])
    assert skewed[0] == 2 and skewed.sum() == 65536


@pytest.mark.parametrize("size", [5e-324, 1e-310, 1.0, 1e308, np.finfo(np.float64).max])
def test_frequencies_do_not_depend_on_the_size_of_a_pmf(size):
    """The sum may exceed float64, and the numbers may be subnormal."""
    np.testing.assert_array_equal(integer_frequencies(np.full(2, size)), [32768, 32768])
    np.testing.assert_array_equal(integer_frequencies(np.full(1000, size)).max(), 66)
    np.testing.assert_array_equal(integer_frequencies(np.array([size, 0.0])), [65535, 1])


def test_an_invalid_pmf_is_refused():
    for shape in ((2, 2), (0,), (65537,)):
        with pytest.raises(ValueError, match="^integer_frequencies/pmf: has shape"):
            integer_frequencies(np.ones(shape))
    for pmf in ([0, 0], [1, -0.1], [1, np.nan], [1, np.inf]):
        with pytest.raises(ValueError, match="^integer_frequencies/pmf: .* finite"):
            integer_frequencies(np.array(pmf))


def test_tables_from_pmf():
    tables = tables_from_pmf([np.array([0.5, 0.25, 0.25]), np.array([1.0])], [-7, 3])
    np.testing.assert_array_equal(tables.frequencies, [[32768, 16384, 16384], [65536, 0, 0]])
    np.testing.assert_array_equal(tables.length, [3, 1])
    np.testing.assert_array_equal(tables.offset, [-7, 3])
    for count, offsets in ((0, []), (1, [0, 1]), (257, [0] * 257), (1, [2**31]), (1, [0.5]), (1, [math.nan])):
        with pytest.raises(ValueError, match="^tables_from_pmf/offsets: "):
            tables_from_pmf([np.ones(2)] * count, offsets)


@pytest.mark.parametrize("scale", [0.11, 0.5, 3.0, 256.0])
def test_gaussian_pmf_is_exact_in_the_tails(scale):
    half_width = math.ceil(9 * scale) + 1
    pmf = gaussian_pmf(scale, half_width)
    with mpmath.workdps(60):

        def upper(x: float) -> mpmath.mpf:
            return mpmath.erfc(mpmath.mpf(x) / (mpmath.mpf(scale) * mpmath.sqrt(2))) / 2

        for v in {0, 1, half_width // 4, half_width // 2, half_width - 1, half_width}:
            exact = upper(abs(v) - 0.5) - upper(abs(v) + 0.5)
            for number in (half_width - v, half_width + v):
                assert abs(pmf[number] - exact) <= 1e-11 * exact + 1e-300
        assert abs(pmf[-1] - 2 * upper(half_width + 0.5)) <= 1e-11 * pmf[-1] + 1e-300


@pytest.mark.parametrize("scale", [5e-324, 1e6, 1e12, 1e300, math.inf])
def test_gaussian_pmf_of_extreme_scales(scale):
    pmf = gaussian_pmf(scale, 3)
    assert pmf.min() >= 0 and pmf.sum() == pytest.approx(1)
    expected = 1.0 if scale < 1 else 1 / (scale * math.sqrt(2 * math.pi))
    assert pmf[3] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("scale", "half_width"), [(0.0, 3), (-1.0, 3), (math.nan, 3), (1.0, -1)])
def test_invalid_arguments_of_gaussian_pmf_are_refused(scale, half_width):
    with pytest.raises(ValueError, match="^gaussian_pmf: scale=.* and half_width="):
        gaussian_pmf(scale, half_width)


def test_gaussian_tables():
    assert len(GAUSSIAN) == 64 == len(SCALES)
    assert math.isclose(SCALES[0], 0.11) and math.isclose(SCALES[-1], 256)
    np.testing.assert_allclose(np.diff(np.log(SCALES)), math.log(256 / 0.11) / 63)
    np.testing.assert_array_equal(GAUSSIAN.offset, -(GAUSSIAN.length // 2 - 1))
    for row, length in zip(GAUSSIAN.frequencies, GAUSSIAN.length, strict=True):
        symbols = row[: length - 1].astype(int)
        assert np.abs(symbols - symbols[::-1]).max() <= 1  # symmetric except for rounding


def test_gaussian_tables_reach_the_entropy():
    """Expected bits, escapes included: within 0.005 % of the entropy, in each table 0.01 % + 1e-4 bits."""
    total_bits = total_entropy = 0.0
    for index, scale in enumerate(SCALES):
        half_width = math.ceil(7 * scale) + 1
        pmf = gaussian_pmf(float(scale), half_width)[:-1]
        symbols = range(-half_width, half_width + 1)
        costs = [GAUSSIAN.ideal_bits(np.array([symbol]), np.array([index])) for symbol in symbols]
        bits = float(pmf @ costs)
        entropy = -float((pmf[pmf > 0] * np.log2(pmf[pmf > 0])).sum())
        assert entropy <= bits <= 1.0001 * entropy + 1e-4
        total_bits, total_entropy = total_bits + bits, total_entropy + entropy
    assert total_bits <= 1.00005 * total_entropy


def test_ideal_bits_equal_the_coders():
    """Compared with the native coder, including escapes: its size differs by at most a state and rounding."""
    rng = np.random.default_rng(0)
    indexes = rng.integers(0, 64, 3000).astype(np.uint8)
    symbols = (rng.integers(-(2**31), 2**31, 3000) >> rng.integers(0, 32, 3000)).astype(np.int32)
    bits = GAUSSIAN.ideal_bits(symbols, indexes)
    assert bits / 8 < len(rans.encode(symbols, indexes, GAUSSIAN)) < bits / 8 + 9
    folded = GAUSSIAN.ideal_bits(symbols.reshape(2, -1), indexes.reshape(2, -1))
    assert folded == pytest.approx(bits, rel=1e-12)


def test_ideal_bits_by_hand():
    tables = tables_from_pmf([np.array([0.5, 0.25, 0.25])], [0])  # order 1: 2 bits just outside, then 4, 6 ...
    for symbol, bits in ((0, 1), (1, 2), (2, 4), (-1, 4), (3, 6), (-2, 6), (4, 6), (5, 8), (-4, 8)):
        assert tables.ideal_bits(np.array([symbol]), np.array([0])) == bits
    assert tables.ideal_bits(np.array([]), np.array([], np.uint8)) == 0


def test_escape_order():
    lengths = range(1, 65537)
    expected = [max(1, n.bit_length() - 5) for n in lengths]
    np.testing.assert_array_equal(escape_order(np.array(lengths)), expected)


def test_ideal_bits_refuses():
    with pytest.raises(ValueError, match="^ideal_bits/indexes: .* shape of symbols"):
        GAUSSIAN.ideal_bits(np.zeros(3, int), np.zeros(2, np.uint8))
    with pytest.raises(ValueError, match="^ideal_bits/indexes: are 0 to 64; give 0 to 63"):
        GAUSSIAN.ideal_bits(np.zeros(2, np.int32), np.array([0, 64]))
    for symbols, message in (
        (np.array([0, 2**31]), "symbols: are 0 to 2147483648; give"),
        (np.array([0, -(2**62)]), "symbols: are -4611686018427387904 to 0; give"),
        (np.array([0, 2**63], np.uint64), "symbols: are 0 to 9223372036854775808; give"),
        (np.array([0.5, math.nan]), "symbols: .* give integers"),
    ):
        with pytest.raises(ValueError, match=message):
            GAUSSIAN.ideal_bits(symbols, np.zeros(2, np.uint8))
    with pytest.raises(ValueError, match="^ideal_bits/indexes: .* give integers"):
        GAUSSIAN.ideal_bits(np.zeros(2, np.int32), np.array([0.0, 0.5]))


def test_concat_and_arrays():
    other = tables_from_pmf([np.ones(3), np.ones(2000)], [5, -1000])
    both = GAUSSIAN.concat(other)
    assert len(both) == 66
    names = "frequencies", "length", "offset"
    again = Tables.from_arrays(both.to_arrays())
    for same in (again, Tables.from_arrays({name: getattr(both, name) for name in names})):
        for name in names:
            np.testing.assert_array_equal(getattr(same, name), getattr(both, name))
    assert both.to_arrays()["frequencies"].shape == (both.length.sum(),)
    symbols, indexes = np.array([5, 6, 900], np.int32), np.array([0, 0, 1], np.uint8)
    assert rans.encode(symbols, indexes + np.uint8(64), again) == rans.encode(symbols, indexes, other)
    with pytest.raises(FormatError, match="1 to 256 tables, got 262"):
        both.concat(both).concat(both).concat(GAUSSIAN).concat(other)


def test_tables_are_immutable():
    arrays_given = {name: getattr(GAUSSIAN, name).copy() for name in ("frequencies", "length", "offset")}
    tables = Tables(**arrays_given)
    arrays_given["frequencies"][:] = 0
    assert tables.frequencies.sum() == 64 * 65536
    with pytest.raises(ValueError, match="read-only"):
        tables.frequencies[0, 0] = 1


GOOD = {
    "frequencies": np.array([[65535, 1, 0], [1, 2, 65533]], np.int32),
    "length": np.array([2, 3], np.int32),
    "offset": np.array([0, -5], np.int32),
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("length", None, "the array length is missing"),
        ("frequencies", np.zeros((2, 3)), "frequencies must be an int32 array, 2-d, got float64"),
        ("frequencies", GOOD["frequencies"][0], "length must be int32, 1 to 65536 each and 3 together"),
        ("offset", [0, -5], "offset must be an int32 array, 1-d, got list"),
        ("offset", np.zeros(3, np.int32), "must have 2 entries as frequencies has rows, got 2 and 3"),
        ("length", np.array([0, 3], np.int32), "length must be 1 to the 3 columns .* got 0 to 3"),
        ("length", np.array([2, 4], np.int32), "length must be 1 to the 3 columns .* got 2 to 4"),
        ("frequencies", np.array([[65535, 1, 0], [0, 3, 65533]], np.int32), "table 1 must be at least 1"),
        ("frequencies", np.array([[65535, 1, 1], [1, 2, 65533]], np.int32), "table 0 must be .* 0 after it"),
        ("frequencies", np.array([[65534, 1, 0], [1, 2, 65533]], np.int32), "table 0 must sum to 65536"),
        ("frequencies", np.array([[INT32_MAX, 1, 0], [1, 2, 65533]], np.int32), "table 0 must sum to 65536"),
        ("offset", np.array([0, INT32_MAX], np.int32), "takes table 1 beyond int32"),
        ("frequencies", np.zeros((0, 3), np.int32), "1 to 256 tables, got 0"),
        ("frequencies", np.zeros((2, 0), np.int32), "length must be 1 to the 0 columns"),
    ],
)
def test_from_arrays_refuses(name, value, message):
    given_arrays = {**GOOD, name: value}
    if value is None:
        del given_arrays[name]
    with pytest.raises(FormatError, match=message) as caught:
        Tables.from_arrays(given_arrays)
    assert isinstance(caught.value, DkicError)
    Tables.from_arrays(GOOD)


def test_tables_from_cdfs():
    cdf = np.array([[0, 10, 60000, 65536, 0], [0, 1, 2, 65535, 65536]])
    tables = Tables.from_cdfs(cdf, np.array([4, 5]), np.array([-1, 3]))
    assert tables.length.tolist() == [3, 4] and tables.offset.tolist() == [-1, 3]
    assert tables.frequencies.tolist() == [[10, 59990, 5536, 0], [1, 1, 65533, 1]]


@pytest.mark.parametrize(
    ("cdf", "length", "offset"),
    [
        ([[0, 10, 65535]], [3], [0]),
        ([[1, 10, 65536]], [3], [0]),
        ([[0, 10, 10, 65536]], [4], [0]),  # a symbol of probability 0
        ([[0, 10, 65536]], [4], [0]),
        ([[0, 10, 65536]], [0], [0]),
        ([[0, 10, 65536]], [3, 3], [0]),
        ([[0, 10, 65536]], [3], [0, 0]),
        ([[0, 10, 65536]], [3], [2**40]),
        ([[0, 2**32 + 10, 65536]], [3], [0]),
        ([[0.0, 10.0, 65536.0]], [3], [0]),
        ([[0]], [1], [0]),
        ([0, 65536], [2], [0]),
    ],
    ids=str,
)
def test_invalid_cdfs_are_refused(cdf, length, offset):
    with pytest.raises(FormatError):
        Tables.from_cdfs(np.array(cdf), np.array(length), np.array(offset))
