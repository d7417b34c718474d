"""The classes of `compressai.ans` on dkic's coder: the same methods and streams, for lists, arrays and tensors."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dkic.errors import FormatError
from dkic.ops.cdf_coder import StreamDecoder, cdf_decode, cdf_encode

Integers = Sequence[int] | np.ndarray | Tensor
Rows = Sequence[Sequence[int]] | np.ndarray | Tensor


class RansEncoder:
    """`compressai.ans.RansEncoder`: one stream per call."""

    def encode_with_indexes(
        self, symbols: Integers, indexes: Integers, cdfs: Rows, cdfs_sizes: Integers, offsets: Integers
    ) -> bytes:
        """The stream of the symbols; errors as for `dkic.ops.cdf_coder.cdf_encode`."""
        pair = _numbers("symbols", symbols)[None], _numbers("indexes", indexes)[None]
        return cdf_encode(*pair, *_tables(cdfs, cdfs_sizes, offsets))[0]


class BufferedRansEncoder:
    """`compressai.ans.BufferedRansEncoder`: collects symbols for one stream; each call may use other tables."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]] = []

    def encode_with_indexes(
        self, symbols: Integers, indexes: Integers, cdfs: Rows, cdfs_sizes: Integers, offsets: Integers
    ) -> None:
        """Appends symbols; invalid tables raise in `flush`."""
        part = _numbers("symbols", symbols).clone(), _numbers("indexes", indexes).clone()
        table, sizes, first = (t.clone() for t in _tables(cdfs, cdfs_sizes, offsets))
        self._parts.append((*part, (table, sizes, first)))

    def flush(self) -> bytes:
        """The stream of all symbols since the last flush."""
        parts, self._parts = self._parts, []
        if not parts:
            parts = [(_empty(), _empty(), (torch.tensor([[0, 65536]]), torch.tensor([2]), torch.tensor([0])))]
        symbols, indexes, first = [], [], 0
        for part_symbols, part_indexes, (cdf, _, _) in parts:
            if part_indexes.numel() and not 0 <= part_indexes.min() <= part_indexes.max() < len(cdf):
                raise RuntimeError(f"BufferedRansEncoder/indexes: must be below the {len(cdf)} rows of cdfs; check the tables")
            symbols.append(part_symbols)
            indexes.append(part_indexes.long() + first)
            first += len(cdf)
        columns = max(cdf.shape[1] for *_, (cdf, _, _) in parts)
        cdfs = torch.cat([torch.nn.functional.pad(cdf, (0, columns - cdf.shape[1])) for *_, (cdf, _, _) in parts])
        sizes, offsets = (torch.cat([tables[i] for *_, tables in parts]) for i in (1, 2))
        return cdf_encode(torch.cat(symbols)[None], torch.cat(indexes)[None], cdfs, sizes, offsets)[0]


class RansDecoder:
    """`compressai.ans.RansDecoder`: decodes a stream in one call, or in several."""

    def __init__(self) -> None:
        self._stream: StreamDecoder | None = None

    def decode_with_indexes(
        self, encoded: bytes, indexes: Integers, cdfs: Rows, cdfs_sizes: Integers, offsets: Integers
    ) -> list[int]:
        """All symbols of a stream. Raises FormatError if it is damaged."""
        return cdf_decode([encoded], _numbers("indexes", indexes)[None], *_tables(cdfs, cdfs_sizes, offsets))[0].tolist()

    def set_stream(self, encoded: bytes) -> None:
        """Sets the stream that `decode_stream` reads."""
        self._stream = StreamDecoder(encoded)

    def decode_stream(self, indexes: Integers, cdfs: Rows, cdfs_sizes: Integers, offsets: Integers) -> list[int]:
        """The next symbols. Raises FormatError if the stream is damaged; its end is not checked."""
        if self._stream is None:
            raise FormatError("RansDecoder/decode_stream: there is no stream; call set_stream first")
        return self._stream.decode(_numbers("indexes", indexes), *_tables(cdfs, cdfs_sizes, offsets)).tolist()


def _empty() -> Tensor:
    return torch.zeros(0, dtype=torch.int32, device="cpu")


def _numbers(name: str, values: Integers) -> Tensor:
    numbers = torch.as_tensor(values, device="cpu") if len(values) else _empty()
    if numbers.dim() != 1:
        raise ValueError(f"{name}: must have one dimension, and has shape {list(numbers.shape)}; flatten it")
    return numbers


def _tables(cdfs: Rows, sizes: Integers, offsets: Integers) -> tuple[Tensor, Tensor, Tensor]:
    if not isinstance(cdfs, Tensor | np.ndarray):  # rows of a list may differ in length
        columns = max(map(len, cdfs), default=0)
        cdfs = np.array([[*row, *[0] * (columns - len(row))] for row in cdfs], dtype=np.int64).reshape(len(cdfs), columns)
    return torch.as_tensor(cdfs, device="cpu"), _numbers("cdfs_sizes", sizes), _numbers("offsets", offsets)
