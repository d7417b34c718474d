"""The rANS coder compared with CompressAI's and constriction's: int32 symbols and uint8 indexes as tensors to bytes, and back.

* "compressai": `GaussianConditional.compress` and `.decompress`, tensors to bytes and back like dkic.
* "compressai, lists made": its internal coder, without the conversions between tensors and lists.
* "constriction": its ANS coder with a quantized Gaussian, numpy arrays in and out.
* "copy": a copy of the symbols and indexes, as a lower bound.

Each gets inputs in the dtypes that it requires. All have the same 64 scales, and decoded symbols are compared with the original
before timing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from coding.rans_cases import RansCase, gaussian_bytes
from peers import compressai_gaussian, compressai_lists, constriction_coder
from problem_sizes import RANS_PROBLEMS
from torch import Tensor

from dkic.coding import rans
from dkic.entropy.tables import SCALES, gaussian_tables

TABLES = gaussian_tables()
ROUNDS = 20


class Coder(NamedTuple):
    """encode() -> data for decode(), and its length; decode() -> symbols as any kind of array."""

    encode: Callable[[], Any]
    decode: Callable[[Any], Any]
    bytes_of: Callable[[Any], int]


def ours(symbols: Tensor, indexes: Tensor) -> Coder:
    return Coder(lambda: rans.encode(symbols, indexes, TABLES), lambda data: rans.decode(data, indexes, TABLES), len)


def copy(symbols: Tensor, indexes: Tensor) -> Coder:
    return Coder(lambda: (symbols.clone(), indexes.clone()), lambda both: both[0].clone(), lambda both: 5 * len(both[0]))


CODERS: dict[str, Callable[[Tensor, Tensor], Coder]] = {
    "compressai": lambda symbols, indexes: Coder(*compressai_gaussian(symbols, indexes, SCALES)),
    "compressai, lists made": lambda symbols, indexes: Coder(*compressai_lists(symbols, indexes, SCALES)),
    "constriction": lambda symbols, indexes: Coder(*constriction_coder(symbols, indexes, SCALES)),
    "copy": copy,
    "dkic": ours,
}


@pytest.mark.parametrize("implementation", CODERS)  # ours last: see conftest.py
@pytest.mark.parametrize("work", ["encode", "decode"])
@pytest.mark.parametrize("case", RANS_PROBLEMS, ids=str)
def test_rans(case: RansCase, work, implementation, measure, benchmark):
    symbols, indexes = case.symbols()
    coder = CODERS[implementation](torch.from_numpy(symbols), torch.from_numpy(indexes))
    coded = coder.encode()
    np.testing.assert_array_equal(np.asarray(coder.decode(coded)).ravel(), symbols)
    size = coder.bytes_of(coded)
    if implementation != "copy":
        benchmark.extra_info.update(bytes=size, over_ideal=size / gaussian_bytes(symbols, indexes) - 1)
    call = coder.encode if work == "encode" else lambda: coder.decode(coded)
    moved = symbols.nbytes + indexes.nbytes + size
    measure(f"rANS {work}, {case}", implementation, call, ROUNDS, bytes_moved=moved)
