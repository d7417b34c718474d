"""The compiled kernels: threads, instruction sets, import, and errors if they are not built."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from ops.op_cases import LDCN_FEW, LdcnCase
from ops.python_process import CAPABILITIES, PACKAGE, capability, python

from dkic.ops import ldcn


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "case", [*LDCN_FEW, LdcnCase("G 1", groups=1, depth=67, height=20), LdcnCase("batch 33", batch=33)], ids=str
)
def test_results_do_not_depend_on_the_number_of_threads(case, dtype, threads):
    def outcome(count: int) -> list[torch.Tensor]:
        threads(count)
        tensors = [t if t is None else t.requires_grad_() for t in case.tensors(dtype)]
        y = ldcn(*tensors, **case.geometry)
        return [y, *torch.autograd.grad(y, [t for t in tensors if t is not None], case.grad_y(dtype))]

    one = outcome(1)
    for count in (2, 3, 3):
        assert all(map(torch.equal, outcome(count), one))


# ---- Instruction sets ----


def test_the_requested_instruction_set_is_used():
    assert capability() in CAPABILITIES
    assert capability() == (os.environ.get("DKIC_CPU_CAPABILITY") or capability())


def test_an_instruction_set_that_the_cpu_lacks_is_refused():
    # Of the machine, not of this process, which DKIC_CPU_CAPABILITY may hold below it.
    best = python("-c", "from ops.python_process import capability; print(capability())", DKIC_CPU_CAPABILITY="").stdout.strip()
    assert best in CAPABILITIES
    for asked in CAPABILITIES[CAPABILITIES.index(best) + 1 :]:
        code = "from dkic.ops import ldcn; from ops.op_cases import PLAIN; ldcn(*PLAIN.tensors())"
        refused = python("-c", code, DKIC_CPU_CAPABILITY=asked)
        message = f"RuntimeError: DKIC_CPU_CAPABILITY must be one that this CPU has, and is {asked}\n"
        assert refused.returncode == 1 and refused.stderr.endswith(message)


@pytest.mark.parametrize("asked", ["sse9", "AVX2"])
def test_an_unknown_instruction_set_is_refused(asked):
    """Also where there is nothing to compute, and at every call."""
    code = """if True:
        from dkic.ops import ldcn
        from ops.op_cases import PLAIN, with_batch
        for batch in (2, 0, 2):
            try: ldcn(*with_batch(PLAIN, batch).tensors())
            except RuntimeError as error: print(error)
    """
    run = python("-c", code, OMP_NUM_THREADS="2", DKIC_CPU_CAPABILITY=asked)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [f"DKIC_CPU_CAPABILITY must be default, avx2 or avx512, and is {asked}"] * 3


# ---- Importing ----

CALL = "x = torch.ones(1, 4, 5, 6); assert op(x, torch.zeros(1, 18, 5, 6)).shape == x.shape; print('works')"


@pytest.mark.parametrize(
    "imported",
    [
        "from dkic.ops import ldcn as op",
        "from dkic.ops._ldcn import ldcn as op",
        "import dkic.ops; op = dkic.ops.ldcn",
    ],
)
def test_import(imported):
    run = python("-c", f"{imported}; import torch; {CALL}")
    assert run.stdout == "works\n", run.stderr


def copy_of_package(folder: Path) -> Path:
    """dkic without its native libraries."""
    shutil.copytree(PACKAGE, folder / "dkic", ignore=shutil.ignore_patterns("*.so", "__pycache__", "weights", "demo"))
    return folder


USE = (
    "import dkic, dkic.ops, torch; assert dkic.__file__.startswith({folder!r}); print('imported')\n"
    "try: dkic.ops.ldcn(torch.ones(1, 4, 5, 6), torch.zeros(1, 18, 5, 6))\n"
    "except RuntimeError as error: print(error)"
)


def test_without_the_library_the_first_call_says_what_to_do(tmp_path):
    folder = str(copy_of_package(tmp_path))
    run = python("-c", USE.format(folder=folder), cwd=tmp_path, PYTHONPATH=folder)
    assert run.returncode == 0, run.stderr
    imported, *message = run.stdout.splitlines()
    assert imported == "imported" and len(message) == 1
    assert message[0].startswith("dkic's CPU kernels are not built; ")
    assert "python3 -m pip install -e ." in message[0]


def test_without_the_cuda_library_compiled_code_raises_too(tmp_path):
    """Compiled code calls the op directly, without the checks in Python."""
    folder = str(copy_of_package(tmp_path))
    call = (
        "import dkic.ops, torch\n"
        "cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)\n"
        "x, pairs = torch.ones(1, 4, 5, 6), [[3, 3], [1, 1], [1, 1], [1, 1]]\n"
        "try: torch.ops.dkic.ldcn.default.redispatch(cuda, x, torch.zeros(1, 18, 5, 6), None, *pairs)\n"
        "except RuntimeError as error: print(error)"
    )
    run = python("-c", call, cwd=tmp_path, PYTHONPATH=folder)
    assert run.stdout.startswith("dkic's CUDA kernels are not built"), run.stdout + run.stderr


def test_a_library_that_does_not_load_is_reported(tmp_path):
    folder = copy_of_package(tmp_path)
    (folder / "dkic" / "_native" / "libdkic_cpu.so").write_bytes(b"not a library")
    run = python("-c", USE.format(folder=str(folder)), cwd=tmp_path, PYTHONPATH=str(folder))
    assert run.returncode == 0, run.stderr
    imported, *message = run.stdout.splitlines()
    assert imported == "imported" and len(message) == 1
    assert message[0].startswith(f"dkic's CPU kernels do not load into torch {torch.__version__} (")
    assert "python3 -m pip install -e ." in message[0]
