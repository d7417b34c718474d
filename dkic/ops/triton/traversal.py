"""Traversal of tensors with the same shape and any strides, for elementwise Triton kernels; as csrc/cpu/traversal_cpu.h."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from dkic.ops.triton.grid import cdiv

MOST_AXES = 4  # in addition to the batch axis


class StridedOperand(NamedTuple):
    """A tensor operand of a kernel. stride: batch stride, then the stride of each axis of the traversal, in elements."""

    data: Tensor
    stride: tuple[int, ...]


class TraversalArguments(NamedTuple):
    """Kernel argument of a traversal: elements and programs (chunks) per sample, and the size of each axis."""

    elements: int
    chunks: int
    size: tuple[int, ...]


@dataclass(frozen=True)
class Traversal:
    """Iteration over each sample in the memory order of the results, along the axes of `size`."""

    elements: int  # per sample
    size: tuple[int, ...]
    strides: list[tuple[int, ...]]  # per tensor: the batch stride, then one stride per axis, in elements

    @property
    def wide(self) -> bool:
        """Whether element indexes need 64 bits, including those of a block past the last element."""
        return self.elements > 2**30

    def chunks(self, block: int) -> int:
        """Programs per sample, for blocks of `block` elements."""
        return cdiv(self.elements, block)

    def arguments(self, block: int) -> TraversalArguments:
        return TraversalArguments(self.elements, self.chunks(block), self.size)

    def fours(self) -> "Traversal | None":
        """This traversal of (positions, channels) as one of (positions / 4, channels), whose elements are four positions each.

        The last stride is that of the positions. None if there are other axes, or positions are not a multiple of 4.
        """
        if len(self.size) != 2 or self.size[0] % 4:
            return None
        positions, channels = self.size
        strides = [(batch, 4 * position, channel, position) for batch, position, channel in self.strides]
        return Traversal(self.elements // 4, (positions // 4, channels), strides)

    def operands(self, tensors: Sequence[Tensor | None]) -> list[StridedOperand | None]:
        """The first tensors of the traversal as kernel arguments; an absent tensor is None."""
        pairs = zip(tensors, self.strides, strict=False)
        return [None if t is None else StridedOperand(t, stride) for t, stride in pairs]


def channels_innermost(t: Tensor) -> bool:
    """Whether results that correspond to t are channels_last."""
    return t.dim() in (4, 5) and t.stride(1) == 1


def strides_of(t: Tensor | None, dim: int) -> Sequence[int]:
    return [0] * dim if t is None else t.stride()


def make_traversal(shape: Sequence[int], channels_last: bool, strides: Sequence[Sequence[int]]) -> Traversal | None:
    """A traversal of the axes after the batch, innermost last; adjacent axes are merged if every tensor allows it.

    None if more than MOST_AXES are left: the caller then makes contiguous copies.
    """
    axes = [*range(2, len(shape)), 1] if channels_last else range(1, len(shape))
    elements = 1
    size, merged = [], [[s[0]] for s in strides]
    for axis in axes:
        elements *= shape[axis]
        if shape[axis] == 1 or 0 in shape:
            continue
        if size and all(m[-1] == s[axis] * shape[axis] for m, s in zip(merged, strides, strict=True)):
            size[-1] *= shape[axis]
            for m, s in zip(merged, strides, strict=True):
                m[-1] = s[axis]
        else:
            size.append(shape[axis])
            for m, s in zip(merged, strides, strict=True):
                m.append(s[axis])
    if not size:
        size = [1]
        merged = [[*m, 0] for m in merged]
    return Traversal(elements, tuple(size), [tuple(m) for m in merged]) if len(size) <= MOST_AXES else None


def check(op: str, like: Tensor, tensors: Sequence[Tensor | None]) -> None:
    """Checks that guard memory accesses, for calls that bypass the public op. RuntimeError unless devices and shapes match."""
    if like.dim() == 0:
        raise RuntimeError(f"{op}: tensors must have a batch dimension")
    for t in tensors:
        if t is not None and (t.device != like.device or t.shape != like.shape):
            raise RuntimeError(f"{op}: tensors must be on one device and have one shape")


@triton.jit
def begin(chunks, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """(n, first) of this program: its sample, and the index of its first element in the traversal."""
    n = tl.program_id(0) // chunks
    chunk = tl.program_id(0) - n * chunks
    if WIDE:  # 64-bit divisions take many instructions
        chunk = chunk.to(tl.int64)
    return n.to(tl.int64), chunk * BLOCK


@triton.jit
def place(elements, chunks, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """(n, element, inside) of this program: its sample, the indexes of its elements in the traversal, and which of them exist."""
    n, first = begin(chunks, BLOCK, WIDE)
    element = first + tl.arange(0, BLOCK)
    return n, element, element < elements


@triton.jit
def offset_of(n, element, size, stride):
    """Offsets of the elements from the first element of a tensor."""
    offset = n * stride[0]
    rest = element
    for i in tl.static_range(len(size) - 1, 0, -1):
        offset += (rest % size[i]).to(tl.int64) * stride[i + 1]
        rest = rest // size[i]
    return offset + rest.to(tl.int64) * stride[1]


@triton.jit
def read(t, n, element, inside, size, TYPE: tl.constexpr, FOURS: tl.constexpr = False):
    """Elements of a StridedOperand as TYPE; 0 where not `inside`. FOURS: of a traversal by `Traversal.fours`."""
    if FOURS:
        offset = offsets_of_fours(n, element, size, t.stride)
    else:
        offset = offset_of(n, element, size, t.stride)
    return tl.load(t.data + offset, mask=inside, other=0.0).to(TYPE)


@triton.jit
def offsets_of_fours(n, four, size, stride):
    """Offsets `[BLOCK, 4]` of the elements of a traversal by `Traversal.fours`."""
    return offset_of(n, four, size, stride)[:, None] + tl.arange(0, 4).to(tl.int64)[None, :] * stride[3]


@triton.jit
def nearest(x):
    """Rounds to the nearest integer, half to even."""
    all_integers = 4503599627370496.0 if x.dtype == tl.float64 else 8388608.0  # larger numbers are integers
    shift = tl.where(x < 0.0, x * 0.0 - all_integers, x * 0.0 + all_integers)
    return tl.where(tl.abs(x) < all_integers, (x + shift) - shift, x)
