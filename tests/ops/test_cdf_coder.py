"""dkic.ops.cdf_coder and CompressAI's coder have interchangeable streams; damaged streams and wrong tables are refused."""

import random

import pytest
import torch
from compressai import ans
from torch import Tensor

from dkic.compressai import BufferedRansEncoder, RansDecoder, RansEncoder
from dkic.errors import FormatError
from dkic.ops.cdf_coder import StreamDecoder, cdf_decode, cdf_encode


def tables_of(rows: int, seed: int = 0, most: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """CDFs of random lengths, some with probabilities of 0 at the ends of others, one of a single symbol and its sentinel."""
    draw = random.Random(seed)
    cdfs = []
    for row in range(rows):
        length = 3 if row == 0 else draw.randint(3, most)
        cdfs.append([0, *sorted(draw.sample(range(1, 65536), length - 2)), 65536])
    columns = max(map(len, cdfs)) + 2
    cdf = torch.tensor([row + [0] * (columns - len(row)) for row in cdfs], dtype=torch.int32)
    offset = torch.tensor([draw.randint(-50, 10) for _ in cdfs], dtype=torch.int32)
    return cdf, torch.tensor([len(row) for row in cdfs], dtype=torch.int32), offset


def symbols_of(shape: tuple[int, ...], rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Symbols in and around the rows' ranges, some far out, and indexes."""
    generator = torch.Generator().manual_seed(seed)
    symbols = torch.randint(-60, 40, shape, generator=generator, dtype=torch.int32)
    far = torch.randint(-(2**26), 2**26, shape, generator=generator, dtype=torch.int32)  # CompressAI's encoder hangs beyond 2^27
    symbols = torch.where(torch.rand(shape, generator=generator) < 0.05, far, symbols)
    return symbols, torch.randint(0, rows, shape, generator=generator, dtype=torch.int32)


def lists(tables) -> list:
    return [t.tolist() for t in tables]


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (2, 3), (3, 3), (1000, 5), (700, 900), (5000, 64)])
def test_streams_are_compressai_s(count, rows):
    tables = tables_of(rows)
    symbols, indexes = symbols_of((count,), rows)
    if count > 2:  # its encoder writes before its buffer where there are fewer words than two
        expected = ans.RansEncoder().encode_with_indexes(symbols.tolist(), indexes.tolist(), *lists(tables))
        assert cdf_encode(symbols[None], indexes[None], *tables) == [expected]
    (stream,) = cdf_encode(symbols[None], indexes[None], *tables)
    assert ans.RansDecoder().decode_with_indexes(stream, indexes.tolist(), *lists(tables)) == symbols.tolist()
    assert torch.equal(cdf_decode([stream], indexes[None], *tables)[0], symbols)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
def test_batches_and_dtypes_of_indexes(dtype):
    tables = tables_of(7)
    symbols, indexes = symbols_of((3, 2, 5, 4), 7)
    streams = cdf_encode(symbols.long(), indexes.to(dtype), *(t.long() for t in tables))
    assert streams == [cdf_encode(s[None], i[None], *tables)[0] for s, i in zip(symbols, indexes, strict=True)]
    assert torch.equal(cdf_decode(streams, indexes.to(dtype), *tables), symbols)


def test_indexes_broadcast():
    tables = tables_of(4)
    symbols, _ = symbols_of((2, 4, 3, 3), 4)
    channel = torch.arange(4).view(4, 1, 1)
    assert cdf_encode(symbols, channel, *tables) == cdf_encode(symbols, channel.expand(symbols.shape), *tables)


def test_every_int32_that_fits_is_coded():
    tables = tables_of(3)
    ends = torch.tensor([[-(2**31) + 100, 2**31 - 100, -(2**28), 2**28, 2**30, -1, 0]], dtype=torch.int32)
    indexes = torch.tensor([[0, 1, 2, 0, 1, 2, 0]])
    assert torch.equal(cdf_decode(cdf_encode(ends, indexes, *tables), indexes, *tables), ends)


def test_an_empty_stream_has_eight_bytes():
    none = torch.zeros(2, 0, dtype=torch.int32)
    streams = cdf_encode(none, none, *tables_of(1))
    assert streams == [(2**31).to_bytes(8, "little")] * 2
    assert cdf_decode(streams, none, *tables_of(1)).shape == (2, 0)
    assert cdf_encode(none[:0], none[:0], *tables_of(1)) == []


def test_threads_do_not_change_streams():
    symbols, indexes = symbols_of((5, 400), 9)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = cdf_encode(symbols, indexes, *tables_of(9))
        torch.set_num_threads(3)
        assert cdf_encode(symbols, indexes, *tables_of(9)) == expected
        assert torch.equal(cdf_decode(expected, indexes, *tables_of(9)), symbols)
    finally:
        torch.set_num_threads(before)


# ---- Damage ----


