"""Triton kernel of gaussian_symbols, in Triton's interpreter and on a GPU if there is one."""

import pytest
import torch
from ops.op_cases import LIKELIHOOD_CASES, LikelihoodCase
from ops.python_process import python

from dkic.ops import backends, gaussian_symbols

pytest.importorskip("triton")


def test_passes_in_the_interpreter():
    run = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "ops/interpreted_gaussian_symbols.py", TRITON_INTERPRET="1")
    assert run.returncode == 0 and " passed" in run.stdout, run.stdout[-5000:]


@pytest.mark.cuda
@pytest.mark.skipif(backends.find_triton() is not None, reason=backends.find_triton() or "")
class TestOnAGpu:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("case", LIKELIHOOD_CASES, ids=str)
    def test_equals_the_cpu(self, case, dtype):
        tensors = case.tensors(dtype)
        found = gaussian_symbols(*(None if t is None else t.cuda() for t in tensors))
        assert all(torch.equal(a.cpu(), e) for a, e in zip(found, gaussian_symbols(*tensors), strict=True))

    @pytest.mark.parametrize("which", [0, 1, 2])
    @pytest.mark.parametrize("scales", [None, [0.5, 1.0, 2.0]])
    def test_what_has_no_symbol_has_no_table(self, which, scales):
        tensors = [t.cuda() for t in LikelihoodCase("", (2, 3, 50, 60)).tensors(torch.float32)]
        tensors[which][1, 2, 30, 40] = torch.nan
        _, index = gaussian_symbols(*tensors, scales=scales)
        assert (index == 255).nonzero().tolist() == [[1, 2, 30, 40]]
