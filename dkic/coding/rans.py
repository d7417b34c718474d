"""The rANS entropy coder: encodes integer symbols with frequency tables to bytes, and decodes them.

    data = encode(symbols, indexes, tables)
    symbols = decode(data, indexes, tables)

or in pieces, first pushed, first pulled:

    encoder = Encoder(tables)
    encoder.push(symbols, indexes)
    data = encoder.finish()

    decoder = Decoder(data, tables)
    symbols = decoder.pull(indexes)
    decoder.finish()

Symbols and indexes are 1-d numpy arrays or CPU torch tensors, symbols int16 or int32, indexes uint8: the
table of each symbol. Decoded symbols are int32, of the kind (numpy or torch) of the indexes. The stream does
not depend on how the symbols are divided into pushes or pulls.

The stream
----------
Integers are little-endian. A stream of no symbols is zero bytes; any other is

    1 byte               log2 of the number of lanes N: 0, 1, 2 or 3
    5 to 8 bytes         state of lane 0, cut after its last byte that is not zero, but not below 5 bytes; how
                         many they are follows from the words, which fill the rest, having 4 bytes each
    8 bytes, N - 1 times states of lanes 1 ... N - 1
    4 bytes each         words

Symbol i of the stream belongs to lane i mod N. All lanes share the words, read first to last. A state x is in
[2**31, 2**63). To decode a step of b bits (16 at most; a symbol is a step of 16) with lane state x:

    slot = x mod 2**16
    find the part [start, start + f) of [0, 2**16) that holds slot
    x = f * floor(x / 2**16) + slot - start
    if x < 2**31: x = x * 2**32 + next word

For a symbol the parts are those of its table: f is the frequency of the table's number s, start the sum of
those before it, and the symbol is offset + s. For b plain bits there are 2**b equal parts, and the bits are
floor(slot / 2**(16 - b)).

The last number of a table of length n is the escape. After it, in the same lane, come plain bits: ones, q of
them, and a zero, one bit a step; then b = k + q bits, most significant first, in steps of 16, the first step
taking the remaining b mod 16, if any. k = max(1, bit_length(n) - 5), and b is at most 33. With d = 2**b +
those bits - 2**k the symbol is offset + (n - 1) + d / 2 for even d and offset - 1 - (d - 1) / 2 for odd d; it
is an int32.

After the last symbol all words have been read and every state is 2**31, as it was when the encoder, which
runs backwards, began. A decoder with other tables or indexes than the encoder almost never ends in that state.
However, a changed byte may only change symbols: store a checksum with a stream.

An encoder may choose N freely. This one uses the largest N with at least 16,000 bytes a lane, so that the states
are at most 0.05 % of the stream, otherwise 1.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from dkic.entropy.tables import Tables
from dkic.errors import FormatError

try:
    from dkic._native import _rans
except ImportError as error:
    raise ImportError(
        f"dkic's entropy coder: can't be loaded ({error}); build it with `python3 -m pip install -e .` in "
        "dkic's source folder (a C++20 compiler is needed)"
    ) from error

if TYPE_CHECKING:
    import torch

    Array = TypeVar("Array", np.ndarray, torch.Tensor)

_native_tables: WeakKeyDictionary[Tables, Any] = WeakKeyDictionary()


def encode(symbols: Array, indexes: Array, tables: Tables) -> bytes:
    """Encodes symbols, each with the table of its index.

    symbols: int16 or int32 `[n]`; indexes: uint8 `[n]`, each below `len(tables)`. Any symbol can be encoded;
    one outside its table takes more bits. Raises TypeError or ValueError, naming the argument.
    """
    return _rans.encode(_native(tables), [_check_pair(symbols, indexes, tables)])


def decode(data: bytes, indexes: Array, tables: Tables) -> Array:
    """Decodes the symbols `[n]`, int32, that were encoded with these indexes (uint8 `[n]`) and tables.

    Raises FormatError if data is not exactly such a stream; TypeError or ValueError, naming the argument,
    for wrong indexes.
    """
    decoder = Decoder(data, tables)
    symbols = decoder.pull(indexes)
    decoder.finish()
    return symbols


class Encoder:
    """Collects symbols and encodes them as one stream. The arrays are copied and may be reused."""

    def __init__(self, tables: Tables) -> None:
        self._native = _native(tables)
        self._tables = tables
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []

    def push(self, symbols: Array, indexes: Array) -> None:
        """Appends symbols, int16 or int32 `[n]`, with table indexes, uint8 `[n]`; errors as for `encode`."""
        symbols_array, indexes_array = _check_pair(symbols, indexes, self._tables)
        self._pairs.append((symbols_array.copy(), indexes_array.copy()))

    def finish(self) -> bytes:
        """The stream of all symbols pushed so far."""
        return _rans.encode(self._native, self._pairs)


class Decoder:
    """Decodes the symbols of a stream in pieces of any size."""

    def __init__(self, data: bytes, tables: Tables) -> None:
        """data: the result of `encode` or `Encoder.finish` for the same tables. Raises FormatError."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data: must be bytes, not {type(data).__name__}")
        self._tables = tables
        try:
            self._decoder = _rans.Decoder(data, _native(tables))
        except _rans.Damaged as error:
            raise _format_error(error) from None

    def pull(self, indexes: Array) -> Array:
        """The next symbols `[n]`, int32, for the table indexes (uint8 `[n]`) that they were encoded with.

        Raises FormatError if the stream can't contain them; TypeError or ValueError for wrong indexes.
        """
        array = _check_indexes(indexes, self._tables)
        try:
            symbols = self._decoder.pull(array)
        except _rans.Damaged as error:
            raise _format_error(error) from None
        if isinstance(indexes, np.ndarray):
            return symbols
        return sys.modules["torch"].from_numpy(symbols)

    def finish(self) -> None:
        """Raises FormatError unless the symbols pulled so far are exactly those of the stream."""
        try:
            self._decoder.finish()
        except _rans.Damaged as error:
            raise _format_error(error) from None


