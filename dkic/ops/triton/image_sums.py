"""Accumulation of the gradient of an image (scatter-add at corners of samples): float atomics, or deterministic integers."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dkic.ops.triton.grid import cdiv
from dkic.ops.triton.layouts import index_of, pixel_strides
from dkic.ops.triton.traversal import nearest

BLOCK = 1024


class SumArguments(NamedTuple):
    """Kernel argument of `ImageSums`.

    powers: the power of two that scales a value, and its inverse; then those for its remainder, which is added to second_sums.
    None: float sums. A value that is not finite sets its element of `poisoned` to NaN. stride: (n, h, w).
    """

    sums: Tensor
    second_sums: Tensor | None
    poisoned: Tensor | None
    powers: Tensor | None
    stride: tuple[int, ...]


@triton.jit
def add(to, at, value, inside):
    """Adds values to the sums of `to`, SumArguments; with powers, in integers, whose sum does not depend on the order."""
    if to.powers is None:
        tl.atomic_add(to.sums + at, value, mask=inside, sem="relaxed")
    else:
        # Not value - value == 0: for a product it is contracted to an fma, whose result is the rounding error of the product.
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
    """Adds grad `[pixels, channels]` times the corner's weight to each corner that is inside. to: SumArguments."""
    for i in tl.static_range(4):
        corner, stored = at[i][:, None] + channel[None, :], inside[i][:, None] & exists[None, :]
        add(to, corner, grad * weights[i][:, None], stored)


@triton.jit
def round_fixed(sums, second_sums, result, powers, elements, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """Converts the integer sums to the gradient; keeps NaN from `add`."""
    at = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    TYPE: tl.constexpr = powers.dtype.element_ty
    before = tl.load(result + at, mask=at < elements, other=0.0)
    total = tl.load(sums + at, mask=at < elements, other=0).to(TYPE) * tl.load(powers + 1)
    if second_sums is not None:
        total += tl.load(second_sums + at, mask=at < elements, other=0).to(TYPE) * tl.load(powers + 3)
    tl.store(result + at, total.to(result.dtype.element_ty), mask=(at < elements) & (before == before))


class ImageSums:
    """Buffers for the gradient of `like`, which has a channel stride of 1.

    powers: from `fixed_powers`, for integer sums; None: sums of `dtype`, float32 or float64.
    """

    def __init__(self, like: Tensor, dtype: torch.dtype, powers: Tensor | None) -> None:
        self.result = torch.zeros_like(like, memory_format=torch.channels_last)
        self.powers, self.second_sums = powers, None
        if powers is None:
            self.sums = self.result.to(dtype)  # no copy if it has this dtype
        else:
            self.sums = torch.zeros_like(self.result, dtype=torch.int64)
            self.second_sums = torch.zeros_like(self.sums) if dtype == torch.float64 else None

    @property
    def arguments(self) -> SumArguments:
        poisoned = None if self.powers is None else self.result
        return SumArguments(self.sums, self.second_sums, poisoned, self.powers, pixel_strides(self.sums))

    def total(self) -> Tensor:
        """The gradient, after all contributions are added."""
        if self.powers is None:
            return self.sums.to(self.result.dtype)
        if elements := self.result.numel():
            numbers = self.sums, self.second_sums, self.result, self.powers, elements
            round_fixed[(cdiv(elements, BLOCK),)](*numbers, BLOCK=BLOCK, INDEX=index_of(self.result))
        return self.result


def fixed_powers(bounds: list[Tensor], contributions: int, double: bool) -> Tensor:
    """The power of two that scales contributions to integers, and its inverse, on the device of the bounds.

    It is the largest power for which no sum can overflow. In float64, a second power and its inverse, for the remainder.

    Args:
        bounds: scalar tensors whose product bounds the magnitude of every contribution.
        contributions: maximum number of contributions to one element.
    """
    # Limits of exponents: of finite numbers, and of powers with a finite inverse and a finite second power.
    most, limit, bias = (1024, 900, 1023) if double else (128, 126, 127)
    # Contributions are below 2^below; one extra bit for the rounding of products and sums.
    below = sum(torch.frexp(bound.double().clamp(max=torch.finfo(torch.float64).max)).exponent for bound in bounds) + 1
    spare = 62 - contributions.bit_length()
    first = (spare - below.clamp(max=most)).clamp(max=limit)
    exponents = torch.stack([first, -first] + ([first + spare, -first - spare] if double else [])) + bias
    return (exponents.long() << 52).view(torch.float64) if double else (exponents.int() << 23).view(torch.float32)


def largest(t: Tensor) -> Tensor:
    """Largest magnitude of the finite elements."""
    return finite(t).abs().amax()


def finite(t: Tensor) -> Tensor:
    return t.nan_to_num(0.0, 0.0, 0.0)
