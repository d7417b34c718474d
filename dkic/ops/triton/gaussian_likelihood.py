"""Triton kernels of dkic::gaussian_likelihood and its backward: noise or rounding, bits and derivatives in one launch.

`forward` and `backward` have the schemas of dkic/ops/schemas.py. The noise is bit-exact with the CPU. Bits and derivatives have
the error bounds of the CPU and differ from it only in the last digits.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dkic.ops._gaussian_likelihood import empty_result
from dkic.ops.triton.gaussian_bits import gaussian_bits
from dkic.ops.triton.traversal import (
    begin,
    channels_innermost,
    check,
    make_traversal,
    nearest,
    offset_of,
    offsets_of_fours,
    place,
    read,
    strides_of,
)

# Elements per program. float64 has one element per thread: its polynomials are three times as long, a value takes 2 registers.
BLOCK = {torch.float32: 512, torch.float64: 128}
SUM_BLOCK = 256
REGISTERS = 80  # maximum per thread: 50 % occupancy on compute capability 8.6, without spills
TYPE = {torch.float32: tl.float32, torch.float64: tl.float64}


class Results(NamedTuple):
    """Contiguous results of the forward kernel; None: not stored. sums: the bits summed per program, float64."""

    y_hat: Tensor | None
    bits: Tensor | None
    by_v: Tensor | None
    by_scale: Tensor | None
    sums: Tensor | None


class Gradients(NamedTuple):
    """Contiguous results of the backward kernel; None: not needed."""

    y: Tensor | None
    scale: Tensor | None
    mean: Tensor | None


@triton.jit
def words_of(seed, n, block):
    """The four words of each Philox block with counter (block, n)."""
    return tl.philox(tl.load(seed), block.to(tl.uint32), (block >> 32).to(tl.uint32), n.to(tl.uint32), (n >> 32).to(tl.uint32))


@triton.jit
def draw(seed, n, e):
    """The noise of element e of sample n times 2^24, from word e % 4 of the Philox block with counter (e / 4, n)."""
    e, n = e.to(tl.int64), n.to(tl.int64) + e * 0
    word0, word1, word2, word3 = words_of(seed, n, e // 4)
    odd, high = (e & 1) == 1, (e & 2) == 2
    word = tl.where(high, tl.where(odd, word3, word2), tl.where(odd, word1, word0))
    return (word >> 8).to(tl.int32) - 8388608


@triton.jit
def draw_blocks(seed, n, block, BLOCK: tl.constexpr):
    """`draw` for the four elements `[BLOCK, 2, 2]` of each of BLOCK Philox blocks; block: their numbers, elements / 4."""
    block = block.to(tl.int64)
    word0, word1, word2, word3 = words_of(seed, n + block * 0, block)
    word = tl.join(tl.join(word0, word2), tl.join(word1, word3))
    return (word >> 8).to(tl.int32) - 8388608


@triton.jit
def _forward(
    traversal,
    y,
    scale,
    mean,
    noise,
    seed,
    index_stride,
    result_stride,
    results,
    ROUNDED: tl.constexpr,
    LIKELIHOOD: tl.constexpr,
    SCALE_MIN: tl.constexpr,
    LIKELIHOOD_MIN: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """traversal: TraversalArguments. y, scale, mean, noise: StridedOperands, the last two or None. seed: of the noise, or None.

    index_stride: strides of the element's index in its sample; None if the traversal is in index order, or by `Traversal.fours`.
    result_stride: strides of the results of a traversal by `Traversal.fours`; None for others. results: Results.
    """
    FOURS: tl.constexpr = result_stride is not None
    n, element, inside = place(traversal.elements, traversal.chunks, BLOCK, WIDE)
    if FOURS:
        inside = inside[:, None]
        position = offsets_of_fours(n, element, traversal.size, result_stride)
    else:
        position = n * traversal.elements + element
    value = read(y, n, element, inside, traversal.size, TYPE, FOURS)
    s = read(scale, n, element, inside, traversal.size, TYPE, FOURS)
    v = value
    if mean is not None:
        m = read(mean, n, element, inside, traversal.size, TYPE, FOURS)
        v = value - m
    if ROUNDED:
        v = nearest(v)
        value = v if mean is None else v + m
    elif noise is not None:
        u = read(noise, n, element, inside, traversal.size, TYPE, FOURS)
        v, value = v + u, value + u
    elif seed is not None:
        if FOURS:
            channel = element % traversal.size[1]
            block = channel.to(tl.int64) * traversal.size[0] + element // traversal.size[1]
            u = draw_blocks(seed, n, block, BLOCK).reshape(BLOCK, 4)
        elif index_stride is None:
            block = begin(traversal.chunks, BLOCK, WIDE)[1] // 4 + tl.arange(0, BLOCK // 4)
            u = draw_blocks(seed, n, block, BLOCK // 4).reshape(BLOCK)
        else:
            u = draw(seed, n, offset_of(n, element, traversal.size, index_stride))
        u = u.to(TYPE) * 5.9604644775390625e-08  # 2^-24
        v, value = v + u, value + u
    if results.y_hat is not None:
        if results.y_hat.dtype.element_ty.primitive_bitwidth == 16:
            value = value.to(tl.float32)  # float64 is rounded to float32 first, as on the CPU
        tl.store(results.y_hat + position, value.to(results.y_hat.dtype.element_ty), mask=inside)
    s = tl.where(s < SCALE_MIN, SCALE_MIN, s)  # propagates NaN
    b, slope_v, slope_scale = gaussian_bits(v, s, TYPE == tl.float64)  # the compiler removes what is not stored
    if LIKELIHOOD:
        p = tl.exp2(-b)
        slope_v = tl.where(p == 0.0, 0.0, -0.6931471805599453 * p * slope_v)  # slope_v may be infinite where p is 0
        slope_scale = tl.where(p == 0.0, 0.0, -0.6931471805599453 * p * slope_scale)
        b = tl.where(p < LIKELIHOOD_MIN, LIKELIHOOD_MIN, p)  # propagates NaN
    if results.bits is not None:
        tl.store(results.bits + position, b, mask=inside)
    if results.by_v is not None:
        tl.store(results.by_v + position, slope_v, mask=inside)
    if results.by_scale is not None:
        tl.store(results.by_scale + position, slope_scale, mask=inside)
    if results.sums is not None:
        tl.store(results.sums + tl.program_id(0), tl.sum(tl.where(inside, b, 0.0).to(tl.float64)))


@triton.jit
def _add(sums, total, chunks, BLOCK: tl.constexpr):
    """Sum of a sample over its programs, in an order that depends only on the number of programs."""
    n = tl.program_id(0).to(tl.int64)
    lanes = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, chunks, BLOCK):
        chunk = first + tl.arange(0, BLOCK)
        lanes += tl.load(sums + n * chunks + chunk, mask=chunk < chunks, other=0.0)
    tl.store(total + n, tl.sum(lanes).to(total.dtype.element_ty))


@triton.jit
def _backward(
    traversal,
    grad_y_hat,
    grad_bits,
    by_v,
    by_scale,
    scale,
    likelihood,
    gradients,
    SCALE_MIN: tl.constexpr,
    LIKELIHOOD_MIN: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """traversal: TraversalArguments. Operands: StridedOperands or None (not grad_bits and scale). gradients: Gradients."""
    n, element, inside = place(traversal.elements, traversal.chunks, BLOCK, WIDE)
    grad = read(grad_bits, n, element, inside, traversal.size, TYPE)
    if likelihood is not None:
        at_bound = read(likelihood, n, element, inside, traversal.size, TYPE) <= LIKELIHOOD_MIN
        # At the bound, the gradient passes only if a descent step would increase the likelihood.
        grad = tl.where(at_bound & (grad > 0.0), 0.0, grad)
    position = n * traversal.elements + element
    if by_v is not None:
        by_bits = grad * read(by_v, n, element, inside, traversal.size, TYPE)
        if gradients.mean is not None:
            tl.store(gradients.mean + position, -by_bits, mask=inside)
        if gradients.y is not None:
            if grad_y_hat is not None:
                by_bits += read(grad_y_hat, n, element, inside, traversal.size, TYPE)
            tl.store(gradients.y + position, by_bits, mask=inside)
    if gradients.scale is not None:
        g = grad * read(by_scale, n, element, inside, traversal.size, TYPE)
        below = read(scale, n, element, inside, traversal.size, TYPE) < SCALE_MIN
        # Below scale_min, the gradient passes only if a descent step would increase scale.
        tl.store(gradients.scale + position, tl.where(below & (g > 0.0), 0.0, g), mask=inside)


def forward(
    y: Tensor,
    scale: Tensor,
    mean: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    rounded: bool,
    scale_min: float,
    sum: bool,
    need_v: bool,
    need_scale: bool,
    likelihood: bool = False,
    likelihood_min: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dkic::gaussian_likelihood. RuntimeError: an argument is invalid (for calls that bypass the public op)."""
    operands = (y, scale, mean, noise)
    check("gaussian_likelihood", y, operands)
    if seed is not None and (seed.device != y.device or seed.numel() != 1 or seed.dtype != torch.int64):
        raise RuntimeError("gaussian_likelihood: seed must be one int64 number on y's device")
    if rounded + (noise is not None) + (seed is not None) > 1:
        raise RuntimeError("gaussian_likelihood: rounded, noise and seed exclude each other")
    if sum and likelihood:
        raise RuntimeError("gaussian_likelihood: sum must be of bits")
    channels_last = channels_innermost(y)
    strides = [strides_of(t, y.dim()) for t in operands]
    drawn_strided = seed is not None and channels_last
    if drawn_strided:  # strides of the element's index in its sample, in row-major order
        strides.append((0, *torch.empty(y.shape, device="meta").stride()[1:]))
    traversal = make_traversal(y.shape, channels_last, strides)
    if traversal is None:
        plain = (None if t is None else t.contiguous() for t in operands)
        return forward(*plain, seed, rounded, scale_min, sum, need_v, need_scale, likelihood, likelihood_min)
    fours = traversal.fours() if drawn_strided else None
    index_stride = result_stride = None
    if fours:
        channels = y.shape[1]
        result_stride = (traversal.elements, 4 * channels, 1, channels)
        traversal = fours
    elif drawn_strided:
        index_stride = traversal.strides[-1]
    dtype = torch.float64 if any(t is not None and t.dtype == torch.float64 for t in operands) else torch.float32
    changed = rounded or noise is not None or seed is not None
    y_hat = empty_result(y, y.dtype, changed)
    bits = y.new_empty(y.shape[:1], dtype=dtype) if sum else empty_result(y, dtype)
    by_v, by_scale = empty_result(y, dtype, need_v), empty_result(y, dtype, need_scale)
    block = BLOCK[dtype] // (4 if fours else 1)
    chunks = traversal.chunks(block)
    sums = y.new_empty(y.shape[0] * chunks, dtype=torch.float64) if sum else None
    with torch.cuda.device_of(y):
        if y.numel():
            _forward[(y.shape[0] * chunks,)](
                traversal.arguments(block),
                *traversal.operands(operands),
                seed,
                index_stride,
                result_stride,
                Results(
                    y_hat if changed else None,
                    None if sum else bits,
                    by_v if need_v else None,
                    by_scale if need_scale else None,
                    sums,
                ),
                ROUNDED=rounded,
                LIKELIHOOD=likelihood,
                SCALE_MIN=scale_min,
                LIKELIHOOD_MIN=likelihood_min,
                TYPE=TYPE[dtype],
                BLOCK=block,
                WIDE=traversal.wide,
                maxnreg=REGISTERS,
            )
        if sum and y.shape[0]:
            # A second, small launch adds the sums of the programs: atomic additions would make the last digits nondeterministic,
            # and a counter of finished programs would need a launch to reset it.
            _add[(y.shape[0],)](sums, bits, chunks, BLOCK=SUM_BLOCK)
    return y_hat, bits, by_v, by_scale


