"""Every op on a GPU, and its backward pass, can be captured in a CUDA graph. Skipped where there is no GPU.

As PyTorch asks for, a call before the capture compiles the kernels and copies constant tables to the GPU.
"""

from collections.abc import Callable, Sequence

import pytest
import torch
from host_reads import NoHostReads
from ops.op_cases import LATENT, PLAIN, PLAIN_CONV, LdcnCase
from torch import Tensor

from dkic.ops import backends, deform_conv2d, gaussian_indexes, gaussian_likelihood, gaussian_symbols, ldcn

WITHOUT_GPU = backends.find_triton()  # the reason, or None
on_a_gpu = [pytest.mark.cuda, pytest.mark.skipif(WITHOUT_GPU is not None, reason=str(WITHOUT_GPU))]

WARP = LdcnCase("warp kernels", batch=2, groups=2, depth=24)
LEAVES = {
    "ldcn": PLAIN.tensors(torch.float32),
    "ldcn, warp kernels": [t.contiguous(memory_format=torch.channels_last) for t in WARP.tensors(torch.float32)],
    "deform_conv2d": PLAIN_CONV.tensors(torch.float32),
    "gaussian_likelihood, round": LATENT.tensors(torch.float32),
    "gaussian_likelihood, noise": LATENT.tensors(torch.float32),
}
OPS: dict[str, Callable] = {
    "ldcn": lambda *t: ldcn(*t, **PLAIN.geometry),
    "ldcn, warp kernels": lambda *t: ldcn(*t, **WARP.geometry),
    "deform_conv2d": lambda x, offset, weight, bias, mask: deform_conv2d(
        x, offset, weight, bias, mask=mask, **PLAIN_CONV.geometry
    ),
    "gaussian_likelihood, round": lambda *t: gaussian_likelihood(*t, quantize="round"),
    "gaussian_likelihood, noise": lambda *t: gaussian_likelihood(
        *t, quantize="noise", noise=t[0].detach().sin() / 2, reduction="sum"
    ),
}
SYMBOLS = {
    "gaussian_symbols": lambda y, scale, mean: gaussian_symbols(y, scale, mean),
    "gaussian_symbols, other scales": lambda y, scale, mean: gaussian_symbols(y, scale, mean, scales=[0.5, 1.0, 2.0]),
    "gaussian_indexes": lambda y, scale, mean: (gaussian_indexes(scale),),
}


def forward_backward(op: Callable, leaves: Sequence[Tensor]) -> list[Tensor]:
    """The op's outputs, and the gradients of the leaves for gradients of ones."""
    outputs = op(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return [*(y.detach() for y in outputs), *torch.autograd.grad(outputs, leaves, [torch.ones_like(y) for y in outputs])]


def leaves_of(name: str, device: str) -> list[Tensor]:
    return [t.to(device).requires_grad_() for t in LEAVES[name]]


def capture(call: Callable[[], Sequence[Tensor]]) -> tuple[torch.cuda.CUDAGraph, Sequence[Tensor]]:
    """The captured call and its results, which a replay overwrites."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()
    return graph, results


@pytest.mark.parametrize("name", OPS)
def test_the_captured_calls_depend_on_their_input(name):
    """Otherwise a replay on other data would show nothing."""
    leaves = leaves_of(name, "cpu")
    before = forward_backward(OPS[name], leaves)
    with torch.no_grad():
        leaves[0].mul_(2).add_(0.3)
    after = forward_backward(OPS[name], leaves)
    assert len(before) > len(leaves) and not torch.allclose(before[0], after[0], rtol=1e-2)


class TestOnAGpu:
    pytestmark = on_a_gpu

    @pytest.mark.parametrize("name", OPS)
    def test_both_passes_are_captured(self, name):
        leaves = leaves_of(name, "cuda")
        graph, captured = capture(lambda: forward_backward(OPS[name], leaves))
        with torch.no_grad():
            leaves[0].mul_(2).add_(0.3)
        graph.replay()
        for actual, expected in zip(captured, forward_backward(OPS[name], leaves), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)  # atomics add in any order

    @pytest.mark.parametrize("name", SYMBOLS)
    def test_symbols_are_captured(self, name):
        tensors = [t.cuda() for t in LATENT.tensors(torch.float32)]
        graph, captured = capture(lambda: SYMBOLS[name](*tensors))
        for t in tensors:
            t.mul_(1.7)
        graph.replay()
        assert all(map(torch.equal, captured, SYMBOLS[name](*tensors)))

    def test_every_replay_draws_other_noise(self):
        y, scale, _ = (t.cuda() for t in LATENT.tensors(torch.float32))
        graph, (y_hat, _) = capture(lambda: gaussian_likelihood(y, scale.abs() + 1, quantize="noise"))
        graph.replay()
        first = y_hat.clone()
        graph.replay()
        assert not torch.equal(first, y_hat)

    @pytest.mark.parametrize("name", OPS)
    def test_neither_pass_reads_the_host(self, name):
        """The real kernels' launches, where test_host_reads.py runs fakes."""
        leaves = leaves_of(name, "cuda")
        forward_backward(OPS[name], leaves)
        with NoHostReads():
            forward_backward(OPS[name], leaves)
