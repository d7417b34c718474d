"""The way that Triton's elementwise kernels take through tensors of one shape and any strides; as csrc/cpu/walk_cpu.h."""

from collections.abc import Sequence
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

MOST_AXES = 4  # beside the batch's


@dataclass(frozen=True)
class Walk:
    """Samples are walked in the order in which results lie in memory, along `size`; strides count elements, the batch's first."""

    elements: int  # of one sample
    size: tuple[int, ...]
    strides: list[tuple[int, ...]]  # one entry a tensor

    @property
    def wide(self) -> bool:
        """Whether an element's number needs more than 32 bits, blocks beyond the last element among them."""
        return self.elements > 2**30


def channels_innermost(t: Tensor) -> bool:
    """Whether results that go with t are laid out channels_last."""
    return t.dim() in (4, 5) and t.stride(1) == 1


def strides_of(t: Tensor | None, dim: int) -> Sequence[int]:
    return [0] * dim if t is None else t.stride()


def walk_through(shape: Sequence[int], channels_last: bool, strides: Sequence[Sequence[int]]) -> Walk | None:
    """The axes after the batch, the innermost last, neighbours merged where every tensor allows it. None: they are too many."""
    axes = [*range(2, len(shape)), 1] if channels_last else range(1, len(shape))
    elements = 1
    size, walked = [], [[s[0]] for s in strides]
    for axis in axes:
        elements *= shape[axis]
        if shape[axis] == 1 or 0 in shape:
            continue
        if size and all(w[-1] == s[axis] * shape[axis] for w, s in zip(walked, strides, strict=True)):
            size[-1] *= shape[axis]
            for w, s in zip(walked, strides, strict=True):
                w[-1] = s[axis]
        else:
            size.append(shape[axis])
            for w, s in zip(walked, strides, strict=True):
                w.append(s[axis])
    if not size:
        size = [1]
        walked = [[*w, 0] for w in walked]
    return Walk(elements, tuple(size), [tuple(w) for w in walked]) if len(size) <= MOST_AXES else None


def check(op: str, like: Tensor, tensors: Sequence[Tensor | None]) -> None:
    """What guards memory, for callers past the op's own checks: RuntimeError unless all are on one device and of one shape."""
    if like.dim() == 0:
        raise RuntimeError(f"{op}: tensors must have a batch dimension")
    for t in tensors:
        if t is not None and (t.device != like.device or t.shape != like.shape):
            raise RuntimeError(f"{op}: tensors must be on one device and have one shape")


@triton.jit
def begin(chunks, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """(n, first) of this program: its sample, and the number of its first element along the walk."""
    n = tl.program_id(0) // chunks
    chunk = tl.program_id(0) - n * chunks
    if WIDE:  # only then, since a division of 64 bits takes many instructions
        chunk = chunk.to(tl.int64)
    return n.to(tl.int64), chunk * BLOCK


@triton.jit
def place(elements, chunks, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """(n, element, inside) of this program: its sample, its elements' numbers along the walk, and which of them exist."""
    n, first = begin(chunks, BLOCK, WIDE)
    element = first + tl.arange(0, BLOCK)
    return n, element, element < elements


@triton.jit
def offset_of(n, element, size, stride):
    """Where the elements lie in a tensor, from its first element on."""
    offset = n * stride[0]
    rest = element
    for i in tl.static_range(len(size) - 1, 0, -1):
        offset += (rest % size[i]).to(tl.int64) * stride[i + 1]
        rest = rest // size[i]
    return offset + rest.to(tl.int64) * stride[1]


@triton.jit
def read(t, n, element, inside, size, stride, TYPE: tl.constexpr):
    return tl.load(t + offset_of(n, element, size, stride), mask=inside, other=0.0).to(TYPE)


@triton.jit
def nearest(x):
    """To the nearest integer, half to even."""
    all_integers = 4503599627370496.0 if x.dtype == tl.float64 else 8388608.0  # from here on
    shift = tl.where(x < 0.0, x * 0.0 - all_integers, x * 0.0 + all_integers)
    return tl.where(tl.abs(x) < all_integers, (x + shift) - shift, x)