def backward(
    grad_y_hat: Tensor | None,
    grad_bits: Tensor,
    by_v: Tensor,
    by_scale: Tensor,
    scale: Tensor,
    scale_min: float,
    need_y: bool,
    need_scale: bool,
    need_mean: bool,
    likelihood: Tensor | None = None,
    likelihood_min: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """dkic::gaussian_likelihood_backward. RuntimeError: an argument is invalid (for calls that bypass autograd)."""
    if grad_bits.dim() == 1 and grad_bits.shape[0] == scale.shape[0]:  # gradient of the sums
        grad_bits = grad_bits.view(grad_bits.shape[0], *(1,) * (scale.dim() - 1)).expand(scale.shape)
    slope_v = by_v if need_y or need_mean else None
    slope_scale = by_scale if need_scale else None
    operands = (grad_y_hat, grad_bits, slope_v, slope_scale, scale, likelihood)
    check("gaussian_likelihood_backward", scale, operands)
    dtype = torch.float64 if grad_bits.dtype == torch.float64 else torch.float32
    if dtype != torch.float64 and any(t is not None and t.dtype == torch.float64 for t in operands):
        raise RuntimeError("gaussian_likelihood_backward: grad_bits must be float64 as others are")
    like = slope_v if slope_v is not None else slope_scale if slope_scale is not None else scale
    traversal = make_traversal(scale.shape, channels_innermost(like), [strides_of(t, scale.dim()) for t in operands])
    if traversal is None:
        plain = [None if t is None else t.contiguous() for t in (grad_y_hat, grad_bits, by_v, by_scale, scale, likelihood)]
        return backward(*plain[:5], scale_min, need_y, need_scale, need_mean, plain[5], likelihood_min)
    grads = [empty_result(like, dtype, needed) for needed in (need_y, need_scale, need_mean)]
    block = BLOCK[dtype]
    if scale.numel():
        with torch.cuda.device_of(scale):
            _backward[(scale.shape[0] * traversal.chunks(block),)](
                traversal.arguments(block),
                *traversal.operands(operands),
                Gradients(*(g if g.numel() else None for g in grads)),
                SCALE_MIN=scale_min,
                LIKELIHOOD_MIN=likelihood_min,
                TYPE=TYPE[dtype],
                BLOCK=block,
                WIDE=traversal.wide,
            )
    return tuple(grads)
