"""The native convolution of integers against its specification in int64, bit by bit."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dkic.ops.quantized_conv2d import packed, quantized_conv2d, runs_on


def specification(x: Tensor, weight: Tensor, bias: Tensor, multiplier: Tensor, stride: int, padding: int, low: int, high: int):
    total = F.conv2d(x.double(), weight.double(), bias.double(), stride, padding)  # below 2^53, so exact
    return (total.float() * multiplier.view(-1, 1, 1)).round().clamp(low, high)


def problem(seed: int, n: int, channels: int, out: int, height: int, width: int, k: int):
    """Values at their bounds; many multipliers give products halfway between integers."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-255, 256, (n, channels, height, width), generator=generator).float()
    weight = torch.randint(-127, 128, (out, channels, k, k), generator=generator)
    x[0, :, :k, :k], weight[0] = 255 * weight[0].sign(), 127 * weight[0].sign()
    bias = torch.randint(-(2**20), 2**20, (out,), generator=generator, dtype=torch.int32)
    odd = (torch.rand(out, generator=generator) < 0.5) / 3
    multiplier = 2.0 ** -torch.randint(8, 24, (out,), generator=generator) * (1 + odd)
    return x, weight, bias, multiplier


SIZES = st.tuples(st.integers(0, 3), st.integers(1, 35), st.integers(1, 150), st.integers(0, 14), st.integers(0, 14))


@given(st.integers(0, 2**32 - 1), SIZES, st.sampled_from([1, 2, 3, 5]), st.integers(1, 3), st.booleans())
@settings(max_examples=80, deadline=None)
def test_equals_the_specification(seed, sizes, k, stride, pad):
    """Any size, stride and layout; non-contiguous views."""
    n, channels, out, height, width = sizes
    n = n or 1
    x, weight, bias, multiplier = problem(seed, n, channels, out, height + k, width + k, k)
    options = stride, k // 2 if pad else 0, *((0, 255) if seed % 2 else (-(2**15), 2**15))
    expected = specification(x, weight, bias, multiplier, *options)
    wide = F.pad(x, (1, 2, 3, 0)).contiguous(memory_format=torch.channels_last)
    window = wide[:, :, 3:, 1 : 1 + x.shape[3]]
    for other in (x, x.contiguous(memory_format=torch.channels_last), window, x.flip(1).contiguous().flip(1)):
        got = quantized_conv2d(other, packed(weight), bias, multiplier, *options)
        assert torch.equal(got, expected)
        assert got.is_contiguous(memory_format=torch.channels_last)


def test_sums_beyond_float32_are_exact():
    """900 products of 127 and 255 sum to 29,146,500, where the spacing of float32 is 2."""
    x, weight = torch.full((1, 900, 1, 1), 255.0), torch.full((1, 900, 1, 1), 127)
    x[0, -1] = 254
    bias = torch.tensor([-(900 * 127 * 255) + 130], dtype=torch.int32)
    assert quantized_conv2d(x, packed(weight), bias, torch.ones(1), 1, 0, -255, 255).item() == 3


def test_halves_are_rounded_to_even():
    x = torch.arange(-9.0, 10).view(1, 1, 1, -1)
    got = quantized_conv2d(
        x, packed(torch.ones(1, 1, 1, 1)), torch.zeros(1, dtype=torch.int32), torch.tensor([0.5]), 1, 0, -255, 255
    )
    assert got.flatten().tolist() == [round(v / 2) for v in range(-9, 10)]


def test_an_empty_batch():
    x, weight, bias, multiplier = problem(0, 1, 5, 7, 4, 4, 3)
    assert quantized_conv2d(x[:0], packed(weight), bias, multiplier, 1, 1, 0, 255).shape == (0, 7, 4, 4)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(threads):
    x, weight, bias, multiplier = problem(1, 2, 33, 50, 40, 41, 3)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = quantized_conv2d(x, packed(weight), bias, multiplier, 1, 1, -255, 255)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got, specification(x, weight, bias, multiplier, 1, 1, -255, 255))


def test_values_that_are_not_integers_do_not_corrupt_memory():
    """NaN, infinities and numbers beyond 16 bits give arbitrary results, and do not change those of other elements."""
    x, weight, bias, multiplier = problem(2, 1, 20, 20, 9, 9, 1)
    expected = specification(x, weight, bias, multiplier, 1, 0, -255, 255)
    for i, bad in enumerate((float("nan"), float("inf"), -float("inf"), 1e30, -7e4)):
        x[0, 3 * i, 4, i] = bad
    got = quantized_conv2d(x, packed(weight), bias, multiplier, 1, 0, -255, 255)
    assert got.isfinite().all() and torch.equal(got[..., :4, :], expected[..., :4, :])


def test_native_code_refuses_other_tensors():
    x, weight, bias, multiplier = problem(0, 1, 5, 7, 4, 4, 3)
    good = {"x": x, "weight": packed(weight), "bias": bias, "multiplier": multiplier, "stride": 1, "padding": 1}
    wrong = [
        {"x": x.double()},
        {"x": x[0]},
        {"x": x[:, :2]},
        {"x": x[..., :2], "padding": 0},
        {"weight": good["weight"].int()},
        {"weight": good["weight"].transpose(1, 2)},
        {"weight": good["weight"][:, :, :1]},
        {"bias": bias.float()},
        {"bias": torch.zeros(17, dtype=torch.int32), "multiplier": torch.ones(17)},
        {"multiplier": multiplier[:3]},
        {"stride": 0},
        {"padding": -1},
        {"padding": 3},
    ]
    for change in wrong:
        with pytest.raises(RuntimeError, match="quantized_conv2d: "):
            quantized_conv2d(**(good | change), low=0, high=255)


def test_opcheck():
    for k, stride, padding in ((1, 1, 0), (3, 1, 1), (5, 2, 0)):
        x, weight, bias, multiplier = problem(3, 2, 5, 18, 7, 8, k)
        torch.library.opcheck(torch.ops.dkic.quantized_conv2d, (x, packed(weight), bias, multiplier, stride, padding, -255, 255))


def test_runs_only_on_float32_on_the_cpu():
    assert runs_on(torch.zeros(1)) and not runs_on(torch.zeros(1).double()) and not runs_on(torch.zeros(1, device="meta"))
