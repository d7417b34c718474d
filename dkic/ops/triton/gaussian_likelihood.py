"""dkic::gaussian_likelihood and its backward as Triton kernels: noise or rounding, bits and their derivatives in one launch.

`forward` and `backward` have the schemas of dkic/ops/schemas.py. The noise is the CPU's to the bit, and bits and derivatives are
within the same bounds of exact arithmetic; only their last digits differ.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dkic.ops._gaussian_likelihood import empty_result
from dkic.ops.triton.gaussian_bits import gaussian_bits
from dkic.ops.triton.walk import begin, channels_innermost, check, nearest, offset_of, place, read, strides_of, walk_through

# Elements of a program. In float64 a thread has one, since its polynomials are three times as long and its registers pairs.
BLOCK = {torch.float32: 512, torch.float64: 128}
SUM_BLOCK = 256
REGISTERS = 80  # of a thread, at most: half of all warps fit into a multiprocessor of compute capability 8.6, and nothing spills
TYPE = {torch.float32: tl.float32, torch.float64: tl.float64}


@triton.jit
def words_of(seed, n, block):
    """The four words of each Philox block with counter (block, n)."""
    return tl.philox(tl.load(seed), block.to(tl.uint32), (block >> 32).to(tl.uint32), n.to(tl.uint32), (n >> 32).to(tl.uint32))


@triton.jit
def draw(seed, n, e):
    """Times 2^24, the noise of element e of sample n: from word e % 4 of the Philox block with counter (e / 4, n)."""
    e, n = e.to(tl.int64), n.to(tl.int64) + e * 0
    word0, word1, word2, word3 = words_of(seed, n, e // 4)
    odd, high = (e & 1) == 1, (e & 2) == 2
    word = tl.where(high, tl.where(odd, word3, word2), tl.where(odd, word1, word0))
    return (word >> 8).to(tl.int32) - 8388608


@triton.jit
def draw_in_order(seed, n, first, BLOCK: tl.constexpr):
    """`draw` of elements first ... first + BLOCK - 1, 4 from each Philox block; first is a multiple of 4."""
    block = (first // 4).to(tl.int64) + tl.arange(0, BLOCK // 4)
    word0, word1, word2, word3 = words_of(seed, n + block * 0, block)
    word = tl.join(tl.join(word0, word2), tl.join(word1, word3)).reshape(BLOCK)
    return (word >> 8).to(tl.int32) - 8388608


@triton.jit
def _forward(
    y,
    scale,
    mean,
    noise,
    seed,
    y_hat,
    bits,
    by_v,
    by_scale,
    sums,
    elements,
    chunks,
    size,
    y_stride,
    scale_stride,
    mean_stride,
    noise_stride,
    number_stride,
    ROUNDED: tl.constexpr,
    LIKELIHOOD: tl.constexpr,
    SCALE_MIN: tl.constexpr,
    LIKELIHOOD_MIN: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
):
    n, element, inside = place(elements, chunks, BLOCK, WIDE)
    value = read(y, n, element, inside, size, y_stride, TYPE)
    s = read(scale, n, element, inside, size, scale_stride, TYPE)
    v = value
    if mean is not None:
        m = read(mean, n, element, inside, size, mean_stride, TYPE)
        v = value - m
    if ROUNDED:
        v = nearest(v)
        value = v if mean is None else v + m
    elif noise is not None:
        u = read(noise, n, element, inside, size, noise_stride, TYPE)
        v, value = v + u, value + u
    elif seed is not None:
        if number_stride is None:
            u = draw_in_order(seed, n, begin(chunks, BLOCK, WIDE)[1], BLOCK)
        else:
            u = draw(seed, n, offset_of(n, element, size, number_stride))
        u = u.to(TYPE) * 5.9604644775390625e-08  # 2^-24
        v, value = v + u, value + u
    position = n * elements + element  # of the results
    if y_hat is not None:
        if y_hat.dtype.element_ty.primitive_bitwidth == 16:
            value = value.to(tl.float32)  # on its way from float64, as on the CPU
        tl.store(y_hat + position, value.to(y_hat.dtype.element_ty), mask=inside)
    s = tl.where(s < SCALE_MIN, SCALE_MIN, s)  # NaN stays
    b, slope_v, slope_scale = gaussian_bits(v, s, TYPE == tl.float64)  # what is not stored is not compiled
    if LIKELIHOOD:
        p = tl.exp2(-b)
        slope_v = tl.where(p == 0.0, 0.0, -0.6931471805599453 * p * slope_v)  # bits' derivatives may be infinite where p is 0
        slope_scale = tl.where(p == 0.0, 0.0, -0.6931471805599453 * p * slope_scale)
        b = tl.where(p < LIKELIHOOD_MIN, LIKELIHOOD_MIN, p)  # NaN stays
    if bits is not None:
        tl.store(bits + position, b, mask=inside)
    if by_v is not None:
        tl.store(by_v + position, slope_v, mask=inside)
    if by_scale is not None:
        tl.store(by_scale + position, slope_scale, mask=inside)
    if sums is not None:
        tl.store(sums + tl.program_id(0), tl.sum(tl.where(inside, b, 0.0).to(tl.float64)))


@triton.jit
def _add(sums, total, chunks, BLOCK: tl.constexpr):
    """A sample's sums of programs, in an order that depends on their number alone."""
    n = tl.program_id(0).to(tl.int64)
    lanes = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, chunks, BLOCK):
        chunk = first + tl.arange(0, BLOCK)
        lanes += tl.load(sums + n * chunks + chunk, mask=chunk < chunks, other=0.0)
    tl.store(total + n, tl.sum(lanes).to(total.dtype.element_ty))


