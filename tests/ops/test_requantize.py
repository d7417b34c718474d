"""The native requantize against its specification, bit by bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dkic.ops.requantize import _plain, requantize

BOUND = 2**24 - 1


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*(st.integers(0, 5) for _ in range(2)), *(st.integers(0, 9) for _ in range(2))),
    st.booleans(),
    st.sampled_from([(-255, 255), (0, 255), (-(2**15), 2**15)]),
)
@settings(max_examples=300, deadline=None)
def test_equals_the_specification(seed, shape, biased, bounds):
    """Any size, layout and magnitude; many products are halfway between integers."""
    generator = torch.Generator().manual_seed(seed)
    n, height, width, channels = shape[0], shape[1], shape[2] + 1, shape[3] * 5 + 1
    total = torch.randint(-BOUND, BOUND + 1, (n, channels, height, width), generator=generator).float()
    total = (total * 2.0 ** -torch.randint(0, 24, (1, channels, 1, 1), generator=generator)).round()
    bias = torch.randint(-1000, 1000, (channels,), generator=generator).float() if biased else None
    multiplier = torch.rand(channels, generator=generator) * 2.0 ** -torch.randint(0, 24, (channels,), generator=generator)
    multiplier = torch.where(torch.rand(channels, generator=generator) < 0.5, 2.0 ** multiplier.log2().round(), multiplier)
    for layout in (torch.contiguous_format, torch.channels_last):
        t = total.contiguous(memory_format=layout)
        got = requantize(t, bias, multiplier, *bounds)
        assert torch.equal(got, _plain(t, bias, multiplier, *bounds))
        noisy = (t + 0.96 * (torch.rand(t.shape, generator=generator) - 0.5)).where(t.abs() < 2**18, t)
        assert torch.equal(requantize(noisy, bias, multiplier, *bounds), got)


def test_halves_are_rounded_to_even():
    t = torch.arange(-9.0, 10).view(1, -1, 1, 1)
    half = torch.full((19,), 0.5)
    assert requantize(t, None, half, -255, 255).flatten().tolist() == [round(v / 2) for v in range(-9, 10)]


def test_one_multiplier_for_all_channels():
    t = torch.arange(24.0).view(1, 3, 2, 4)
    several = requantize(t, torch.full((3,), 5.0), torch.full((3,), 0.3), 0, 255)
    assert torch.equal(requantize(t, torch.tensor([5.0]), torch.tensor([0.3]), 0, 255), several)


def test_sums_beyond_float32_are_int32s():
    t = torch.tensor([2**24 + 1, -(2**30) - 1], dtype=torch.int32).view(1, 1, 1, 2)
    got = requantize(t, torch.tensor([1.0]), torch.tensor([2.0**-20]), -(2**15), 2**15)
    assert got.flatten().tolist() == [16, -1024]


def test_gradients_pass_as_if_nothing_were_rounded():
    t = torch.tensor([10.0, 3000.0, -3000.0, 40.2]).view(1, 1, 1, 4).requires_grad_()
    multiplier = torch.tensor([0.1], requires_grad=True)
    requantize(t, torch.tensor([2.0]), multiplier, -255, 255).sum().backward()
    assert t.grad.flatten().tolist() == pytest.approx([0.1, 0, 0, 0.1])  # nothing where it is clamped
    assert multiplier.grad.item() == pytest.approx(12 + 42)


def test_native_code_refuses_other_tensors():
    op, t, m = torch.ops.dkic.requantize, torch.zeros(1, 3, 2, 2), torch.ones(3)
    for arguments in ((t.double(), None, m), (t[0], None, m), (t, None, m[:2]), (t, m.double(), m), (t, torch.ones(4), m)):
        with pytest.raises(RuntimeError, match="requantize: "):
            op(*arguments, 0, 255)


def test_opcheck():
    for t in (torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4).contiguous(memory_format=torch.channels_last)):
        torch.library.opcheck(torch.ops.dkic.requantize, (t, None, torch.ones(5), -255, 255))
        torch.library.opcheck(torch.ops.dkic.requantize, (t, torch.ones(5), torch.ones(5), 0, 255))
