"""Bits of a unit bin under a Gaussian and their derivatives, in Triton.

The formulas are those of csrc/cpu/gaussian_bits.h, except for narrow bins: here, the series is of the probability instead of its
logarithm. A program computes all three formulas (narrow, tail, center) for all its elements and selects one, because branches
would diverge within a warp.

A float32 division is the GPU's approximate reciprocal, with a Newton step if its error would affect the bits: correctly rounded
divisions took 20 % of all instructions. The exponential and the logarithm are polynomials, because the GPU's fast functions lose
precision far out in the tails. Triton may or may not contract a product and a sum to an fma; x^2 is therefore computed from
factors with half the mantissa, whose products are exact either way.
"""

from math import factorial

import torch
import triton
import triton.language as tl

ORDER = 3, 9  # of the Taylor series, in float32 and float64


def _taylor_of_mean(n: int) -> tuple[tuple[float, ...], ...]:
    """Coefficients of x^i y^j, i + j <= n, of the mean of cosh(sqrt(x) t) e^(y t^2) over t in [0, 1]."""
    return tuple(tuple(1 / (factorial(2 * i) * factorial(j) * (2 * (i + j) + 1)) for j in range(n + 1 - i)) for i in range(n + 1))


# Coefficients for float32 and float64, lowest power first. csrc/cpu/gaussian_bits.h documents the first three fits. The next are
# Taylor series: of the mean above, of cosh(sqrt(x)), of sinh(sqrt(x)) / sqrt(x) and of e^x.
FIT = {
    "mills": (
        (
            1.893219055,
            -1.523770314,
            0.9704099614,
            -0.4675531274,
            0.1513885563,
            -0.01883037159,
            -0.008713460733,
            0.003919832456,
            0.0003241714095,
            -0.0003943441879,
        ),
        (
            1.89321906330848526,
            -1.52377091081998509,
            0.970409554867617658,
            -0.467540962998187209,
            0.151391762311048338,
            -0.0189004508654876507,
            -0.00872229524821574951,
            0.00408785572651232705,
            0.000334244365073039038,
            -0.000579269606700228909,
            -4.78183533988811331e-6,
            8.80969612696828336e-5,
            1.79124399651756195e-6,
            -1.48464944524615198e-5,
            -1.56653414025261769e-6,
            2.57426926709369324e-6,
            6.63594074891707453e-7,
            -4.0665602237973617e-7,
            -1.97485120846329617e-7,
            4.90544882088000042e-8,
            4.02766827992112794e-8,
            -3.20170274031278694e-9,
            -4.23316136283530521e-9,
        ),
    ),
    "exponential": (
        (
            0.5000000014,
            0.1666657336,
            0.04166645678,
            0.008363776467,
            0.001393454452,
        ),
        (
            0.5,
            0.166666666666666714,
            0.0416666666666666778,
            0.00833333333332554408,
            0.00138888888888782683,
            0.000198412698768661758,
            2.48015873385668207e-5,
            2.75572528315354186e-6,
            2.75572610279678502e-7,
            2.5106275452329115e-8,
            2.09189622869788227e-9,
        ),
    ),
    "logarithm": (
        (
            0.3333332856,
            -0.2500029861,
            0.200014781,
            -0.1664212806,
            0.1420180616,
            -0.1297352998,
            0.127159354,
            -0.08101671582,
        ),
        (
            0.333333333333333336,
            -0.250000000000000416,
            0.199999999999996255,
            -0.166666666666412623,
            0.142857142858037482,
            -0.125000000045977988,
            0.111111111050487899,
            -0.09999999619405885,
            0.0909090907842007702,
            -0.0833335037475112781,
            0.0769232523136170062,
            -0.0714241577667420106,
            0.0666584120571688431,
            -0.0625660350374677158,
            0.05900373216362723,
            -0.0550410948390593441,
            0.0505580943779026282,
            -0.0511113131725444388,
            0.0592919416188954111,
            -0.0547956274552156868,
            0.0239120176329894483,
        ),
    ),
    "mean": tuple(_taylor_of_mean(n) for n in ORDER),
    "cosine": tuple(tuple(1 / factorial(2 * i) for i in range(n + 1)) for n in ORDER),
    "sine": tuple(tuple(1 / factorial(2 * i + 1) for i in range(n + 1)) for n in ORDER),
    "taylor": tuple(tuple(1 / factorial(i) for i in range(n + 2)) for n in ORDER),
    # Bit representation: mantissa bits, a mask for half of the mantissa, the bits of sqrt(1/2), and the integer type.
    "mantissa": (23, 52),
    "low_half": (-0x1000, -0x8000000),
    "root_half": (0x3F3504F3, 0x3FE6A09E667F3BCD),
    "integer": (tl.int32, tl.int64),
    "round": (12582912.0, 6755399441055744.0),  # 1.5 * 2^23, 1.5 * 2^52: adding it rounds to an integer
    "least_exponent": (-80.0, -700.0),
    "ln2_high": (0.693115234375, 0.6931471803691238),
    "ln2_low": (3.194618329871446e-05, 1.9082149292705877e-10),
}
# The interpreter supports these constexprs only as right operands of a tensor.
LOG2_E, TWO_LOG2_E = tl.constexpr(1.44269504088896340736), tl.constexpr(2 * 1.44269504088896340736)
HAS_PTX = tl.constexpr(not (triton.knobs.runtime.interpret or torch.version.hip))
LN_PHI_0 = tl.constexpr(-0.91893853320467274178)  # ln of the density at 0
PHI_0 = tl.constexpr(0.39894228040143267794)


