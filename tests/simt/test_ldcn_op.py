"""The host code of ldcn on CUDA (csrc/cuda/ldcn_cuda.cpp) without a GPU: its kernels run on the emulator."""

from pathlib import Path

import torch
from ops.python_process import python
from simt.compilers import CSRC, SIMT, compile_cpp, needs_emulator

pytestmark = needs_emulator


def test_passes_on_the_emulator(tmp_path):
    """In a subprocess, where the emulated kernels are registered for CUDA."""
    torch_folder = Path(torch.__file__).parent
    # -Bsymbolic: the library uses its own definitions instead of torch's.
    library = compile_cpp(
        SIMT / "ldcn_op.cpp",
        tmp_path / "ldcn_op.so",
        str(CSRC / "cuda" / "ldcn_cuda.cpp"),
        "-shared",
        "-fPIC",
        "-fvisibility=hidden",
        "-Wl,-Bsymbolic",
        "-isystem",
        f"{torch_folder}/include",
        "-DTORCH_TARGET_VERSION=0x020a000000000000ULL",
        "-DUSE_CUDA",
        "-Wl,--no-as-needed",
        f"-L{torch_folder}/lib",
        "-ltorch_cpu",
    )
    run = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "simt/emulated_ldcn_op.py", DKIC_EMULATED=str(library))
    assert run.returncode == 0 and " passed" in run.stdout, run.stdout[-5000:]
