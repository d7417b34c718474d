"""dkic.ops.backends: the backend that an op runs on, selected or by default, and the reasons if there is none."""

import importlib.util
import json
import subprocess
import sys
import warnings

import pytest
import torch

from dkic.ops import backends, deform_conv2d, gaussian_likelihood, gaussian_symbols, ldcn, set_backend

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def nothing_is_set():
    for op in backends.OPS:
        set_backend(op, None)
    yield
    for op in backends.OPS:
        set_backend(op, None)


@pytest.fixture
def working_gpu(monkeypatch):
    monkeypatch.setattr(backends, "find_triton", lambda: None)
    monkeypatch.setattr(backends, "find_cuda", lambda index=None: None)


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
    assert backends.op_unavailable_reason(op, CPU) is None and backends.op_unavailable_reason(op, torch.device("meta")) is None


@pytest.mark.parametrize(
    ("op", "backend"),
    [
        ("ldcn", "cuda"),
        ("ldcn", "triton"),
        ("deform_conv2d", "triton"),
        ("gaussian_likelihood", "triton"),
        ("gaussian_symbols", "triton"),
    ],
)
def test_a_selected_backend_never_falls_back(op, backend, working_gpu):
    set_backend(op, backend)
    assert backends.op_unavailable_reason(op, CUDA) is None
    with pytest.raises(RuntimeError) as caught:
        CALLS[op](torch.zeros(1, 1, 4, 4))
    assert str(caught.value) == (
        f"dkic.ops.{op} is set to its {backend} backend, which does not support cpu tensors; "
        f'move them, or call dkic.ops.set_backend("{op}", None)'
    )
    set_backend(op, None)
    CALLS[op](torch.zeros(1, 1, 4, 4))
    set_backend(op, "cpu")
    assert "set to its cpu backend, which does not support cuda tensors" in backends.op_unavailable_reason(op, CUDA)


def test_a_backend_that_cannot_run_is_refused(monkeypatch):
    monkeypatch.setattr(backends, "find_triton", lambda: "There is none.")
    with pytest.raises(RuntimeError, match="^There is none.$"):
        set_backend("gaussian_likelihood", "triton")
    CALLS["gaussian_likelihood"](torch.zeros(1, 1, 4, 4))
    assert backends.op_unavailable_reason("gaussian_likelihood", CUDA) == "There is none."
    with pytest.raises(RuntimeError, match="^There is none.$"):
        backends.triton_kernels("gaussian_likelihood")


@pytest.mark.parametrize(
    ("op", "backend", "message"),
    [
        ("gaussian", "cpu", "op: is 'gaussian'; give one of ldcn, deform_conv2d, gaussian_likelihood, gaussian_symbols"),
        ("ldcn", "rocm", "backend: is 'rocm'; give one of cpu, cuda, triton for ldcn"),
        ("gaussian_likelihood", "cuda", "backend: is 'cuda'; give one of cpu, triton for gaussian_likelihood"),
    ],
)
def test_a_wrong_name_is_named(op, backend, message):
    with pytest.raises(ValueError) as caught:
        set_backend(op, backend)
    assert str(caught.value) == f"set_backend/{message}"


@pytest.mark.parametrize(("op", "device"), [("deform_conv2d", "mps"), ("ldcn", "mps"), ("gaussian_likelihood", "xpu")])
def test_an_op_without_kernels_for_a_device_says_so(op, device):
    reason = backends.op_unavailable_reason(op, torch.device(device))
    assert reason == f"dkic.ops.{op} has no kernels for {device} tensors; move them to the CPU with .cpu()"


@pytest.mark.parametrize(
    ("cuda", "hip", "has_triton", "has_gpu", "said"),
    [
        (None, None, True, False, "is built without CUDA; install a CUDA build"),
        ("13.0", None, False, True, "is not installed; run `python3 -m pip install triton`"),
        ("13.0", None, True, False, "sees no CUDA GPU; check the GPU and its driver with `nvidia-smi`"),
        ("13.0", None, True, True, None),
        (None, "7.0", False, True, "is not installed; run `python3 -m pip install triton`"),
        (None, "7.0", True, False, "sees no ROCm GPU; check the GPU and its driver with `rocminfo`"),
        (None, "7.0", True, True, None),
    ],
)
def test_a_missing_triton_is_reported_with_the_fix(cuda, hip, has_triton, has_gpu, said, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(backends, "find_spec", importlib.util.find_spec if has_triton else lambda name: None)
    if has_triton:
        pytest.importorskip("triton")
    reason = backends.find_triton.__wrapped__()
    assert reason is None if said is None else said in reason and not reason.endswith(".")


@pytest.mark.parametrize(
    "op",
    [
        "ldcn",
        "ldcn_backward",
        "deform_conv2d",
        "deform_conv2d_backward",
        "gaussian_likelihood",
        "gaussian_likelihood_backward",
        "gaussian_symbols",
    ],
)
def test_triton_s_kernels_are_registered_for_cuda(op):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"dkic::{op}", "CUDA")


# ---- The CUDA kernels ----


def test_a_rocm_build_runs_ldcn_on_triton(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends, "load_cuda", lambda: None)
    assert "use the triton backend" in backends.find_cuda.__wrapped__()
    pytest.importorskip("triton")
    monkeypatch.setattr(backends, "find_cuda", backends.find_cuda.__wrapped__)
    monkeypatch.setattr(backends, "find_triton", backends.find_triton.__wrapped__)
    assert backends.op_unavailable_reason("ldcn", CUDA) is None


