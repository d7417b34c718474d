"""The backends of each op, whether they are available on this machine, and if not, the reason and the fix.

Reasons are error messages: `<what is wrong>; <what to do>`.
"""

import ctypes
import json
import re
import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

OPS = {
    "ldcn": ("cpu", "cuda", "triton"),
    "deform_conv2d": ("cpu", "triton"),
    "gaussian_likelihood": ("cpu", "triton"),
    "gaussian_symbols": ("cpu", "triton"),
}
# In order of preference: by default, ldcn's Triton kernels run only if its CUDA kernels are not usable.
DEVICES = {"cpu": "cpu", "cuda": "cuda", "triton": "cuda"}  # the device type of the tensors that a backend accepts
_chosen: dict[str, str] = {}  # backends that set_backend selected, by op
_on_triton: dict[str, torch.library.Library] = {}  # Triton kernels registered in place of CUDA kernels, by op
_running: set[tuple[str, torch.device]] = set()  # ops and devices that passed `check_runs`

NATIVE = Path(__file__).resolve().parents[1] / "_native"
CAPABILITIES = ("default", "avx2", "avx512")
REBUILD = "build it with `python3 -m pip install -e .` in dkic's source folder (a C++20 compiler is needed)"
REBUILD_CUDA = "build dkic with `python3 -m pip install -e .` in its source folder"


@cache
def load_cpu() -> str | None:
    """Loads the CPU kernels once. Returns None if they are available, else the reason."""
    path = NATIVE / "libdkic_cpu.so"
    if not path.exists():
        return f"dkic's CPU kernels are not built; {REBUILD}"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"dkic's CPU kernels do not load into torch {torch.__version__} ({error}); {REBUILD}"
    capability = cpu_capability(path)
    return None if capability in CAPABILITIES else capability


def cpu_runs() -> bool:
    """Whether the CPU kernels are available; True during compilation, when they cannot be loaded."""
    return torch.compiler.is_compiling() or load_cpu() is None


def cpu_capability(library: Path) -> str:
    """The instruction set that the loaded kernels use, one of CAPABILITIES; else an error message."""
    query = ctypes.CDLL(str(library)).dkic_cpu_capability
    query.restype = ctypes.c_char_p
    return query().decode()


def find_gpu() -> str | None:
    """The reason why torch cannot use a GPU; None if it can. ROCm builds use AMD GPUs under the device type "cuda"."""
    if not (torch.version.cuda or torch.version.hip):
        return f"torch {torch.__version__} is built without CUDA; install a CUDA build from https://pytorch.org/get-started"
    if not torch.cuda.is_available():
        platform, program = ("ROCm", "rocminfo") if torch.version.hip else ("CUDA", "nvidia-smi")
        return f"torch {torch.__version__} sees no {platform} GPU; check the GPU and its driver with `{program}`"
    return None


@cache
def find_triton() -> str | None:
    """The reason why the Triton kernels are not available; None if they are. Compiles nothing."""
    if reason := find_gpu():
        return reason
    if find_spec("triton") is None:
        return "triton, which dkic's GPU kernels need, is not installed; run `python3 -m pip install triton`"
    return None


def cuda_build() -> dict:
    """The build's record of the CUDA kernels: "architectures" and "compiler"; or "reason" and "repair" if they are not built."""
    try:
        return json.loads((NATIVE / "cuda_build.json").read_text())
    except FileNotFoundError:
        return {}


@cache
def load_cuda() -> str | None:
    """Loads the CUDA kernels once, which needs no GPU. Returns None if that succeeds, else the reason."""
    path = NATIVE / "libdkic_cuda.so"
    if not path.exists():
        build = cuda_build()
        reason = f" ({build['reason']}); {build['repair']}, then" if "reason" in build else ";"
        return f"dkic's CUDA kernels are not built{reason} {REBUILD_CUDA}"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"dkic's CUDA kernels do not load into torch {torch.__version__} ({error}); {REBUILD_CUDA}"
    return None


@cache
def find_cuda(index: int | None = None) -> str | None:
    """The reason why the CUDA kernels are not available on a GPU (None: the current GPU); None if they are."""
    if torch.version.hip:
        return f"dkic's CUDA kernels do not run on torch {torch.__version__}, which is built for ROCm; use the triton backend"
    if reason := load_cuda() or find_gpu():
        return reason
    capability = torch.cuda.get_device_capability(index)
    built = cuda_build().get("architectures", [])
    if any(_runs_on(architecture, capability) for architecture in built):
        return None
    return (
        f"dkic's CUDA kernels are built for compute capability {' '.join(built)}, and {torch.cuda.get_device_name(index)} has "
        f"{'{}.{}'.format(*capability)}; set TORCH_CUDA_ARCH_LIST to the latter, and {REBUILD_CUDA}"
    )