def _format_error(error: Exception) -> FormatError:
    return FormatError(f"stream: damaged, or coded with other tables ({error})")


def _native(tables: Tables) -> Any:
    """The native coder's form of the tables, cached for each `Tables` object."""
    if not isinstance(tables, Tables):
        raise TypeError(f"tables: must be dkic.entropy.tables.Tables, not {type(tables).__name__}")
    native = _native_tables.get(tables)
    if native is None:
        native = _rans.TableSet(tables.frequencies, tables.length, tables.offset)
        _native_tables[tables] = native
    return native


def _as_array(value: Array, name: str, dtypes: tuple[type, ...]) -> np.ndarray:
    """The argument as a contiguous numpy array, without a copy if it is contiguous."""
    allowed = " or ".join(np.dtype(dtype).name for dtype in dtypes)
    torch = sys.modules.get("torch")  # a tensor can exist only if torch is imported
    array = value
    if torch is not None and isinstance(value, torch.Tensor):
        if value.device.type != "cpu":
            raise TypeError(f"{name}: must be on the CPU, not on {value.device}")
        if value.dtype not in (getattr(torch, np.dtype(dtype).name) for dtype in dtypes):
            raise TypeError(f"{name}: must be {allowed}, not {value.dtype}")
        array = value.numpy()
    elif not isinstance(value, np.ndarray):
        kind = type(value).__name__
        raise TypeError(f"{name}: must be a numpy array or torch tensor of {allowed}, not {kind}")
    if array.dtype not in dtypes:
        raise TypeError(f"{name}: must be {allowed}, not {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name}: must have one dimension, not shape {tuple(array.shape)}")
    return np.ascontiguousarray(array)


def _check_indexes(indexes: Array, tables: Tables) -> np.ndarray:
    array = _as_array(indexes, "indexes", (np.uint8,))
    if array.size and array.max() >= len(tables):
        raise ValueError(f"indexes: must be below the number of tables, {len(tables)}, not {array.max()}")
    return array


def _check_pair(symbols: Array, indexes: Array, tables: Tables) -> tuple[np.ndarray, np.ndarray]:
    symbols_array = _as_array(symbols, "symbols", (np.int16, np.int32))
    indexes_array = _check_indexes(indexes, tables)
    if len(symbols_array) != len(indexes_array):
        raise ValueError(f"symbols, indexes: must have one length, not {len(symbols_array)} and {len(indexes_array)}")
    return symbols_array, indexes_array
