"""The entropy coder: round trips, the oracle's bytes, golden words, size, and damaged data."""

import gc
import threading

import numpy as np
import pytest
import torch
from coding import rans_oracle
from coding.rans_cases import RANS_CASES, gaussian_bytes, gaussian_symbols
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dkic._native import _rans
from dkic.coding import rans
from dkic.entropy.tables import Tables, gaussian_tables, tables_from_pmf
from dkic.errors import DkicError, FormatError

INT32 = np.iinfo(np.int32)
GAUSSIAN = gaussian_tables()
LANES = (1, 2, 4, 8)


def make_tables(rows: list[list[int]], offsets: list[int]) -> Tables:
    frequencies = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, values in zip(frequencies, rows, strict=True):
        row[: len(values)] = values
    return Tables(frequencies, np.array([len(r) for r in rows], np.int32), np.array(offsets, np.int32))


# Hand-made, so that golden words depend on no mathematical function: a plain table, one whose escape is
# almost certain, the shortest (all is escaped), and one at the end of int32.
SMALL = make_tables([[1000, 60000, 4000, 536], [1, 65535], [65536], [30000, 30000, 5536]], [-1, 7, 0, INT32.max - 1])
# The longest: every slot a symbol of its own; and a long one with most of the mass on one symbol.
LONG = make_tables([[1] * 65536, [1] * 999 + [65536 - 1499] + [1] * 500], [-30000, -700])


def native_encode(symbols: np.ndarray, indexes: np.ndarray, tables: Tables, lanes: int) -> bytes:
    native = _rans.TableSet(tables.frequencies, tables.length, tables.offset)
    return _rans.encode(native, [(symbols, indexes)], lanes)


