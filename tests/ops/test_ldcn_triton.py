"""ldcn's Triton kernels, in Triton's interpreter, compiled without a GPU, and on a GPU if there is one."""

import json

import pytest
import torch
from ops import tolerances
from ops.op_cases import LDCN_FEW, LDCN_WARP_CASES
from ops.python_process import python
from ops.test_ldcn import results

from dkic.ops import backends, ldcn, reference, set_backend

pytest.importorskip("triton")


def test_passes_in_the_interpreter():
    """In a subprocess, because Triton selects the interpreter when it is imported."""
    run = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "ops/interpreted_ldcn.py", TRITON_INTERPRET="1")
    assert run.returncode == 0 and " passed" in run.stdout, run.stdout[-5000:]


@pytest.fixture(scope="module", params=[86, 90])
def compiled(request, tmp_path_factory) -> list[dict]:
    run = python("ops/compile_ldcn.py", str(request.param), TRITON_CACHE_DIR=str(tmp_path_factory.mktemp("triton")))
    assert run.returncode == 0, run.stderr[-5000:]
    return json.loads(run.stdout.splitlines()[-1])


# Registers of a thread, at most; with 128 a multiprocessor holds four programs of four warps, with 168 three.
CEILING = {"forward": 128, "backward": 168, "round_fixed": 48}
DETERMINISTIC_CEILING = 176


def test_every_kernel_is_compiled_and_nothing_spills(compiled):
    assert {kernel["kernel"] for kernel in compiled} == set(CEILING)
    for kernel in compiled:
        assert kernel["local"] == 0 and kernel["stack"] == 0, kernel
        ceiling = DETERMINISTIC_CEILING if "deterministic" in kernel["problem"] else CEILING[kernel["kernel"]]
        assert kernel["reg"] <= ceiling, kernel


@pytest.fixture
def on_triton():
    set_backend("ldcn", "triton")
    yield
    set_backend("ldcn", None)


@pytest.mark.cuda
@pytest.mark.skipif(backends.find_triton() is not None, reason=backends.find_triton() or "")
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [*LDCN_FEW, *LDCN_WARP_CASES], ids=str)
def test_equals_the_reference_on_a_gpu(case, dtype, deterministic, on_triton):
    tensors, grad_y = case.tensors(dtype), case.grad_y(dtype)
    exact = tuple(None if t is None else t.double() for t in tensors)
    expected = results(lambda *t: reference.ldcn(*t, **case.geometry), exact, grad_y.double())
    torch.use_deterministic_algorithms(deterministic)
    try:
        given = tuple(None if t is None else t.cuda() for t in tensors)
        actual = results(lambda *t: ldcn(*t, **case.geometry), given, grad_y.cuda())
    finally:
        torch.use_deterministic_algorithms(False)
    for t, like in zip(actual, expected, strict=True):
        sums = 1e-13 if dtype == torch.float64 else tolerances.FLOAT32_SUMS
        excess = (t.cpu().double() - like).abs() - tolerances.HALF_SPACING.get(dtype, 0.0) * like.abs() - sums * like.abs().max()
        assert excess.max() <= 0
