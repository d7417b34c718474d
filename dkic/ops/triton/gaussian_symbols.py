"""dkic::gaussian_symbols as a Triton kernel: rounded residuals and every scale's nearest table, as on the CPU to the bit."""

import math
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from dkic.ops.triton.walk import check, nearest, place, read, strides_of, walk_through

BLOCK = {torch.float32: 512, torch.float64: 256}
TYPE = {torch.float32: tl.float32, torch.float64: tl.float64}
SHIFT = tl.constexpr(49)  # leaves of a double its sign, its exponent and three bits of its mantissa: the name of its bucket


@cache
def buckets(first: float, last: float, count: int, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Edges between `count` scales spread evenly in log, by the bucket that they lie in, as in csrc/cpu/gaussian_symbols_cpu.cpp.

    Of every bucket: its edge, float64, else infinity; how many edges lie below it, uint8. Then the first bucket's number.
    """
    if not (0 < first < last < 1e300 and 2 <= count <= 255):
        raise RuntimeError("gaussian_symbols: the scales must be 2 to 255, positive, finite and rising")
    low = math.log(first)
    step = (math.log(last) - low) / (count - 1)
    edges = [math.exp(low + (i + 0.5) * step) for i in range(count - 1)]
    names = [name >> SHIFT.value for name in torch.tensor(edges, dtype=torch.float64, device="cpu").view(torch.int64).tolist()]
    if step <= math.log(9 / 8) or names[-1] + 2 - (names[0] - 1) > 1024:
        raise RuntimeError(
            "gaussian_symbols: neighbouring scales must differ by more than a factor of 9/8, over at most 127 octaves"
        )
    edge_of = dict(zip(names, edges, strict=True))
    span = range(names[0] - 1, names[-1] + 2)  # one bucket more at either end, with no edge in it, for all that lies beyond
    edge = torch.tensor([edge_of.get(name, math.inf) for name in span], dtype=torch.float64, device=device)
    below = torch.tensor([sum(other < name for other in names) for name in span], dtype=torch.uint8, device=device)
    return edge, below, span.start


@triton.jit
def _symbols(
    y,
    scale,
    mean,
    edge,
    below,
    symbols,
    index,
    elements,
    chunks,
    size,
    y_stride,
    scale_stride,
    mean_stride,
    first,
    count,
    TYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
):
    n, element, inside = place(elements, chunks, BLOCK, WIDE)
    residual = read(y, n, element, inside, size, y_stride, TYPE)
    if mean is not None:
        residual -= read(mean, n, element, inside, size, mean_stride, TYPE)
    rounded = nearest(residual)
    fits = (rounded >= -2147483648.0) & (rounded < 2147483648.0)
    position = n * elements + element
    tl.store(symbols + position, tl.where(fits, rounded, 0.0).to(tl.int32), mask=inside)
    s = read(scale, n, element, inside, size, scale_stride, TYPE).to(tl.float64)
    bucket = (s.to(tl.int64, bitcast=True) >> SHIFT) - first
    bucket = tl.minimum(tl.maximum(bucket, 0), count - 1)
    beyond = (s > tl.load(edge + bucket)).to(tl.uint8)
    found = tl.where(fits & (s == s), tl.load(below + bucket) + beyond, 255)  # NO_TABLE
    tl.store(index + position, found.to(tl.uint8), mask=inside)


def forward(
    y: Tensor, scale: Tensor, mean: Tensor | None, scale_first: float, scale_last: float, scale_count: int
) -> tuple[Tensor, Tensor]:
    """dkic::gaussian_symbols, which does not wait for its kernel: what can't be coded has the symbol 0 and the index 255.

    RuntimeError: arguments that the CPU refuses too, or 256 scales.
    """
    operands = (y, scale, mean)
    check("gaussian_symbols", y, operands)
    walk = walk_through(y.shape, False, [strides_of(t, y.dim()) for t in operands])
    if walk is None:
        plain = (None if t is None else t.contiguous() for t in operands)
        return forward(*plain, scale_first, scale_last, scale_count)
    edge, below, first = buckets(scale_first, scale_last, scale_count, y.device)
    dtype = torch.float64 if any(t is not None and t.dtype == torch.float64 for t in operands) else torch.float32
    symbols, index = y.new_empty(y.shape, dtype=torch.int32), y.new_empty(y.shape, dtype=torch.uint8)
    chunks = triton.cdiv(walk.elements, BLOCK[dtype])
    if y.numel():
        with torch.cuda.device_of(y):
            _symbols[(y.shape[0] * chunks,)](
                *operands,
                edge,
                below,
                symbols,
                index,
                walk.elements,
                chunks,
                walk.size,
                *walk.strides,
                first,
                len(edge),
                TYPE=TYPE[dtype],
                BLOCK=BLOCK[dtype],
                WIDE=walk.wide,
            )
    return symbols, index
