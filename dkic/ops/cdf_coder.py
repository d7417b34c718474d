"""Entropy coding with quantized CDFs, in the stream format of CompressAI 1.2 (rANS; see csrc/rans/cdf_coder.h)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dkic.errors import FormatError
from dkic.ops import backends
from dkic.ops.schemas import library

DAMAGED = "the entropy-coded stream is damaged or was coded with other tables"


def cdf_encode(symbols: Tensor, indexes: Tensor, cdf: Tensor, cdf_length: Tensor, offset: Tensor) -> list[bytes]:
    """Encodes a batch of symbols, one stream per sample; compatible with `compressai.ans.RansDecoder`.

    Args:
        symbols: integers `[N, ...]`, in the range of int32. A symbol outside the range of its table costs more bits.
        indexes: integers that broadcast to the shape of symbols: the row of cdf for each symbol.
        cdf: integers `[T, L]`, T unlimited. Row t increases from 0 to 65536 over its first `cdf_length[t]` entries; its last
            interval is the escape symbol, which precedes a symbol outside the range.
        cdf_length: integers `[T]`.
        offset: integers `[T]`: the first symbol of each row.

    These are the `quantized_cdf`, `cdf_length` and `offset` of a CompressAI entropy model. Samples are coded in parallel on
    PyTorch's threads; the result does not depend on their number. Tensors on other devices are copied to the CPU.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
        RuntimeError: an index is out of range, a row that is used is not a CDF, or a symbol has probability 0; or the CPU
            kernels are not available.
    """
    _check_cpu()
    symbols = _integers("cdf_encode", "symbols", symbols)
    streams = _streams_of("cdf_encode", "symbols", symbols)
    if symbols.dtype != torch.int32 and symbols.numel() and (symbols.min() < -(2**31) or symbols.max() >= 2**31):
        raise ValueError("cdf_encode/symbols: they exceed the range of int32; clamp them")
    indexes = _integers("cdf_encode", "indexes", indexes)
    if indexes.shape != symbols.shape:
        try:
            indexes = indexes.expand(symbols.shape)
        except RuntimeError:
            shapes = f"{list(indexes.shape)} does not broadcast to {list(symbols.shape)}"
            raise ValueError(f"cdf_encode/indexes: {shapes}; give them the shape of symbols") from None
    tables = check_tables("cdf_encode", cdf, cdf_length, offset)
    coded = _matrix(symbols, streams, torch.int32), _index_matrix(indexes, streams)
    data, size = torch.ops.dkic.cdf_encode(*coded, *tables)
    return to_bytes(data, size)


def cdf_decode(strings: Sequence[bytes], indexes: Tensor, cdf: Tensor, cdf_length: Tensor, offset: Tensor) -> Tensor:
    """Decodes a batch of streams from `cdf_encode` or `compressai.ans.RansEncoder`.

    Args:
        strings: N streams.
        indexes: integers `[N, ...]`, the indexes that the symbols were encoded with.
        cdf, cdf_length, offset: as for `cdf_encode`.

    Returns:
        int32 in the shape of indexes, on the CPU.

    Raises:
        FormatError: a stream is damaged, or was encoded with other indexes or tables. The format has no checksum: a changed byte
            can also decode to wrong symbols.
        TypeError, ValueError, RuntimeError: as for `cdf_encode`.
    """
    _check_cpu()
    indexes = _integers("cdf_decode", "indexes", indexes)
    streams = _streams_of("cdf_decode", "indexes", indexes)
    data, size = from_bytes("cdf_decode", strings, streams)
    symbols, intact = torch.ops.dkic.cdf_decode(
        data, size, _index_matrix(indexes, streams), *check_tables("cdf_decode", cdf, cdf_length, offset)
    )
    check_intact("cdf_decode", intact)
    return symbols.reshape(indexes.shape)


class StreamDecoder:
    """Decodes a stream in parts, for indexes that depend on earlier symbols."""

    def __init__(self, data: bytes) -> None:
        self._data, _ = from_bytes("StreamDecoder", [data], 1)
        self._state = torch.zeros(2, dtype=torch.int64, device="cpu")

    def decode(self, indexes: Tensor, cdf: Tensor, cdf_length: Tensor, offset: Tensor) -> Tensor:
        """The next symbols, int32, in the shape of indexes. Raises as `cdf_decode`, but does not check the end of the stream."""
        _check_cpu()
        indexes = _integers("StreamDecoder", "indexes", indexes)
        tables = check_tables("StreamDecoder", cdf, cdf_length, offset)
        try:
            symbols = torch.ops.dkic.cdf_decode_part(self._data, self._state, _index_matrix(indexes, 1), *tables)
        except RuntimeError as error:
            if "the stream is damaged" in str(error):
                raise FormatError(f"StreamDecoder/data: {DAMAGED}; check the indexes and tables") from None
            raise
        return symbols.reshape(indexes.shape)


def to_bytes(data: Tensor, size: Tensor) -> list[bytes]:
    """Splits the data of a native encoder into streams of the given sizes in bytes."""
    whole, begin, streams = data.numpy().tobytes(), 0, []
    for length in size.tolist():
        streams.append(whole[begin : begin + length])
        begin += length
    return streams


def from_bytes(op: str, strings: Sequence[bytes], streams: int) -> tuple[Tensor, Tensor]:
    """(data, size) of streams, the inputs of the native decoders."""
    if isinstance(strings, bytes | bytearray | str) or not all(isinstance(s, bytes | bytearray | memoryview) for s in strings):
        raise TypeError(f"{op}/strings: must be a sequence of bytes, one for each sample; give a list")
    if len(strings) != streams:
        raise ValueError(f"{op}/strings: {len(strings)} streams for {streams} samples; give one for each")
    whole = b"".join(strings)
    data = torch.from_numpy(np.frombuffer(whole, np.uint8).copy())
    return data, torch.tensor([len(s) for s in strings], dtype=torch.int64, device="cpu")


def check_intact(op: str, intact: Tensor) -> None:
    """Raises FormatError unless every stream was decoded exactly to its end."""
    if not intact.all():
        number = int(intact.logical_not().nonzero()[0])
        raise FormatError(f"{op}/strings: {DAMAGED} (stream {number}); check the indexes and tables")


def _check_cpu() -> None:
    if not torch.compiler.is_compiling() and (reason := backends.load_cpu()):
        raise RuntimeError(reason)


def _integers(op: str, name: str, t: Tensor) -> Tensor:
    if not isinstance(t, Tensor) or t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
        kind = t.dtype if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"{op}/{name}: must be a tensor of integers, and is {kind}; convert it with .int()")
    return t.detach().cpu()


def _streams_of(op: str, name: str, t: Tensor) -> int:
    if t.dim() == 0:
        raise ValueError(f"{op}/{name}: has no batch dimension; give [N, ...]")
    return t.shape[0]


def _matrix(t: Tensor, streams: int, dtype: torch.dtype) -> Tensor:
    return t.to(dtype).reshape(streams, t.numel() // max(streams, 1)).contiguous()


def _index_matrix(indexes: Tensor, streams: int) -> Tensor:
    if indexes.dtype == torch.int64 and indexes.numel() and (indexes.min() < 0 or indexes.max() >= 2**31):
        raise RuntimeError("indexes: must be from 0 to the number of rows of cdf")
    return _matrix(indexes, streams, torch.uint8 if indexes.dtype == torch.uint8 else torch.int32)


def check_tables(op: str, cdf: Tensor, cdf_length: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Converts tables for the native code. Raises TypeError or ValueError unless they have the form of `cdf_encode`."""
    named = {"cdf": cdf, "cdf_length": cdf_length, "offset": offset}
    tables = {name: _integers(op, name, t) for name, t in named.items()}
    rows = tables["cdf"].shape[0] if tables["cdf"].dim() == 2 else None
    if rows is None or tables["cdf_length"].shape != (rows,) or tables["offset"].shape != (rows,):
        shapes = ", ".join(f"{name} {list(t.shape)}" for name, t in tables.items())
        raise ValueError(f"{op}/cdf: shapes must be [T, L], [T] and [T], and are {shapes}; call update() on the entropy model")
    for name, t in tables.items():
        if t.numel() and not -(2**31) <= t.min().item() <= t.max().item() < 2**31:
            raise ValueError(f"{op}/{name}: must hold 32-bit integers, and has {t.min().item()} to {t.max().item()}")
    return tuple(t.to(torch.int32).contiguous() for t in tables.values())


@torch.library.register_fake("dkic::cdf_encode", lib=library)
def _encode_fake(symbols, indexes, cdf, cdf_length, offset):
    size = torch.library.get_ctx().new_dynamic_size()
    return symbols.new_empty((size,), dtype=torch.uint8), symbols.new_empty((symbols.shape[0],), dtype=torch.int64)


@torch.library.register_fake("dkic::cdf_decode", lib=library)
def _decode_fake(data, size, indexes, cdf, cdf_length, offset):
    return indexes.new_empty(indexes.shape, dtype=torch.int32), indexes.new_empty((indexes.shape[0],), dtype=torch.bool)


@torch.library.register_fake("dkic::cdf_decode_part", lib=library)
def _decode_part_fake(data, state, indexes, cdf, cdf_length, offset):
    return indexes.new_empty(indexes.shape, dtype=torch.int32)