@triton.jit
def _backward(
    grad_y_hat,
    grad_bits,
    by_v,
    by_scale,
    scale,
    likelihood,
    grad_y,
    grad_scale,
    grad_mean,
    elements,
    chunks,
    size,
    y_hat_stride,
    bits_stride,
    by_v_stride,
    by_scale_stride,
    scale_stride,
    likelihood_stride,
    SCALE_MIN: tl.constexpr,
    LIKELIHOOD_MIN: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
):
    n, element, inside = place(elements, chunks, BLOCK, WIDE)
    grad = read(grad_bits, n, element, inside, size, bits_stride, TYPE)
    if likelihood is not None:
        at_bound = read(likelihood, n, element, inside, size, likelihood_stride, TYPE) <= LIKELIHOOD_MIN
        # At the bound a step down the gradient may only lead up.
        grad = tl.where(at_bound & (grad > 0.0), 0.0, grad)
    position = n * elements + element
    if by_v is not None:
        by_bits = grad * read(by_v, n, element, inside, size, by_v_stride, TYPE)
        if grad_mean is not None:
            tl.store(grad_mean + position, -by_bits, mask=inside)
        if grad_y is not None:
            if grad_y_hat is not None:
                by_bits += read(grad_y_hat, n, element, inside, size, y_hat_stride, TYPE)
            tl.store(grad_y + position, by_bits, mask=inside)
    if grad_scale is not None:
        g = grad * read(by_scale, n, element, inside, size, by_scale_stride, TYPE)
        below = read(scale, n, element, inside, size, scale_stride, TYPE) < SCALE_MIN
        # Below scale_min a step down the gradient may only lead up.
        tl.store(grad_scale + position, tl.where(below & (g > 0.0), 0.0, g), mask=inside)


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
    """dkic::gaussian_likelihood. RuntimeError: arguments that the op's Python checks would have refused."""
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
    if drawn_strided:  # an element's number, as if numbers were a tensor's elements
        strides.append((0, *torch.empty(y.shape, device="meta").stride()[1:]))
    walk = walk_through(y.shape, channels_last, strides)
    if walk is None:
        plain = (None if t is None else t.contiguous() for t in operands)
        return forward(*plain, seed, rounded, scale_min, sum, need_v, need_scale, likelihood, likelihood_min)
    dtype = torch.float64 if any(t is not None and t.dtype == torch.float64 for t in operands) else torch.float32
    changed = rounded or noise is not None or seed is not None
    y_hat = empty_result(y, y.dtype, changed)
    bits = y.new_empty(y.shape[:1], dtype=dtype) if sum else empty_result(y, dtype)
    by_v, by_scale = empty_result(y, dtype, need_v), empty_result(y, dtype, need_scale)
    block = BLOCK[dtype]
    chunks = triton.cdiv(walk.elements, block)
    sums = y.new_empty(y.shape[0] * chunks, dtype=torch.float64) if sum else None
    with torch.cuda.device_of(y):
        if y.numel():
            _forward[(y.shape[0] * chunks,)](
                y,
                scale,
                mean,
                noise,
                seed,
                y_hat if changed else None,
                None if sum else bits,
                by_v if need_v else None,
                by_scale if need_scale else None,
                sums,
                walk.elements,
                chunks,
                walk.size,
                *walk.strides,
                *(() if drawn_strided else (None,)),
                ROUNDED=rounded,
                LIKELIHOOD=likelihood,
                SCALE_MIN=scale_min,
                LIKELIHOOD_MIN=likelihood_min,
                TYPE=TYPE[dtype],
                BLOCK=block,
                WIDE=walk.wide,
                maxnreg=REGISTERS,
            )
        if sum and y.shape[0]:
            # Programs end in any order, so each leaves its sum to a second, small launch: one that added to a total would make
            # its last digits a matter of chance, and a count of the programs done would have to be zeroed by a launch too.
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
    """dkic::gaussian_likelihood_backward. RuntimeError: arguments that the op itself would not pass."""
    if grad_bits.dim() == 1 and grad_bits.shape[0] == scale.shape[0]:  # of the sums
        grad_bits = grad_bits.view(grad_bits.shape[0], *(1,) * (scale.dim() - 1)).expand(scale.shape)
    slope_v = by_v if need_y or need_mean else None
    slope_scale = by_scale if need_scale else None
    operands = (grad_y_hat, grad_bits, slope_v, slope_scale, scale, likelihood)
    check("gaussian_likelihood_backward", scale, operands)
    dtype = torch.float64 if grad_bits.dtype == torch.float64 else torch.float32
    if dtype != torch.float64 and any(t is not None and t.dtype == torch.float64 for t in operands):
        raise RuntimeError("gaussian_likelihood_backward: grad_bits must be float64 as others are")
    like = slope_v if slope_v is not None else slope_scale if slope_scale is not None else scale
    walk = walk_through(scale.shape, channels_innermost(like), [strides_of(t, scale.dim()) for t in operands])
    if walk is None:
        plain = [None if t is None else t.contiguous() for t in (grad_y_hat, grad_bits, by_v, by_scale, scale, likelihood)]
        return backward(*plain[:5], scale_min, need_y, need_scale, need_mean, plain[5], likelihood_min)
    grads = [empty_result(like, dtype, needed) for needed in (need_y, need_scale, need_mean)]
    block = BLOCK[dtype]
    chunks = triton.cdiv(walk.elements, block)
    if scale.numel():
        with torch.cuda.device_of(scale):
            _backward[(scale.shape[0] * chunks,)](
                *operands,
                *(g if g.numel() else None for g in grads),
                walk.elements,
                chunks,
                walk.size,
                *walk.strides,
                SCALE_MIN=scale_min,
                LIKELIHOOD_MIN=likelihood_min,
                TYPE=TYPE[dtype],
                BLOCK=block,
                WIDE=walk.wide,
            )
    return tuple(grads)