@triton.constexpr_function
def fit(name, is_double):
    return FIT[name][is_double]


@triton.constexpr_function
def from_end(coefficients, i):
    """The i-th coefficient from the end. A function, because Triton 3.6 cannot pass on an element of a nested constexpr tuple."""
    return coefficients[-i]


@triton.jit
def polynomial(c: tl.constexpr, x):
    """Horner's rule: it needs the fewest registers, and many warps hide its latency."""
    total = x * c[len(c) - 1] + c[len(c) - 2]
    for i in tl.static_range(3, len(c) + 1):
        total = total * x + c[len(c) - i]
    return total


@triton.jit
def _reciprocal(x, IS_DOUBLE: tl.constexpr):
    """1 / x. float64: rounded to nearest. float32: relative error 2^-23 up to |x| = 2^126, 0 above; infinite below 2^-126."""
    if HAS_PTX and not IS_DOUBLE:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        return 1.0 / x


@triton.jit
def _refined_reciprocal(x, IS_DOUBLE: tl.constexpr):
    """1 / x with a Newton step in float32: relative error about 2^-24. 0 if x is infinite."""
    near = _reciprocal(x, IS_DOUBLE)
    if IS_DOUBLE:
        return near
    else:  # the bound avoids infinity * 0
        return tl.fma(near, tl.maximum(tl.fma(-x, near, 1.0), -1.0), near)


@triton.jit
def _head(x, IS_DOUBLE: tl.constexpr):
    """x truncated to half its mantissa: the product of two such numbers is exact."""
    return (x.to(fit("integer", IS_DOUBLE), bitcast=True) & fit("low_half", IS_DOUBLE)).to(x.dtype, bitcast=True)


@triton.jit
def _mills(z, IS_DOUBLE: tl.constexpr):
    """(1 - Phi(z)) / phi(z), z >= 0."""
    inverse = _refined_reciprocal(z + 4.0, IS_DOUBLE)
    return polynomial(fit("mills", IS_DOUBLE), 1.0 - 8.0 * inverse) * inverse  # (z - 4) * inverse is NaN for infinite z


@triton.jit
def _exponential(high, low, IS_DOUBLE: tl.constexpr):
    """e^(high + low), |low| much smaller than |high|; bounded below, so that 2^k is a normal number."""
    INTEGER: tl.constexpr = fit("integer", IS_DOUBLE)
    low = tl.where(high < fit("least_exponent", IS_DOUBLE), 0.0, low)
    high = tl.where(high < fit("least_exponent", IS_DOUBLE), fit("least_exponent", IS_DOUBLE), high)
    shifted = high * LOG2_E + fit("round", IS_DOUBLE)
    k = shifted - fit("round", IS_DOUBLE)
    f = (high - k * fit("ln2_high", IS_DOUBLE)) + (low - k * fit("ln2_low", IS_DOUBLE))
    e = 1.0 + (f + f * f * polynomial(fit("exponential", IS_DOUBLE), f))
    power = shifted.to(INTEGER, bitcast=True) << fit("mantissa", IS_DOUBLE)
    return (e.to(INTEGER, bitcast=True) + power).to(e.dtype, bitcast=True)


