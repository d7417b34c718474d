"""The gradient of an image, to which samples add at their corners: by atomics, or in integers, the same whatever their order."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dkic.ops.triton.layouts import index_of, pixel_strides
from dkic.ops.triton.walk import nearest

BLOCK = 1024


class SumArguments(NamedTuple):
    """What kernels read of `ImageSums`, as one argument.

    powers: of two, that a value is multiplied by, and its inverse; then those for what the first leaves over, which goes to
    second_sums. None: sums are of floats. A value that is not finite leaves NaN in `poisoned`. stride: of (n, h, w).
    """

    sums: Tensor
    second_sums: Tensor | None
    poisoned: Tensor | None
    powers: Tensor | None
    stride: tuple[int, ...]


@triton.jit
def add(to, at, value, inside):
    """Adds to `to`, SumArguments; where there are powers, in integers: the result does not depend on the order."""
    if to.powers is None:
        tl.atomic_add(to.sums + at, value, mask=inside, sem="relaxed")
    else:
        # (Not by value - value: of a product that becomes an fma, which leaves the product's error.)
        finite = tl.abs(value) < float("inf")
        value = tl.where(finite, value, 0.0)
        whole = nearest(value * tl.load(to.powers))
        tl.atomic_add(to.sums + at, whole.to(tl.int64), mask=inside & finite, sem="relaxed")
        if to.second_sums is not None:
            left = nearest((value - whole * tl.load(to.powers + 1)) * tl.load(to.powers + 2))
            tl.atomic_add(to.second_sums + at, left.to(tl.int64), mask=inside & finite, sem="relaxed")
        tl.store(to.poisoned + at, tl.full(value.shape, float("nan"), to.poisoned.dtype.element_ty), mask=inside & ~finite)


@triton.jit
def add_to_corners(to, at, weights, inside, grad, channel, exists):
    """Adds grad `[pixels, channels]` times its weight to each corner that lies inside. to: SumArguments."""
    for i in tl.static_range(4):
        corner, reached = at[i][:, None] + channel[None, :], inside[i][:, None] & exists[None, :]
        add(to, corner, grad * weights[i][:, None], reached)


@triton.jit
def round_fixed(sums, second_sums, result, powers, elements, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """From the integers' sums to the gradient; NaN that `add` left there stays."""
    at = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    TYPE: tl.constexpr = powers.dtype.element_ty
    before = tl.load(result + at, mask=at < elements, other=0.0)
    total = tl.load(sums + at, mask=at < elements, other=0).to(TYPE) * tl.load(powers + 1)
    if second_sums is not None:
        total += tl.load(second_sums + at, mask=at < elements, other=0).to(TYPE) * tl.load(powers + 3)
    tl.store(result + at, total.to(result.dtype.element_ty), mask=(at < elements) & (before == before))


class ImageSums:
    """Buffers for a gradient of `like`, whose channels are side by side.

    powers: as `fixed_powers` gives them, for sums in integers; None: in `dtype`, float32 or float64.
    """

    def __init__(self, like: Tensor, dtype: torch.dtype, powers: Tensor | None) -> None:
        self.result = torch.zeros_like(like, memory_format=torch.channels_last)
        self.powers, self.second_sums = powers, None
        if powers is None:
            self.sums = self.result.to(dtype)  # itself where it has that type
        else:
            self.sums = torch.zeros_like(self.result, dtype=torch.int64)
            self.second_sums = torch.zeros_like(self.sums) if dtype == torch.float64 else None

    @property
    def arguments(self) -> SumArguments:
        poisoned = None if self.powers is None else self.result
        return SumArguments(self.sums, self.second_sums, poisoned, self.powers, pixel_strides(self.sums))

    def total(self) -> Tensor:
        """The gradient, when all is added."""
        if self.powers is None:
            return self.sums.to(self.result.dtype)
        if elements := self.result.numel():
            numbers = self.sums, self.second_sums, self.result, self.powers, elements
            round_fixed[(triton.cdiv(elements, BLOCK),)](*numbers, BLOCK=BLOCK, INDEX=index_of(self.result))
        return self.result


def fixed_powers(bounds: list[Tensor], contributions: int, double: bool) -> Tensor:
    """The power of two that contributions are multiplied by to be summed in integers, and its inverse, on the bounds' device.

    It is the largest that no sum can overflow with. In float64 two more, for what the first leaves over.

    Args:
        bounds: numbers whose product no contribution's magnitude exceeds. contributions: to one element, at most.
    """
    # Bounds of exponents: of finite numbers, and of powers whose inverse, and second power, are finite.
    most, limit, bias = (1024, 900, 1023) if double else (128, 126, 127)
    # Below 2^exponent; one bit is for the rounding of products and sums.
    below = sum(torch.frexp(bound.double().clamp(max=torch.finfo(torch.float64).max)).exponent for bound in bounds) + 1
    spare = 62 - contributions.bit_length()
    first = (spare - below.clamp(max=most)).clamp(max=limit)
    exponents = torch.stack([first, -first] + ([first + spare, -first - spare] if double else [])) + bias
    return (exponents.long() << 52).view(torch.float64) if double else (exponents.int() << 23).view(torch.float32)


def largest(t: Tensor) -> Tensor:
    """The largest magnitude of the numbers that are finite."""
    return finite(t).abs().amax()


def finite(t: Tensor) -> Tensor:
    return t.nan_to_num(0.0, 0.0, 0.0)
