"""dkic.ops.backends: which backend an op runs on, asked for by name or not, and what is said where there is none."""

import importlib.util

import pytest
import torch

from dkic.ops import backends, deform_conv2d, gaussian_likelihood, gaussian_symbols, ldcn, set_backend

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def chosen(monkeypatch):
    monkeypatch.setattr(backends, "_chosen", {})


@pytest.fixture
def working_triton(monkeypatch):
    monkeypatch.setattr(backends, "find_triton", lambda: None)


CALLS = {
    "ldcn": lambda x: ldcn(x, torch.zeros(1, 18, 4, 4)),
    "deform_conv2d": lambda x: deform_conv2d(x, torch.zeros(1, 18, 2, 2), torch.zeros(1, 1, 3, 3)),
    "gaussian_likelihood": lambda x: gaussian_likelihood(x, torch.ones_like(x), quantize="round"),
    "gaussian_symbols": lambda x: gaussian_symbols(x, torch.ones_like(x)),
}


@pytest.mark.parametrize("op", backends.OPS)
def test_every_op_runs_on_the_cpu(op):
    assert set(CALLS) == set(backends.OPS)
    set_backend(op, "cpu")
    CALLS[op](torch.zeros(1, 1, 4, 4))
    assert backends.why_not(op, CPU) is None and backends.why_not(op, torch.device("meta")) is None


@pytest.mark.parametrize("op", ["deform_conv2d", "gaussian_likelihood", "gaussian_symbols"])
def test_a_backend_asked_for_by_name_never_falls_back(op, working_triton):
    set_backend(op, "triton")
    assert backends.why_not(op, CUDA) is None
    with pytest.raises(RuntimeError) as caught:
        CALLS[op](torch.zeros(1, 1, 4, 4))
    assert str(caught.value) == (
        f"dkic.ops.{op} is set to its triton backend, which does not take cpu tensors; "
        f'move them, or call dkic.ops.set_backend("{op}", None).'
    )
    set_backend(op, None)
    CALLS[op](torch.zeros(1, 1, 4, 4))
    set_backend(op, "cpu")
    assert "set to its cpu backend, which does not take cuda tensors" in backends.why_not(op, CUDA)


def test_a_backend_that_cannot_run_is_refused(monkeypatch):
    monkeypatch.setattr(backends, "find_triton", lambda: "There is none.")
    with pytest.raises(RuntimeError, match="^There is none.$"):
        set_backend("gaussian_likelihood", "triton")
    CALLS["gaussian_likelihood"](torch.zeros(1, 1, 4, 4))
    assert backends.why_not("gaussian_likelihood", CUDA) == "There is none."
    with pytest.raises(RuntimeError, match="^There is none.$"):
        backends.triton_kernels("gaussian_likelihood")


@pytest.mark.parametrize(
    ("op", "backend", "message"),
    [
        ("gaussian", "cpu", "op must be one of ldcn, deform_conv2d, gaussian_likelihood, gaussian_symbols, and is 'gaussian'"),
        ("ldcn", "triton", "backend of ldcn must be one of cpu, and is 'triton'"),
        ("gaussian_likelihood", "cuda", "backend of gaussian_likelihood must be one of cpu, triton, and is 'cuda'"),
    ],
)
def test_a_wrong_name_is_named(op, backend, message):
    with pytest.raises(ValueError) as caught:
        set_backend(op, backend)
    assert str(caught.value) == message


@pytest.mark.parametrize("op", ["ldcn"])
def test_an_op_without_gpu_kernels_says_so(op):
    assert backends.why_not(op, CUDA) == f"dkic.ops.{op} has no kernels for cuda tensors; move them to the CPU with .cpu()."


@pytest.mark.parametrize(
    ("cuda", "has_triton", "has_gpu", "said"),
    [
        (None, True, False, "is built without CUDA: install a CUDA build"),
        ("13.0", False, True, "is not installed: run `python3 -m pip install triton`"),
        ("13.0", True, False, "sees no CUDA GPU: check with `nvidia-smi`"),
        ("13.0", True, True, None),
    ],
)
def test_what_triton_lacks_is_one_sentence_with_its_repair(cuda, has_triton, has_gpu, said, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(backends, "find_spec", importlib.util.find_spec if has_triton else lambda name: None)
    if has_triton:
        pytest.importorskip("triton")
    reason = backends.find_triton.__wrapped__()
    assert reason is None if said is None else said in reason and reason.endswith(".")


@pytest.mark.parametrize(
    "op",
    ["deform_conv2d", "deform_conv2d_backward", "gaussian_likelihood", "gaussian_likelihood_backward", "gaussian_symbols"],
)
def test_triton_s_kernels_are_registered_for_cuda(op):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"dkic::{op}", "CUDA")