def test_mutated_streams_are_refused_or_decode_to_numbers():
    tables = tables_of(20)
    symbols, indexes = symbols_of((1, 300), 20)
    (stream,) = cdf_encode(symbols, indexes, *tables)
    draw, refused = random.Random(0), 0
    for _ in range(400):
        damaged = bytearray(stream)
        for _ in range(draw.randint(1, 3)):
            kind = draw.randrange(3)
            if kind == 0 and damaged:
                damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
            elif kind == 1:
                del damaged[draw.randrange(len(damaged) + 1) :]
            else:
                damaged += bytes(draw.randrange(256) for _ in range(draw.randint(1, 9)))
        if bytes(damaged) == stream:
            continue
        try:
            assert cdf_decode([bytes(damaged)], indexes, *tables).shape == symbols.shape
        except FormatError:
            refused += 1
    assert refused > 350


@pytest.mark.parametrize("data", [b"", bytes(7), bytes(8), b"\xff" * 8, bytes(9), b"\xff" * 64])
def test_bytes_that_are_not_a_stream_are_refused(data):
    symbols, indexes = symbols_of((1, 50), 5)
    with pytest.raises(FormatError, match="stream 0"):
        cdf_decode([data], indexes, *tables_of(5))


def test_the_damaged_stream_of_a_batch_is_named():
    symbols, indexes = symbols_of((3, 50), 5)
    streams = cdf_encode(symbols, indexes, *tables_of(5))
    streams[2] = streams[2][:-4]
    with pytest.raises(FormatError, match="stream 2"):
        cdf_decode(streams, indexes, *tables_of(5))


def test_an_escape_that_is_too_long_is_refused():
    tables = torch.tensor([[0, 65536]]), torch.tensor([2]), torch.tensor([0])  # the sentinel alone: nibbles only
    state = (2**31 << 20 | 0xFFFFF).to_bytes(8, "little")  # 15, 15, ... nibbles
    with pytest.raises(FormatError):
        cdf_decode([state], torch.zeros(1, 1, dtype=torch.int32), *tables)


# ---- Wrong arguments ----

GOOD = {"cdf": [[0, 5, 65536]], "cdf_length": [3], "offset": [0]}


@pytest.mark.parametrize(
    ("changes", "token"),
    [
        ({"cdf_length": [1]}, "length"),
        ({"cdf_length": [4]}, "length"),
        ({"cdf_length": [-(2**31)]}, "length"),
        ({"cdf": [[1, 5, 65536]]}, "65536"),
        ({"cdf": [[0, 5, 65535]]}, "65536"),
        ({"cdf": [[0, -5, 65536]]}, "65536"),
        ({"cdf": [[0, 70000, 65536]]}, "65536"),
    ],
)
def test_rows_that_are_not_cdfs_are_refused(changes, token):
    tables = [torch.tensor(values) for values in {**GOOD, **changes}.values()]
    one = torch.zeros(1, 40, dtype=torch.int32)
    for call in (lambda: cdf_encode(one, one, *tables), lambda: cdf_decode([bytes(8)[:4] + bytes([1, 0, 0, 0])], one, *tables)):
        with pytest.raises(RuntimeError, match=token):
            call()


def test_a_symbol_of_probability_0():
    tables = torch.tensor([[0, 5, 5, 65536]]), torch.tensor([4]), torch.tensor([0])
    with pytest.raises(RuntimeError, match="probability 0"):
        cdf_encode(torch.tensor([[1]]), torch.tensor([[0]]), *tables)
    streams = cdf_encode(torch.tensor([[0, 2, 7]]), torch.tensor([[0, 0, 0]]), *tables)
    assert cdf_decode(streams, torch.tensor([[0, 0, 0]]), *tables).tolist() == [[0, 2, 7]]


@pytest.mark.parametrize("index", [-1, 5, 2**31, 2**40])
def test_indexes_without_a_row(index):
    symbols, _ = symbols_of((1, 3), 5)
    indexes = torch.tensor([[0, index, 0]])
    with pytest.raises(RuntimeError, match="row"):
        cdf_encode(symbols, indexes, *tables_of(5))
    with pytest.raises(RuntimeError, match="row"):
        cdf_decode([bytes(4) + bytes([1, 0, 0, 0])], indexes, *tables_of(5))


@pytest.mark.parametrize(
    ("arguments", "exception", "token"),
    [
        ((torch.ones(1, 2), torch.ones(1, 2).int(), *tables_of(2)), TypeError, "symbols"),
        ((torch.ones(1, 2).int(), torch.ones(1, 2), *tables_of(2)), TypeError, "indexes"),
        (([1], torch.ones(1, 2).int(), *tables_of(2)), TypeError, "symbols"),
        ((torch.tensor(1), torch.tensor(1), *tables_of(2)), ValueError, "batch"),
        ((torch.ones(1, 2).int(), torch.ones(1, 3).int(), *tables_of(2)), ValueError, "broadcast"),
        ((torch.tensor([[2**31]]), torch.zeros(1, 1).int(), *tables_of(2)), ValueError, "int32"),
        ((torch.ones(1, 2).int(), torch.ones(1, 2).int(), *tables_of(2)[:2], torch.zeros(3).int()), ValueError, "offset"),
        ((torch.ones(1, 2).int(), torch.ones(1, 2).int(), *(t[0] for t in tables_of(2))), ValueError, "cdf"),
    ],
)
def test_wrong_arguments(arguments, exception, token):
    with pytest.raises(exception, match=token):
        cdf_encode(*arguments)


