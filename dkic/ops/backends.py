"""Which backends an op has and which of them run here; where one does not, the sentence that says why and what repairs it."""

import ctypes
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

OPS = {
    "ldcn": ("cpu",),
    "deform_conv2d": ("cpu", "triton"),
    "gaussian_likelihood": ("cpu", "triton"),
    "gaussian_symbols": ("cpu", "triton"),
}
DEVICES = {"cpu": "cpu", "triton": "cuda"}  # the type of the tensors that a backend takes
_chosen: dict[str, str] = {}

NATIVE = Path(__file__).resolve().parents[1] / "_native"
CAPABILITIES = ("default", "avx2", "avx512")
REBUILD = "build it with `python3 -m pip install -e .` in dkic's source folder (a C++20 compiler is needed)"


@cache
def load_cpu() -> str | None:
    """Load the CPU kernels once. Returns None when they work, else the reason as a sentence."""
    path = NATIVE / "libdkic_cpu.so"
    if not path.exists():
        return f"dkic's CPU kernels are not built: {REBUILD}."
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"dkic's CPU kernels do not load into torch {torch.__version__} ({error}): {REBUILD}."
    capability = cpu_capability(path)
    return None if capability in CAPABILITIES else capability


def cpu_capability(library: Path) -> str:
    """The instruction set that the loaded kernels use, one of CAPABILITIES; else the reason why there is none."""
    query = ctypes.CDLL(str(library)).dkic_cpu_capability
    query.restype = ctypes.c_char_p
    return query().decode()


@cache
def find_triton() -> str | None:
    """Whether Triton's kernels can run here: None, else the reason as a sentence. Compiles nothing."""
    if not torch.version.cuda:
        return f"torch {torch.__version__} is built without CUDA: install a CUDA build, as https://pytorch.org/get-started tells."
    if find_spec("triton") is None:
        return "triton, which dkic's GPU kernels are written in, is not installed: run `python3 -m pip install triton`."
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA GPU: check with `nvidia-smi` that there is one and that its driver works."
    return None


def triton_kernels(op: str):
    """The module of the op's Triton kernels, imported now and not before. RuntimeError: they can't run here."""
    if reason := find_triton():
        raise RuntimeError(reason)
    return import_module(f"dkic.ops.{op}_triton")


def missing(backend: str) -> str | None:
    """None where a backend, one of DEVICES, works here, else the reason as a sentence."""
    return {"cpu": load_cpu, "triton": find_triton}[backend]()


def set_backend(op: str, backend: str | None) -> None:
    """Have an op run on one backend alone: from now on it refuses tensors that this backend does not take.

    A call under `torch.compile` runs where its tensors are, whatever was chosen.

    Args:
        op: "ldcn", "deform_conv2d", "gaussian_likelihood" or "gaussian_symbols".
        backend: "cpu" or "triton"; None: again whichever takes the device of the tensors.

    Raises:
        ValueError: there is no such op, or it has no such backend.
        RuntimeError: the backend can't run here; the message says what to do. The choice stays as it was.
    """
    if op not in OPS:
        raise ValueError(f"op must be one of {', '.join(OPS)}, and is {op!r}")
    if backend is None:
        _chosen.pop(op, None)
        return
    if backend not in OPS[op]:
        raise ValueError(f"backend of {op} must be one of {', '.join(OPS[op])}, and is {backend!r}")
    if reason := missing(backend):
        raise RuntimeError(reason)
    _chosen[op] = backend


def why_not(op: str, device: torch.device) -> str | None:
    """None where the op runs on `device`, else the reason as a sentence."""
    if device.type == "meta":
        return None
    takes = [backend for backend in OPS[op] if DEVICES[backend] == device.type]
    if not takes:
        return f"dkic.ops.{op} has no kernels for {device.type} tensors; move them to the CPU with .cpu()."
    chosen = _chosen.get(op, takes[0])
    if chosen not in takes:
        return (
            f"dkic.ops.{op} is set to its {chosen} backend, which does not take {device.type} tensors; "
            f'move them, or call dkic.ops.set_backend("{op}", None).'
        )
    return missing(chosen)
