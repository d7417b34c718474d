"""Triton kernels of the Gaussian likelihood, in Triton's interpreter and on a GPU if there is one."""

import pytest
import torch
from ops import tolerances
from ops.op_cases import LATENT, LikelihoodCase
from ops.python_process import python

from dkic.ops import backends, gaussian_likelihood

pytest.importorskip("triton")


def test_passes_in_the_interpreter():
    """In a subprocess, because Triton selects the interpreter when it is imported."""
    run = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "ops/interpreted_gaussian_likelihood.py", TRITON_INTERPRET="1")
    assert run.returncode == 0 and " passed" in run.stdout, run.stdout[-5000:]


def test_importing_dkic_imports_no_kernel_of_triton_s():
    run = python("-c", "import sys, dkic.ops; raise SystemExit(any(name.startswith('dkic.ops.triton') for name in sys.modules))")
    assert run.returncode == 0, run.stderr


SHAPES = [(2, 192, 17, 23), (33, 5), (1, 3, 129, 65)]


def outcome(case: LikelihoodCase, device: str, dtype: torch.dtype, reduction: str, **options) -> list[torch.Tensor]:
    """y_hat, bits and the gradients of y, scale and mean, on the CPU. The noise is given, as seeds of two devices differ."""
    tensors = [t.to(device).requires_grad_() for t in case.tensors(dtype)]
    if options["quantize"] == "noise":
        options["noise"] = case.noise(dtype).to(device)
    outputs = gaussian_likelihood(*tensors, reduction=reduction, **options)
    gradients = [g.to(device) for g in case.gradients(reduction, dtype)]
    gradients[1] = gradients[1].to(outputs[1].dtype)
    return [t.detach().cpu() for t in (*outputs, *torch.autograd.grad(outputs, tensors, gradients))]


@pytest.mark.cuda
@pytest.mark.skipif(backends.find_triton() is not None, reason=backends.find_triton() or "")
class TestOnAGpu:
    @pytest.mark.parametrize("reduction", ["none", "sum"])
    @pytest.mark.parametrize("quantize", ["noise", "round", "none"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_equals_the_cpu(self, shape, dtype, quantize, reduction):
        case = LikelihoodCase("", shape)
        gpu, cpu = (outcome(case, device, dtype, reduction, quantize=quantize) for device in ("cuda", "cpu"))
        assert torch.equal(gpu[0], cpu[0])
        for actual, expected in zip(gpu[1:], cpu[1:], strict=True):
            # A derivative's error is up to 1e-6 / s, and s is at least 0.11; halves then differ by a last digit, or by
            # two where autograd rounds y_hat's and the bits' part before it adds them.
            rtol = max(1e-5, 4 * tolerances.HALF_SPACING.get(actual.dtype, 0.0))
            close = {} if dtype == torch.float64 else {"rtol": rtol, "atol": 1e-4}
            torch.testing.assert_close(actual, expected, **close)

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_noise_is_the_cpu_s_to_the_bit(self, layout):
        y = torch.zeros(2, 40, 9, 17).contiguous(memory_format=layout)
        noises = [
            torch.ops.dkic.gaussian_likelihood(
                y.to(device),
                torch.ones_like(y, device=device),
                None,
                None,
                torch.tensor(7, device=device),
                False,
                0.11,
                False,
                False,
                False,
            )[0]
            for device in ("cpu", "cuda")
        ]
        assert torch.equal(noises[0], noises[1].cpu())

    def test_results_are_the_same_every_time(self):
        case = LikelihoodCase("", (3, 192, 33, 31))
        runs = [outcome(case, "cuda", torch.float32, "sum", quantize="noise") for _ in range(5)]
        assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))

    def test_runs_in_the_current_stream(self):
        """y is ready long after the launch, so a kernel in another stream would read too early."""
        y, scale, mean = (t.cuda() for t in LikelihoodCase("", (2, 64, 64, 64)).tensors(torch.float32))
        expected = gaussian_likelihood(y, scale, mean, quantize="round")
        late, stream = torch.zeros_like(y), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(10**8)
            late.copy_(y)
            found = gaussian_likelihood(late, scale, mean, quantize="round")
        stream.synchronize()
        assert all(map(torch.equal, found, expected))

    def test_opcheck(self):
        y, scale, mean = (t.cuda().requires_grad_() for t in LATENT.tensors())
        args = (y, scale, mean, None, torch.tensor(1, device="cuda"), False, 0.11, False, True, True)
        torch.library.opcheck(torch.ops.dkic.gaussian_likelihood.default, args)