@pytest.fixture
def native(monkeypatch, tmp_path):
    """A folder that replaces dkic/_native, without libraries."""
    monkeypatch.setattr(backends, "NATIVE", tmp_path)
    return tmp_path


BUILD = "build dkic with `python3 -m pip install -e .` in its source folder"


def test_the_reason_why_cuda_kernels_are_not_built_is_reported(native):
    assert backends.load_cuda.__wrapped__() == f"dkic's CUDA kernels are not built; {BUILD}"
    record = {"reason": "there was no nvcc", "repair": "install the CUDA toolkit 13"}
    (native / "cuda_build.json").write_text(json.dumps(record))
    expected = f"dkic's CUDA kernels are not built (there was no nvcc); install the CUDA toolkit 13, then {BUILD}"
    assert backends.load_cuda.__wrapped__() == expected


def test_the_reason_why_cuda_kernels_do_not_load_is_reported(native):
    (native / "libdkic_cuda.so").write_bytes(b"not a library")
    reason = backends.load_cuda.__wrapped__()
    assert "CUDA kernels do not load into torch" in reason and "libdkic_cuda.so" in reason and reason.endswith(BUILD)


def test_cuda_tensors_without_cuda_kernels_are_refused(native, monkeypatch):
    """They are neither moved nor computed elsewhere."""
    monkeypatch.setattr(backends, "find_cuda", backends.find_cuda.__wrapped__)
    monkeypatch.setattr(backends, "load_cuda", backends.load_cuda.__wrapped__)
    for device in (CUDA, torch.device("cuda:1")):
        assert backends.op_unavailable_reason("ldcn", device) == f"dkic's CUDA kernels are not built; {BUILD}"
    with pytest.raises(RuntimeError, match="^dkic's CUDA kernels are not built"):
        set_backend("ldcn", "cuda")


CUDA_LIBRARY = pytest.mark.skipif(backends.load_cuda() is not None, reason=str(backends.load_cuda()))


def registered(op: str) -> str:
    """The kernel of dkic::op for CUDA tensors, as the dispatcher describes it."""
    lines = torch._C._dispatch_dump(f"dkic::{op}").splitlines()
    return next((line for line in lines if line.startswith("CUDA")), "none")


@CUDA_LIBRARY
def test_set_backend_replaces_cuda_kernels_by_triton_and_restores_them(working_gpu):
    pytest.importorskip("triton")
    before = [registered(op) for op in ("ldcn", "ldcn_backward")]
    set_backend("ldcn", "triton")
    assert not {registered("ldcn"), registered("ldcn_backward")} & set(before)
    set_backend("ldcn", None)
    assert [registered(op) for op in ("ldcn", "ldcn_backward")] == before


def test_triton_replaces_missing_cuda_kernels_with_a_warning(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(backends, "find_triton", lambda: None)
    monkeypatch.setattr(backends, "find_cuda", lambda index=None: "There are none.")
    before = registered("ldcn")
    with pytest.warns(UserWarning, match="^dkic.ops.ldcn runs on its Triton kernels: There are none.$"):
        backends.check_runs("ldcn", CUDA)
    assert (registered("ldcn") != before) == (backends.load_cuda() is None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backends.check_runs("ldcn", CUDA)


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("8.6", (8, 6), True),
        ("8.6", (8, 9), True),
        ("8.6", (8, 0), False),
        ("8.6", (9, 0), False),
        ("8.6+PTX", (12, 0), True),
        ("9.0a", (9, 0), True),
        ("9.0a+PTX", (10, 0), False),
        ("7.5 8.0", (8, 6), True),
        ("7.5 12.0", (9, 0), False),
        ("", (8, 6), False),
    ],
)
def test_which_gpus_the_cuda_kernels_run_on(architectures, capability, runs, native, monkeypatch):
    (native / "cuda_build.json").write_text(json.dumps({"architectures": architectures.split()}))
    monkeypatch.setattr(backends, "load_cuda", lambda: None)
    monkeypatch.setattr(backends, "find_gpu", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")
    reason = backends.find_cuda.__wrapped__(0)
    version = "{}.{}".format(*capability)
    assert reason == (
        None
        if runs
        else f"dkic's CUDA kernels are built for compute capability {architectures}, and a GPU has {version}; "
        f"set TORCH_CUDA_ARCH_LIST to the latter, and {BUILD}"
    )


@CUDA_LIBRARY
@pytest.mark.parametrize("op", ["ldcn", "ldcn_backward"])
def test_cuda_kernels_are_registered_without_a_gpu(op):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"dkic::{op}", "CUDA")


def test_the_kernels_are_light_to_import():
    """Only torch, numpy and their dependencies: no model, no training, no command line."""
    code = """if True:
        import sys, torch, numpy
        before = set(sys.modules)
        import dkic.ops, dkic.nn
        new = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
        ours = {name for name in sys.modules if name.startswith("dkic.")}
        print(*sorted(name for name in new if not name.startswith("_")))
        print(*sorted(name for name in ours if name.split(".")[1] not in ("ops", "nn", "errors", "gaussian_scales", "_native")))
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["dkic", ""]
