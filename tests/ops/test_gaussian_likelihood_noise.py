"""The noise of dkic.ops.gaussian_likelihood: Philox 4x32-10, a function only of seed, sample and index."""

import pytest
import torch
from ops.op_cases import LATENT, LikelihoodCase

from dkic.ops import gaussian_likelihood, reference

# Counter, key and words of Random123's file of known answers (kat_vectors, philox4x32-10).
KNOWN_ANSWERS = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_the_reference_is_philox(counter, key, words):
    assert reference.philox(torch.tensor(counter), key[0] | key[1] << 32).tolist() == words


def drawn(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64, **layout) -> torch.Tensor:
    """The noise that the native op draws from a seed."""
    y, scale = torch.zeros(shape, dtype=dtype).contiguous(**layout), torch.ones(shape, dtype=dtype)
    return torch.ops.dkic.gaussian_likelihood(y, scale, None, None, torch.tensor(seed), False, 0.11, False, False, False)[0]


@pytest.mark.parametrize("seed", [0, 1, 12345678901234567, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("shape", [(1,), (70,), (2, 63), (2, 64), (3, 65), (2, 257), (1, 4097), (2, 3, 41, 37), (0, 4)], ids=str)
def test_noise_equals_reference(shape, seed):
    assert torch.equal(drawn(shape, seed), reference.gaussian_noise(shape, seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_noise_does_not_depend_on_layout_or_dtype(memory_format, dtype):
    shape = (2, 40, 9, 17)
    noise = drawn(shape, 7, dtype, memory_format=memory_format)
    assert noise.dtype == dtype and torch.equal(noise.double(), reference.gaussian_noise(shape, 7))


def test_a_sample_s_noise_does_not_depend_on_the_others():
    assert torch.equal(drawn((5, 333), 3)[:2], drawn((2, 333), 3))


def test_noise_is_uniform():
    noise = drawn((4, 250_000), 11)
    assert noise.min() >= -0.5 and noise.max() < 0.5
    assert torch.equal(noise * 2**24, (noise * 2**24).round())
    counts = torch.histc(noise.float(), 1000, -0.5, 0.5)
    deviation = (counts - 1000) / 1000**0.5  # of each count: normal, nearly
    assert abs((deviation**2).sum() / 999 - 1) < 0.2  # its spread is 0.045
    for a, b in ((noise[:, 1:], noise[:, :-1]), (noise[0], noise[1]), (noise[:, 16:], noise[:, :-16])):
        assert abs(12 * (a * b).mean()) < 0.01  # correlation; 0.002 is one standard deviation


@pytest.mark.parametrize("quantized", range(2))
def test_the_generator_decides(quantized):
    """Equal generator states give equal noise, and a call advances the state."""
    tensors = LATENT.tensors(torch.float32)

    def call(generator: torch.Generator | None) -> torch.Tensor:
        return gaussian_likelihood(*tensors, quantize="noise", generator=generator)[quantized]

    generator = torch.Generator().manual_seed(4)
    first, second = call(generator), call(generator)
    assert not torch.equal(first, second)
    generator.manual_seed(4)
    assert torch.equal(call(generator), first) and torch.equal(call(generator), second)
    torch.manual_seed(4)
    by_default = call(None)
    torch.manual_seed(4)
    assert torch.equal(call(None), by_default) and not torch.equal(call(None), by_default)


def test_drawn_noise_is_as_if_given():
    case = LikelihoodCase("", (2, 5, 9, 11))
    y, scale, mean = (t.requires_grad_() for t in case.tensors())
    seed = torch.randint(2**63 - 1, (), generator=torch.Generator().manual_seed(9)).item()
    noise = reference.gaussian_noise(case.shape, seed)
    drawn = gaussian_likelihood(y, scale, mean, quantize="noise", generator=torch.Generator().manual_seed(9))
    given = gaussian_likelihood(y, scale, mean, quantize="noise", noise=noise)
    gradients = [torch.autograd.grad(outputs, (y, scale, mean), case.gradients("none")) for outputs in (drawn, given)]
    assert all(map(torch.equal, (*drawn, *gradients[0]), (*given, *gradients[1])))


def test_round_and_none_draw_nothing():
    before = torch.get_rng_state()
    for quantize in ("round", "none"):
        gaussian_likelihood(*LATENT.tensors(), quantize=quantize)
    gaussian_likelihood(*LATENT.tensors(), quantize="noise", noise=LATENT.noise())
    assert torch.equal(torch.get_rng_state(), before)
