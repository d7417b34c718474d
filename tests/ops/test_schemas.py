"""Importing dkic.ops registers every op of dkic.ops.schemas completely; only the native library defines the ops."""

import pytest
from ops.python_process import python

from dkic.ops import schemas
from dkic.ops.backends import NATIVE


def output_of(code: str) -> str:
    run = python("-c", f"import torch\n{code}")
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_importing_dkic_ops_registers_a_fake_for_every_op():
    code = """
import dkic.ops
ops = {schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("dkic::")}
print(sorted(name for name in ops if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "Meta")), len(ops) > 0)
"""
    assert output_of(code) == "[] True"


def test_the_native_library_defines_every_op():
    ops = "print(*sorted(str(s) for s in torch._C._jit_get_all_schemas() if s.name.startswith('dkic::')), sep='\\n')"
    native = output_of(f"torch.ops.load_library({str(NATIVE / 'libdkic_cpu.so')!r})\n{ops}")
    assert "dkic::ldcn(" in native
    assert native == output_of(f"import dkic.ops\n{ops}")


def test_a_library_from_other_sources_is_refused():
    with pytest.raises(ImportError, match=r"^dkic\.ops\.ldcn: .*built from other sources; build it with"):
        schemas.library.define("ldcn(Tensor x) -> Tensor")