@pytest.mark.parametrize(
    ("strings", "exception"), [(b"12345678", TypeError), ([1], TypeError), (["a"], TypeError), ([], ValueError)]
)
def test_wrong_strings(strings, exception):
    with pytest.raises(exception, match="strings"):
        cdf_decode(strings, torch.zeros(1, 2).int(), *tables_of(1))


# ---- Part by part, and CompressAI's classes ----


def test_part_by_part():
    tables = tables_of(6)
    symbols, indexes = symbols_of((90,), 6)
    (stream,) = cdf_encode(symbols[None], indexes[None], *tables)
    decoder = StreamDecoder(stream)
    parts = [decoder.decode(part, *tables) for part in indexes.split([1, 30, 0, 59])]
    assert torch.equal(torch.cat(parts), symbols)
    with pytest.raises(FormatError):
        decoder.decode(torch.zeros(5000, dtype=torch.int32), *tables)


@pytest.mark.parametrize("as_lists", [True, False])
def test_classes_of_compressai_ans(as_lists):
    tables, others = tables_of(6), tables_of(3, seed=1, most=70)
    symbols, indexes = symbols_of((90,), 3)
    values = (lambda t: t.tolist()) if as_lists else (lambda t: t)
    args, other_args = [[*map(values, (symbols, indexes, *t))] for t in (tables, others)]
    theirs, ours = ans.BufferedRansEncoder(), BufferedRansEncoder()
    for _ in range(2):  # a flush begins anew
        for each in (lists(args) if not as_lists else args, lists(other_args) if not as_lists else other_args):
            theirs.encode_with_indexes(*each)
        ours.encode_with_indexes(*args)
        ours.encode_with_indexes(*other_args)
        stream = theirs.flush()
        assert ours.flush() == stream
    decoder = RansDecoder()
    decoder.set_stream(stream)
    for given in (args, other_args):
        assert decoder.decode_stream(*given[1:]) == symbols.tolist()
    stream = RansEncoder().encode_with_indexes(*args)
    assert stream == ans.RansEncoder().encode_with_indexes(symbols.tolist(), indexes.tolist(), *lists(tables))
    assert RansDecoder().decode_with_indexes(stream, *args[1:]) == symbols.tolist()


def test_classes_without_symbols_or_stream():
    assert BufferedRansEncoder().flush() == (2**31).to_bytes(8, "little")
    with pytest.raises(FormatError, match="set_stream"):
        RansDecoder().decode_stream([0], *lists(tables_of(1)))


def test_opcheck():
    tables = tables_of(6)
    symbols, indexes = symbols_of((2, 30), 6)
    data, size = torch.ops.dkic.cdf_encode(symbols, indexes, *tables)
    torch.library.opcheck(torch.ops.dkic.cdf_encode.default, (symbols, indexes, *tables))
    torch.library.opcheck(torch.ops.dkic.cdf_decode.default, (data, size, indexes, *tables))
    first = data[: int(size[0])].clone()
    state = torch.zeros(2, dtype=torch.int64)
    torch.library.opcheck(torch.ops.dkic.cdf_decode_part.default, (first, state, indexes[:1], *tables))


@pytest.mark.parametrize("sizes", [[1, 1], [-1, 50], [2**40, 8], [4]], ids=str)
def test_native_code_refuses_sizes(sizes):
    with pytest.raises(RuntimeError, match="size"):
        torch.ops.dkic.cdf_decode(torch.zeros(49, dtype=torch.uint8), torch.tensor(sizes), torch.zeros(2, 3).int(), *tables_of(1))


@pytest.mark.parametrize("state", [[2**31, 0], [2**31, 1000], [1, 2], [-1, 2], [2**31, -5]], ids=str)
def test_native_code_refuses_states(state):
    with pytest.raises(RuntimeError, match="damaged"):
        torch.ops.dkic.cdf_decode_part(
            torch.zeros(16, dtype=torch.uint8), torch.tensor(state), torch.zeros(1, 3).int(), *tables_of(1)
        )


def test_tables_beyond_32_bits_are_refused():
    tables = {name: torch.tensor(values, dtype=torch.int64) for name, values in GOOD.items()}
    for name, value in (("offset", 2**32), ("cdf_length", 2**32 + 3), ("offset", -(2**31) - 1)):
        wrong = {**tables, name: torch.tensor([value], dtype=torch.int64)}
        with pytest.raises(ValueError, match=f"{name}: must hold 32-bit integers"):
            cdf_encode(torch.zeros(1, 1).int(), torch.zeros(1, 1).int(), *wrong.values())
