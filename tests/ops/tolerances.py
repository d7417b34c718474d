"""Every tolerance of the op tests, with the reason for its size."""

import torch

# float64 against float64: sums of at most 4 * 169 products of numbers near 1 lose about 1e-13; a wrong term is near 1.
FLOAT64 = {"rtol": 1e-10, "atol": 1e-10}

# A kernel may lose twice what plain PyTorch loses in the same dtype, both measured against float64: operations come in
# another order, and one of the two is the luckier.
PLAIN_FACTOR = 2.0

# Half the spacing of a dtype's numbers, relative: what the last rounding costs.
HALF_SPACING = {
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}

# What sums and positions in float32 lose, relative to the largest result: positions up to 16 are exact to 2^-20, which
# a sample with slope 4 and its 4 * 9 products multiply by a few.
FLOAT32_SUMS = 2.0**-16

# Rounding to nearest has no bias. Rounding toward 0 would have half a spacing, that is 1, in this unit; the mean of n
# errors spread evenly over a spacing strays by 0.6 / sqrt(n), here 0.01.
BIAS = 0.05

# 1 - cosine of the angle between a tensor and its reference, in units of the half spacing squared. Roundings that know
# nothing of each other give 0.09 (half the mean of their squares: a value's spacing is 1 to 2 units of 2^-n of it).
COSINE = 0.2

# torch.library.opcheck compares the op with itself, traced: only the order of a few sums may differ.
OPCHECK = {torch.float64: FLOAT64, torch.bfloat16: {"rtol": 2.0**-7, "atol": 2.0**-7}}

# The reference of the Gaussian likelihood, in float64, takes its gradient as the exponential of a difference of numbers as large
# as (v / scale)^2 / 2, here 10^6, each good to 10^-16 of itself. (The kernel is measured against arbitrary precision elsewhere.)
LIKELIHOOD = {"rtol": 1e-8, "atol": 1e-10}
