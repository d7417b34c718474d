"""Compiles ldcn's Triton kernels without a GPU; as compile_triton.py for the Gaussian ops.

test_ldcn_triton.py reads what comes out.
"""

import sys

import torch
from ops.compile_triton import Compiled
from ops.op_cases import LdcnCase

from dkic.ops.triton import ldcn as ldcn_triton
from dkic.ops.triton import samples

CODEC = LdcnCase("codec", batch=1, groups=8, depth=24, height=16, width=16)
ODD = LdcnCase("odd", batch=1, groups=1, depth=67, height=16, width=16)


def launch(case: LdcnCase, dtype: torch.dtype, deterministic: bool) -> None:
    x, offset, mask = case.tensors(dtype, position_dtype=torch.float32)
    x, grad_y = (t.contiguous(memory_format=torch.channels_last) for t in (x, case.grad_y(dtype)))
    geometry = [list(pair) for pair in case.geometry.values()]
    ldcn_triton.forward(x, offset, mask, *geometry)
    ldcn_triton.backward(grad_y, x, offset, mask, *geometry, True, True, True, deterministic)


def main() -> None:
    compiled = Compiled(int(sys.argv[1]))
    for case, dtype in ((CODEC, torch.float32), (CODEC, torch.float16), (ODD, torch.float16)):
        for deterministic in (False, True):
            compiled.problem = f"{case} {str(dtype)[6:]}{' deterministic' if deterministic else ''}"
            launch(case, dtype, deterministic)
    compiled.problem = "elements whose numbers have 64 bits"
    samples.index_of = lambda *tensors: samples.tl.int64
    launch(CODEC, torch.float16, False)
    compiled.print()


if __name__ == "__main__":
    main()