@st.composite
def coding_problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, Tables]:
    """Tables of every shape, and symbols in, next to and far from them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 6))
    flatness = draw(st.sampled_from([0.02, 1]))
    pmfs = [rng.dirichlet(np.full(draw(st.integers(1, 300)), flatness)) for _ in range(count)]
    near_end = [INT32.min, INT32.max - 300]
    offsets = [draw(st.one_of(st.integers(-400, 400), st.sampled_from(near_end))) for _ in pmfs]
    tables = tables_from_pmf(pmfs, offsets)
    n = draw(st.integers(0, 400))
    indexes = rng.integers(0, count, n).astype(np.uint8)
    inside = tables.offset[indexes] + rng.integers(0, tables.length[indexes])
    anywhere = rng.integers(INT32.min, INT32.max, n, endpoint=True) >> rng.integers(0, 32, n)
    ends = rng.choice([INT32.min, INT32.max, -1, 0], n)
    far = draw(st.sampled_from([0.0, 0.05, 1.0]))
    kind = rng.choice(3, n, p=[1 - far, far / 2, far / 2])
    symbols = np.choose(kind, [inside, anywhere, ends]).clip(INT32.min, INT32.max).astype(np.int32)
    return symbols, indexes, tables


@settings(max_examples=150, deadline=None)
@given(coding_problems(), st.sampled_from(LANES))
def test_native_and_oracle_agree(problem, lanes):
    symbols, indexes, tables = problem
    data = native_encode(symbols, indexes, tables, lanes)
    assert data == rans_oracle.encode(symbols.tolist(), indexes.tolist(), tables, lanes)
    assert rans_oracle.decode(data, indexes.tolist(), tables) == symbols.tolist()
    decoded = rans.decode(data, indexes, tables)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, symbols)


@settings(max_examples=100, deadline=None)
@given(coding_problems(), st.sampled_from(LANES), st.lists(st.integers(0, 400), max_size=6))
def test_the_stream_does_not_depend_on_the_division_into_calls(problem, lanes, cuts):
    symbols, indexes, tables = problem
    bounds = np.unique([0, *np.minimum(cuts, len(symbols)), len(symbols)])
    pieces = [slice(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    encoder = rans.Encoder(tables)
    for piece in pieces:
        reused = symbols[piece].copy()
        encoder.push(reused, indexes[piece])
        reused[:] = 0
    assert encoder.finish() == rans.encode(symbols, indexes, tables)

    native = _rans.TableSet(tables.frequencies, tables.length, tables.offset)
    data = _rans.encode(native, [(symbols[piece], indexes[piece]) for piece in pieces], lanes)
    assert data == native_encode(symbols, indexes, tables, lanes)
    decoder = rans.Decoder(data, tables)
    for piece in reversed(pieces):  # pulled in other pieces than pushed
        mirrored = slice(len(symbols) - piece.stop, len(symbols) - piece.start)
        np.testing.assert_array_equal(decoder.pull(indexes[mirrored]), symbols[mirrored])
    decoder.finish()


@pytest.mark.parametrize("lanes", LANES)
def test_longest_tables(lanes):
    rng = np.random.default_rng(1)
    symbols = rng.integers(-30010, 35545, 3000).astype(np.int32)
    indexes = rng.integers(0, 2, 3000).astype(np.uint8)
    symbols[::3] = 299
    data = native_encode(symbols, indexes, LONG, lanes)
    np.testing.assert_array_equal(rans.decode(data, indexes, LONG), symbols)


def test_256_tables():
    tables = GAUSSIAN.concat(GAUSSIAN).concat(GAUSSIAN).concat(GAUSSIAN)
    symbols, indexes = gaussian_symbols(4000)
    shifted = indexes + np.arange(4000, dtype=np.uint8) % 4 * 64
    data = rans.encode(symbols, shifted.astype(np.uint8), tables)
    assert data == rans.encode(symbols, indexes, GAUSSIAN)
    np.testing.assert_array_equal(rans.decode(data, shifted.astype(np.uint8), tables), symbols)


@pytest.mark.parametrize("symbol", [INT32.min, INT32.min + 1, -(2**16), -9, -8, 0, 2, 3, 2**15, INT32.max - 1, INT32.max])
@pytest.mark.parametrize("index", range(4))
def test_every_int32_round_trips(symbol, index):
    symbols, indexes = np.full(3, symbol, np.int32), np.full(3, index, np.uint8)
    np.testing.assert_array_equal(rans.decode(rans.encode(symbols, indexes, SMALL), indexes, SMALL), symbols)


def test_int16_and_int32_give_the_same_bytes():
    symbols, indexes = gaussian_symbols(2000, dtype=np.int16)
    assert rans.encode(symbols, indexes, GAUSSIAN) == rans.encode(symbols.astype(np.int32), indexes, GAUSSIAN)


def test_torch_tensors_and_strided_arrays():
    symbols, indexes = gaussian_symbols(2000)
    data = rans.encode(symbols[::2], indexes[::2], GAUSSIAN)
    tensors = torch.from_numpy(symbols)[::2], torch.from_numpy(indexes)[::2]
    assert rans.encode(*tensors, GAUSSIAN) == data
    decoded = rans.decode(data, tensors[1], GAUSSIAN)
    assert decoded.dtype == torch.int32 and torch.equal(decoded, tensors[0])
    assert isinstance(rans.decode(data, indexes[::2], GAUSSIAN), np.ndarray)
    buffer = bytearray(data)
    assert torch.equal(rans.decode(memoryview(buffer), tensors[1], GAUSSIAN), tensors[0])


def test_an_empty_sequence_is_coded_in_zero_bytes():
    none = np.array([], np.int16), np.array([], np.uint8)
    assert rans.encode(*none, SMALL) == b"" == rans.Encoder(SMALL).finish()
    decoder = rans.Decoder(b"", SMALL)
    assert len(decoder.pull(none[1])) == 0
    decoder.finish()
    for index in range(4):
        with pytest.raises(FormatError):
            decoder.pull(np.full(1, index, np.uint8))


GOLDEN_INDEXES = [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 2, 0, 0, 0]
GOLDEN_SYMBOLS = [0, -1, 1, 0, 2, -2, 0, 0, 100, 7, 8, 0, -1]
GOLDEN_SYMBOLS += [INT32.max - 1, INT32.max, INT32.min, INT32.max, 0, 0, 1]
GOLDEN = {
    1: ("001536d071226701b87e2314aa811a54fffffffffdffff810080ffff0000180a"),
    2: ("01f110d51d55380250151c020000a77478d10841b796fffffffffdff30460080ffff00004860"),
    4: ("02372f4f1422bb927f7b015f95000000006bfa266755000000ef5e23cece010000f0fe3586fffffffffdff88fc0080ffff00000000"),
    8: (
        "030f91c438aeb110d001be9f97ca2300cffca8ca23000000d08197ca2300000018ff1e28d203000098fe523216020000"
        "587f6b3101000000e755237706000000fffffffffdff00000080ffff00000000"
    ),
}


@pytest.mark.parametrize("lanes", LANES)
def test_golden_words(lanes):
    """The format of existing files: if this fails, old files no longer decode."""
    data = bytes.fromhex(GOLDEN[lanes])
    symbols, indexes = np.array(GOLDEN_SYMBOLS, np.int32), np.array(GOLDEN_INDEXES, np.uint8)
    assert native_encode(symbols, indexes, SMALL, lanes) == data
    np.testing.assert_array_equal(rans.decode(data, indexes, SMALL), symbols)
    assert rans_oracle.decode(data, GOLDEN_INDEXES, SMALL) == GOLDEN_SYMBOLS


def test_lanes_follow_the_coded_size():
    row = make_tables([[256] * 256], [0])  # 8 bits a symbol (escapes a little more), so n symbols are n bytes
    for n, lanes in ((31999, 1), (32000, 2), (63999, 2), (64000, 4), (127999, 4), (128000, 8), (300000, 8)):
        symbols, indexes = np.full(n, 3, np.int16), np.zeros(n, np.uint8)
        data = rans.encode(symbols, indexes, row)
        assert 1 << data[0] == lanes
        assert lanes == 1 or 8 * lanes <= 0.0005 * len(data)
        if n == 32000:
            assert rans_oracle.choose_lanes(symbols.tolist(), indexes.tolist(), row) == lanes


@pytest.mark.parametrize("case", RANS_CASES, ids=str)
def test_size_is_the_entropy(case):
    symbols, indexes = case.symbols()
    data = rans.encode(symbols, indexes, GAUSSIAN)
    assert case.least < len(data) < case.most
    for entropy in (gaussian_bytes(symbols, indexes), GAUSSIAN.ideal_bits(symbols, indexes) / 8):
        assert entropy * (1 - case.share) < len(data) <= entropy * (1 + case.share) + case.extra
    np.testing.assert_array_equal(rans.decode(data, indexes, GAUSSIAN), symbols)


def decode_whatever(data: bytes, indexes: np.ndarray, tables: Tables) -> np.ndarray | None:
    try:
        return rans.decode(data, indexes, tables)
    except FormatError:
        return None


@pytest.mark.parametrize("lanes", LANES)
def test_damaged_data_raises_or_decodes_to_other_symbols(lanes):
    """Every truncation, every single-byte change and every appended byte.

    Some changes only give other symbols, which the container's checksum detects. But the decoded symbols are
    always those that these bytes encode.
    """
    rng = np.random.default_rng(lanes)
    symbols, indexes = rng.integers(-3, 4, 60).astype(np.int32), rng.integers(0, 4, 60).astype(np.uint8)
    symbols[::7] = rng.integers(INT32.min, INT32.max, len(symbols[::7]))
    data = native_encode(symbols, indexes, SMALL, lanes)

    for end in range(len(data)):
        assert decode_whatever(data[:end], indexes, SMALL) is None
    for at in range(len(data)):
        for value in range(256):
            damaged = data[:at] + bytes([value]) + data[at + 1 :]
            decoded = decode_whatever(damaged, indexes, SMALL)
            assert decoded is None or native_encode(decoded, indexes, SMALL, 1 << damaged[0]) == damaged
    for value in range(256):
        assert decode_whatever(data + bytes([value]), indexes, SMALL) is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 2**32), st.booleans())
@example(b"", 1413679, False)
def test_arbitrary_bytes_raise_or_decode_to_symbols(data, seed, plausible):
    rng = np.random.default_rng(seed)
    if plausible and data:  # a lane count and states in range, so that decoding gets somewhere
        lanes = 1 << data[0] % 4
        states = rng.integers(2**31, 2**63 - 1, lanes, dtype=np.int64)
        data = bytes([data[0] % 4]) + states.tobytes() + data[1 : 1 + len(data) // 4 * 4]
    indexes = rng.integers(0, 4, rng.integers(0, 300)).astype(np.uint8)
    decoded = decode_whatever(data, indexes, SMALL)
    lanes = 1 << data[0] if data else 1  # no bytes are no symbols
    assert decoded is None or native_encode(decoded, indexes, SMALL, lanes) == data


def test_wrong_count_is_an_error():
    symbols, indexes = gaussian_symbols(1000, largest_index=20)
    data = rans.encode(symbols, indexes, GAUSSIAN)
    for n in (0, 1, 999):
        with pytest.raises(FormatError, match="left after its last symbol|does not end where coding began"):
            rans.decode(data, indexes[:n], GAUSSIAN)
    decoder = rans.Decoder(data, GAUSSIAN)
    decoder.pull(indexes)
    decoder.finish()
    with pytest.raises(FormatError, match="ends before its last symbol"):
        decoder.pull(np.full(1, 63, np.uint8))
    decoder.finish()  # a failed pull takes nothing


def test_other_indexes_or_tables_are_an_error():
    symbols, indexes = gaussian_symbols(1000)
    data = rans.encode(symbols, indexes, GAUSSIAN)
    for at in (0, 500, 999):
        other = indexes.copy()
        other[at] ^= 1
        with pytest.raises(FormatError, match="damaged, or coded with other tables"):
            rans.decode(data, other, GAUSSIAN)


def test_a_long_escape_is_refused():
    """A unary prefix of all ones: the count is bounded before anything is shifted by it."""
    ones = bytes([0]) + (2**63 - 1).to_bytes(8, "little") + b"\xff" * 400
    with pytest.raises(FormatError, match="too long"):
        rans.decode(ones, np.full(1, 2, np.uint8), SMALL)


def test_an_escape_beyond_int32_is_refused():
    steps = [(0, 65536)] + [(32768, 32768)] * 32 + [(0, 32768)] + [(32768, 32768)] * 33
    x, words = 2**31, []
    for start, frequency in reversed(steps):
        if x >= frequency << 47:
            words.append(x % 2**32)
            x >>= 32
        x = x // frequency * 2**16 + start + x % frequency
    data = bytes([0]) + x.to_bytes(max(5, (x.bit_length() + 7) // 8), "little")
    data += b"".join(word.to_bytes(4, "little") for word in reversed(words))
    with pytest.raises(FormatError, match="outside int32"):
        rans.decode(data, np.full(1, 2, np.uint8), SMALL)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x04" + bytes(8), "first byte"),
        (b"\x00", "shorter than its coder states"),
        (b"\x03" + b"\x00\x00\x00\x80\x00" + bytes(48), "shorter than its coder states"),
        (b"\x00\xff\xff\xff\x7f\x00", "state is out of range"),
        (b"\x00" + b"\x00" * 7 + b"\x80", "state is out of range"),
    ],
)
def test_invalid_stream_headers_are_refused(data, message):
    with pytest.raises(FormatError, match=message) as caught:
        rans.Decoder(data, SMALL)
    assert isinstance(caught.value, DkicError)


def test_wrong_arguments():
    symbols, indexes = gaussian_symbols(10)
    for arguments, error, message in (
        ((symbols.astype(np.int64), indexes), TypeError, "symbols: must be int16 or int32, not int64"),
        ((symbols.astype(">i4"), indexes), TypeError, "symbols: must be int16 or int32, not >i4"),
        ((symbols.tolist(), indexes), TypeError, "symbols: must be a numpy array or torch tensor .* not list"),
        ((torch.zeros(10), indexes), TypeError, "symbols: must be int16 or int32, not torch.float32"),
        ((torch.zeros(10, dtype=torch.int16, device="meta"), indexes), TypeError, "symbols: must be on the C"),
        ((symbols.reshape(2, 5), indexes), ValueError, r"symbols: must have one dimension, .* \(2, 5\)"),
        ((symbols, indexes.astype(np.int32)), TypeError, "indexes: must be uint8, not int32"),
        ((symbols, indexes[:9]), ValueError, "symbols, indexes: must have one length, .* 10 and 9"),
        ((symbols, indexes + np.uint8(64)), ValueError, "indexes: must be below the number of tables, 64"),
    ):
        with pytest.raises(error, match=message):
            rans.encode(*arguments, GAUSSIAN)
        with pytest.raises(error, match=message):
            rans.Encoder(GAUSSIAN).push(*arguments)
    with pytest.raises(TypeError, match="tables: must be .*Tables, not dict"):
        rans.encode(symbols, indexes, {})
    with pytest.raises(TypeError, match="data: must be bytes, not str"):
        rans.Decoder("", GAUSSIAN)
    with pytest.raises(ValueError, match="indexes: must be below the number of tables, 4, not 4"):
        rans.Decoder(b"", SMALL).pull(np.full(2, 4, np.uint8))


def test_the_native_module_checks_its_arguments():
    """The native module, called without the checks of rans.py, never accesses memory out of bounds."""
    native = _rans.TableSet(SMALL.frequencies, SMALL.length, SMALL.offset)
    flat, index = np.zeros(4, np.int32), np.zeros(4, np.uint8)
    for pair in ((flat, index[:3]), (flat, index + np.uint8(4))):
        with pytest.raises(ValueError, match="same length|below the number of tables"):
            _rans.encode(native, [pair])
    square = flat.reshape(2, 2)
    for pair in ((flat[::2], index[::2]), (flat.astype(np.int64), index), (flat, flat), (square, index)):
        with pytest.raises(TypeError):
            _rans.encode(native, [pair])
    with pytest.raises(ValueError, match="lanes must be"):
        _rans.encode(native, [(flat, index)], 3)
    for length in (0, 5, -1):
        with pytest.raises(ValueError, match="length of table 1"):
            _rans.TableSet(SMALL.frequencies, np.array([4, length, 1, 3], np.int32), SMALL.offset)
    end = INT32.max
    for row in ([65536, 0, 0, 0], [65535, 2, -1, 0], [65535, 1, 1, 1], [end, end, 1, 1], [1, 1, 1, 1]):
        with pytest.raises(ValueError, match="frequencies of table 0 must"):
            _rans.TableSet(np.array([row], np.int32), np.array([4], np.int32), np.array([0], np.int32))


def test_tables_are_prepared_once():
    tables = make_tables([[65535, 1]], [0])
    assert rans._native(tables) is rans._native(tables)
    gc.collect()  # what other tests left
    kept = len(rans._native_tables)
    del tables
    gc.collect()
    assert len(rans._native_tables) == kept - 1


def test_threads_share_tables():
    symbols, indexes = gaussian_symbols(100_000)
    data, results = rans.encode(symbols, indexes, GAUSSIAN), []

    def work() -> None:
        again = rans.encode(symbols, indexes, GAUSSIAN)
        results.append(again == data and np.array_equal(rans.decode(again, indexes, GAUSSIAN), symbols))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4


def test_crc32c():
    """RFC 3720's vectors, and any split."""
    assert _rans.crc32c(b"") == 0
    assert _rans.crc32c(b"123456789") == 0xE3069283
    assert _rans.crc32c(bytes(32)) == 0x8A9136AA
    assert _rans.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert _rans.crc32c(bytes(range(32))) == 0x46DD794E
    data = np.random.default_rng(0).bytes(100)
    for at in range(101):
        assert _rans.crc32c(data[at:], _rans.crc32c(data[:at])) == _rans.crc32c(data)
