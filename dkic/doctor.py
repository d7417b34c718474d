"""Report of `dkic doctor`: installed parts, missing parts, and how to repair them."""

import importlib
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dkic

PACKAGE = Path(dkic.__file__).parent
GET_TORCH = "run `python3 -m pip install 'torch>=2.10'`"
GET_DKIC = "run `python3 -m pip install -e .` in dkic's source folder, or install dkic's package again"


@dataclass(frozen=True)
class Finding:
    """One line of the report. If `ok` is false, `value` says what is missing and how to repair it."""

    name: str
    value: str
    ok: bool = True


def report() -> str:
    """The findings, one line each, as `name: value`; no line break at the end."""
    return "\n".join(f"{finding.name}: {finding.value}" for finding in examine())


def healthy() -> bool:
    """True if everything needed to compress and decompress images on the CPU is installed and loads."""
    return all(finding.ok for finding in examine())


def examine() -> list[Finding]:
    """Checks each part. A part that is missing or does not load is a finding, not an exception."""
    return [
        Finding("dkic", f"{dkic.__version__} in {PACKAGE}"),
        Finding("python", f"{platform.python_version()} ({sys.executable})"),
        Finding("system", platform.platform()),
        Finding("processor", f"{_processor_and_architecture()}, {_usable_cores()} of {os.cpu_count()} cores usable"),
        _look("torch", _torch, GET_TORCH),
        _look("threads", _threads, GET_TORCH),
        _look("CPU kernels", _cpu_kernels, GET_DKIC),
        *_ops(),
        _look("entropy coder", _entropy_coder, GET_DKIC),
        _look("models", _models, GET_DKIC),
    ]


class _Missing(Exception):
    """Why a part is missing, in a few words, and the repair if it is not the usual one."""

    def __init__(self, reason: str, repair: str | None = None):
        super().__init__(reason)
        self.repair = repair


def _look(name: str, part: Callable[[], str], repair: str) -> Finding:
    """The description of `part`, or the first line of its error and the repair."""
    try:
        return Finding(name, part())
    except (_Missing, ImportError, OSError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        repair = getattr(error, "repair", None) or repair
        return Finding(name, f"missing ({reason}): {repair}", ok=False)


def _torch() -> str:
    import torch

    platform = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    if not (torch.version.cuda or torch.version.hip):
        platform = "built without CUDA"
    elif torch.cuda.is_available():
        platform += f" on {torch.cuda.get_device_name()}"
    else:
        platform += ", but no GPU is visible"
    return f"{torch.__version__}, {platform}"


def _threads() -> str:
    import torch

    return f"{torch.get_num_threads()} (OMP_NUM_THREADS is {os.environ.get('OMP_NUM_THREADS', 'not set')})"


def _cpu_kernels() -> str:
    from dkic.ops.backends import CAPABILITIES, cpu_capability  # imports torch, whose libraries the kernels are linked against

    path = PACKAGE / "_native" / "libdkic_cpu.so"
    if not path.exists():
        raise _Missing(f"{path.name} is not built")
    capability = cpu_capability(path)
    if capability not in CAPABILITIES:  # the reason why none was selected
        raise _Missing(capability, "unset DKIC_CPU_CAPABILITY")
    asked = os.environ.get("DKIC_CPU_CAPABILITY")
    return f"built, use {capability} instructions (DKIC_CPU_CAPABILITY is {asked or 'not set'})"


def _ops() -> list[Finding]:
    """The CUDA kernels; and for each op, the backends that run here, and why others do not.

    GPU backends may be missing in a healthy installation.
    """
    try:
        from dkic.ops import backends
    except (ImportError, OSError, AttributeError):
        return []  # the line about torch gives the reason
    lines = [Finding("CUDA kernels", backends.load_cuda() or _cuda_build(backends.cuda_build()))]
    for op, names in backends.OPS.items():
        reasons = {name: backends.unavailable_reason(name) for name in names}
        lines.append(Finding(op, " | ".join(f"{name}: {reason or 'runs'}" for name, reason in reasons.items())))
    return lines


def _cuda_build(record: dict) -> str:
    """The GPUs that the CUDA kernels are built for, and the compiler; "unknown" where the build did not record it."""
    architectures = " ".join(record.get("architectures", ["unknown"]))
    return f"built for GPUs of compute capability {architectures} by {record.get('compiler', 'an unknown nvcc')}"


def _entropy_coder() -> str:
    module = importlib.import_module("dkic._native._rans")
    return f"built, {Path(module.__file__ or '').name}"


def _models() -> str:
    files = sorted((PACKAGE / "weights").glob("*.safetensors"))
    if not files:
        raise _Missing("dkic/weights holds no .safetensors file")
    return ", ".join(f"{file.stem} ({file.stat().st_size / 1e6:.1f} MB)" for file in files)


def processor() -> str:
    """The processor's model on Linux, otherwise its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _processor_and_architecture() -> str:
    model = processor()
    return model if model == platform.machine() else f"{model} ({platform.machine()})"


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