@triton.jit
def _logarithm(x, given, complement, IS_DOUBLE: tl.constexpr):
    """(power, rest): x = 2^power e^rest; if `given` and x is near 1, for 1 - complement instead of x."""
    bits = x.to(fit("integer", IS_DOUBLE), bitcast=True)
    k = (bits - fit("root_half", IS_DOUBLE)) >> fit("mantissa", IS_DOUBLE)
    f = (bits - (k << fit("mantissa", IS_DOUBLE))).to(x.dtype, bitcast=True) - 1.0
    f = tl.where(given & (k == 0), -complement, f)
    return k.to(x.dtype), f + f * f * (f * polynomial(fit("logarithm", IS_DOUBLE), f) - 0.5)


@triton.jit
def _narrow_sum(square, half, mean: tl.constexpr):
    """P / (2 h phi(u)): the mean of cosh(u w) e^(-w^2/2) over w in [0, h], as a series in (u h)^2 and -h^2/2."""
    total = square * from_end(mean, 1)[0] + polynomial(from_end(mean, 2), half)
    for i in tl.static_range(3, len(mean) + 1):
        total = total * square + polynomial(from_end(mean, i), half)
    return total


@triton.jit
def gaussian_bits(v, s, IS_DOUBLE: tl.constexpr):
    """(bits, by_v, by_scale): bits of the unit bin around v for s > 0, and derivatives. Limits as in csrc/cpu/gaussian_bits.h."""
    a = tl.abs(v)
    upper, lower = a + 0.5, a - 0.5
    four_r = _refined_reciprocal(0.25 * s, IS_DOUBLE)  # 1 / s is subnormal for s > 2^126
    r = 0.25 * four_r
    u, h = a * r, 0.5 * r
    p = u * h
    narrow = (h < 0.38) & (p < 0.33)
    center = (lower < 0.0) & (narrow == 0)

    # x in extended precision: if P is nearly 1, its complement is proportional to e^(-x^2/2), and x^2/2 is 10 or more.
    near_x = lower * r
    parted = near_x < 1.152921504606847e18  # 2^60; above, near_x is accurate enough, and products of its parts overflow
    x_head, s_head = tl.where(parted, _head(near_x, IS_DOUBLE), near_x), _head(s, IS_DOUBLE)
    x_rest = (((lower - x_head * s_head) - x_head * (s - s_head)) + (a - (lower + 0.5))) * r
    x_rest = tl.where(parted, x_rest, 0.0)
    x = x_head + x_rest
    square_high, square_low = -0.5 * x_head * x_head, tl.where(parted, -x_rest * (x_head + 0.5 * x_rest), 0.0)  # -x^2/2
    fall = _exponential(-2.0 * p, p * 0.0, IS_DOUBLE)  # phi(y) / phi(x)
    mills_x, mills_y = _mills(tl.abs(near_x), IS_DOUBLE), _mills(upper * r, IS_DOUBLE)
    density = _exponential(square_high, square_low, IS_DOUBLE) * PHI_0
    outside = density * (mills_x + fall * mills_y)  # 1 - P, where center

    # ln P = exponent + ln(factor); both have the same sign, or nearly, so there is little cancellation.
    square, half = p * p, -0.5 * h * h
    exponent = tl.where(narrow, -0.5 * u * u + LN_PHI_0, square_high + (square_low + LN_PHI_0))
    exponent = tl.where(center, 0.0, exponent)
    exponent = tl.where(s < float("inf"), exponent, -s - u)  # infinite or NaN, which the logarithm would not propagate
    factor = tl.where(narrow, _narrow_sum(square, half, fit("mean", IS_DOUBLE)), mills_x - fall * mills_y)
    factor = tl.where(center, 1.0 - outside, factor)
    # For narrow bins P = factor * r * phi(u).
    power, rest = _logarithm(tl.where(narrow, factor * four_r, factor), center, outside, IS_DOUBLE)
    bits = -((exponent + rest) * LOG2_E + tl.where(narrow, power - 2.0, power))

    # For narrow bins, phi(x) -+ phi(y) = 2 phi(u) e^(-h^2/2) times the hyperbolic sine and cosine of u h.
    middle = polynomial(fit("taylor", IS_DOUBLE), half)
    odd, even = p * polynomial(fit("sine", IS_DOUBLE), square) * middle, polynomial(fit("cosine", IS_DOUBLE), square) * middle
    above = tl.where(narrow, 1.0, tl.where(center, density, 1.0) * r) * TWO_LOG2_E * _reciprocal(factor, IS_DOUBLE)
    drop = 0.5 - 0.5 * fall
    slope = tl.where(narrow, odd, drop) * above
    by_scale = tl.where(narrow, h * even - u * odd, 0.5 * r * fall - x * drop) * above  # y - x = r
    return bits, tl.where(v < 0.0, -slope, slope), by_scale
