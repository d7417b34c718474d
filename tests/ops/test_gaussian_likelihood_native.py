"""The compiled kernels of the Gaussian likelihood and symbols: threads and instruction sets."""

import tempfile

import pytest
import torch
from ops.op_cases import LATENT, LikelihoodCase
from ops.python_process import CAPABILITIES, capability, python

from dkic.ops import gaussian_likelihood, gaussian_symbols


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(1, 32, 25, 37), (33, 8, 5, 6)], ids=str)
def test_results_do_not_depend_on_the_number_of_threads(shape, layout, reduction, threads):
    case = LikelihoodCase("", shape)

    def outcome(count: int) -> list[torch.Tensor]:
        threads(count)
        tensors = [t.contiguous(memory_format=layout).requires_grad_() for t in case.tensors(torch.float32)]
        generator = torch.Generator().manual_seed(1)
        outputs = gaussian_likelihood(*tensors, quantize="noise", generator=generator, reduction=reduction)
        with torch.no_grad():
            symbols = gaussian_symbols(*tensors)
        return [*outputs, *torch.autograd.grad(outputs, tensors, case.gradients(reduction, torch.float32)), *symbols]

    one = outcome(1)
    for count in (2, 3, 3):
        assert all(map(torch.equal, outcome(count), one))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_number_has_the_same_bits_wherever_it_lies(dtype):
    """Independent of its neighbors and of whether derivatives are computed."""
    case = LikelihoodCase("", (2, 3, 41, 37))
    y, scale, mean = (t.flatten() for t in case.tensors(dtype))
    y[::3] = mean[::3]  # rounded to 0
    order = torch.randperm(y.numel(), generator=torch.Generator().manual_seed(0))

    def outcome(*tensors: torch.Tensor) -> list[torch.Tensor]:
        leaves = [t.clone()[None].requires_grad_() for t in tensors]
        bits = gaussian_likelihood(*leaves, quantize="round")[1]
        return [t[0] for t in (bits.detach(), *torch.autograd.grad(bits.sum(), leaves))]

    there, here = outcome(y, scale, mean), outcome(y[order], scale[order], mean[order])
    assert all(torch.equal(t[order], h) for t, h in zip(there, here, strict=True))
    with torch.no_grad():
        assert torch.equal(gaussian_likelihood(y[None], scale[None], mean[None], quantize="round")[1][0], there[0])


def test_instruction_sets_agree():
    """Bits agree up to the last digits; symbols, indexes and noise are equal."""
    code = """if True:
        import sys, torch
        from dkic.ops import gaussian_likelihood, gaussian_symbols
        from ops.op_cases import LATENT
        tensors = LATENT.tensors(torch.float32)
        outputs = gaussian_likelihood(*tensors, quantize="noise", generator=torch.Generator().manual_seed(1))
        torch.save((*outputs, *gaussian_symbols(*tensors)), sys.argv[1])
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for asked in CAPABILITIES[: CAPABILITIES.index(capability()) + 1]:
            run = python("-c", code, f"{folder}/{asked}.pt", DKIC_CPU_CAPABILITY=asked)
            assert run.returncode == 0, run.stderr
            found.append(torch.load(f"{folder}/{asked}.pt"))
    assert found[0][0].shape == LATENT.shape
    for y_hat, bits, symbols, index in found[1:]:
        assert torch.equal(y_hat, found[0][0]) and torch.equal(symbols, found[0][2]) and torch.equal(index, found[0][3])
        torch.testing.assert_close(bits, found[0][1], rtol=1e-6, atol=0)
