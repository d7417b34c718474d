"""Triton kernel of dkic::gaussian_symbols: rounded residuals and the nearest table of each scale, bit-exact with the CPU."""

import math
from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dkic.ops.triton.traversal import check, make_traversal, nearest, place, read, strides_of

BLOCK = {torch.float32: 512, torch.float64: 256}
TYPE = {torch.float32: tl.float32, torch.float64: tl.float64}
SHIFT = tl.constexpr(49)  # sign, exponent and three mantissa bits of a double remain: the key of its bucket


class Buckets(NamedTuple):
    """Lookup table of the edges between scales, with at most one edge per bucket.

    edge: the edge in each bucket, float64, infinity if there is none. below: the number of edges below each bucket, uint8. first:
    the key of the first bucket.
    """

    edge: Tensor
    below: Tensor
    first: int
    count: int


@cache
def buckets(first: float, last: float, count: int, device: torch.device) -> Buckets:
    """Buckets of the edges between `count` scales, equally spaced in log; as in csrc/cpu/gaussian_symbols_cpu.cpp."""
    if not (0 < first < last < 1e300 and 2 <= count <= 255):
        raise RuntimeError("gaussian_symbols: the scales must be 2 to 255, positive, finite and increasing")
    low = math.log(first)
    step = (math.log(last) - low) / (count - 1)
    edges = [math.exp(low + (i + 0.5) * step) for i in range(count - 1)]
    keys = [key >> SHIFT.value for key in torch.tensor(edges, dtype=torch.float64, device="cpu").view(torch.int64).tolist()]
    if step <= math.log(9 / 8) or keys[-1] + 2 - (keys[0] - 1) > 1024:
        raise RuntimeError("gaussian_symbols: adjacent scales must differ by more than a factor of 9/8, over at most 127 octaves")
    edge_of = dict(zip(keys, edges, strict=True))
    span = range(keys[0] - 1, keys[-1] + 2)  # one bucket without an edge at each end, for scales out of range
    edge = torch.tensor([edge_of.get(key, math.inf) for key in span], dtype=torch.float64, device=device)
    below = torch.tensor([sum(other < key for other in keys) for key in span], dtype=torch.uint8, device=device)
    return Buckets(edge, below, span.start, len(span))


@triton.jit
def _symbols(
    traversal,
    y,
    scale,
    mean,
    table,
    symbols,
    index,
    TYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """traversal: TraversalArguments. y, scale, mean: StridedOperands, the last or None. table: Buckets."""
    n, element, inside = place(traversal.elements, traversal.chunks, BLOCK, WIDE)
    residual = read(y, n, element, inside, traversal.size, TYPE)
    if mean is not None:
        residual -= read(mean, n, element, inside, traversal.size, TYPE)
    rounded = nearest(residual)
    fits = (rounded >= -2147483648.0) & (rounded < 2147483648.0)
    position = n * traversal.elements + element
    tl.store(symbols + position, tl.where(fits, rounded, 0.0).to(tl.int32), mask=inside)
    s = read(scale, n, element, inside, traversal.size, TYPE).to(tl.float64)
    bucket = (s.to(tl.int64, bitcast=True) >> SHIFT) - table.first
    bucket = tl.minimum(tl.maximum(bucket, 0), table.count - 1)
    above = (s > tl.load(table.edge + bucket)).to(tl.uint8)
    found = tl.where(fits & (s == s), tl.load(table.below + bucket) + above, 255)  # NO_TABLE
    tl.store(index + position, found.to(tl.uint8), mask=inside)


def forward(
    y: Tensor, scale: Tensor, mean: Tensor | None, scale_first: float, scale_last: float, scale_count: int
) -> tuple[Tensor, Tensor]:
    """dkic::gaussian_symbols, without synchronization: an element that cannot be coded has the symbol 0 and the index 255.

    RuntimeError: an argument is invalid, as on the CPU, or there are 256 scales.
    """
    operands = (y, scale, mean)
    check("gaussian_symbols", y, operands)
    traversal = make_traversal(y.shape, False, [strides_of(t, y.dim()) for t in operands])
    if traversal is None:
        plain = (None if t is None else t.contiguous() for t in operands)
        return forward(*plain, scale_first, scale_last, scale_count)
    table = buckets(scale_first, scale_last, scale_count, y.device)
    dtype = torch.float64 if any(t is not None and t.dtype == torch.float64 for t in operands) else torch.float32
    symbols, index = y.new_empty(y.shape, dtype=torch.int32), y.new_empty(y.shape, dtype=torch.uint8)
    if y.numel():
        with torch.cuda.device_of(y):
            _symbols[(y.shape[0] * traversal.chunks(BLOCK[dtype]),)](
                traversal.arguments(BLOCK[dtype]),
                *traversal.operands(operands),
                table,
                symbols,
                index,
                TYPE=TYPE[dtype],
                BLOCK=BLOCK[dtype],
                WIDE=traversal.wide,
            )
    return symbols, index