def _runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether code for an architecture, written as in TORCH_CUDA_ARCH_LIST, runs on GPUs of a compute capability."""
    major, minor = map(int, re.findall(r"\d+", architecture))
    if "a" in architecture:
        return capability == (major, minor)
    return capability >= (major, minor) and (capability[0] == major or architecture.endswith("+PTX"))


def triton_kernels(op: str):
    """The module of the op's Triton kernels, which is imported only here. Raises RuntimeError if Triton is not available."""
    if reason := find_triton():
        raise RuntimeError(reason)
    return import_module(f"dkic.ops.triton.{op}")


def unavailable_reason(backend: str, device: torch.device | None = None) -> str | None:
    """The reason why a backend of DEVICES is not available on this machine (on this device); None if it is."""
    if backend == "cuda":
        return find_cuda(device.index if device else None)
    return {"cpu": load_cpu, "triton": find_triton}[backend]()


def set_backend(op: str, backend: str | None) -> None:
    """Restricts an op to one backend: it then raises for tensors that this backend does not accept.

    Calls under `torch.compile` ignore the selection and run on the device of their tensors.

    Args:
        op: "ldcn", "deform_conv2d", "gaussian_likelihood" or "gaussian_symbols".
        backend: "cpu", "cuda" or "triton"; None: select by the device of the tensors, "cuda" before "triton".

    Raises:
        ValueError: `op` is unknown, or it has no such backend.
        RuntimeError: the backend is not available; the message explains how to fix it. The selection is unchanged.
    """
    if op not in OPS:
        raise ValueError(f"set_backend/op: is {op!r}; give one of {', '.join(OPS)}")
    _running.clear()
    if backend is None:
        _chosen.pop(op, None)
        _use_native(op)
        return
    if backend not in OPS[op]:
        raise ValueError(f"set_backend/backend: is {backend!r}; give one of {', '.join(OPS[op])} for {op}")
    if reason := unavailable_reason(backend):
        raise RuntimeError(reason)
    _chosen[op] = backend
    _use_triton(op) if backend == "triton" else _use_native(op)


def _use_triton(op: str) -> None:
    """Registers an op's Triton kernels in place of its CUDA kernels, if it has CUDA kernels."""
    if "cuda" not in OPS[op] or load_cuda() is not None or op in _on_triton:
        return
    kernels = triton_kernels(op)
    _on_triton[op] = torch.library.Library("dkic", "IMPL")
    _on_triton[op].impl(op, kernels.forward, "CUDA")
    _on_triton[op].impl(f"{op}_backward", kernels.backward, "CUDA")


def _use_native(op: str) -> None:
    if op in _on_triton:
        _on_triton.pop(op)._destroy()


def check_runs(op: str, device: torch.device) -> None:
    """Raises RuntimeError, with the fix, if the op does not run on `device`; not checked during compilation."""
    if torch.compiler.is_compiling() or (op, device) in _running:
        return
    if reason := op_unavailable_reason(op, device):
        raise RuntimeError(reason)
    no_cuda_kernels = device.type == "cuda" and "cuda" in OPS[op] and op not in _chosen and unavailable_reason("cuda", device)
    if no_cuda_kernels and not unavailable_reason("triton"):
        warnings.warn(f"dkic.ops.{op} runs on its Triton kernels: {no_cuda_kernels}", stacklevel=3)
        _use_triton(op)
    _running.add((op, device))


def serving(op: str, device: torch.device) -> str:
    """The backend that runs the op for tensors on `device`. Raises RuntimeError, with the fix, if there is none."""
    if reason := op_unavailable_reason(op, device):
        raise RuntimeError(reason)
    takes = [backend for backend in OPS[op] if DEVICES[backend] == device.type]
    return _chosen.get(op) or next(backend for backend in takes if unavailable_reason(backend, device) is None)


def no_kernels(op: str, device: torch.device) -> str:
    return f"dkic.ops.{op} has no kernels for {device.type} tensors; move them to the CPU with .cpu()"


def op_unavailable_reason(op: str, device: torch.device) -> str | None:
    """The reason why the op does not run on `device`; None if it does."""
    if device.type == "meta":
        return None
    takes = [backend for backend in OPS[op] if DEVICES[backend] == device.type]
    if not takes:
        return no_kernels(op, device)
    chosen = _chosen.get(op)
    if chosen is None:
        reasons = [unavailable_reason(backend, device) for backend in takes]
        return None if None in reasons else reasons[0]
    if chosen not in takes:
        return (
            f"dkic.ops.{op} is set to its {chosen} backend, which does not support {device.type} tensors; "
            f'move them, or call dkic.ops.set_backend("{op}", None)'
        )
    return unavailable_reason(chosen, device)
