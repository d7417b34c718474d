"""Compiles deform_conv2d's Triton kernels for a GPU that need not be there; as compile_triton.py, for the Gaussian ops.

test_deform_conv2d_compile.py reads what comes out.
"""

import sys
from dataclasses import replace

import torch
from ops.compile_triton import Compiled
from ops.op_cases import DeformConv2dCase

from dkic.ops.triton import deform_conv2d as deform_conv2d_triton
from dkic.ops.triton import samples

CODEC = DeformConv2dCase("codec", batch=1, groups=8, depth=24, height=16, width=16, out_channels=192)
ONE_GROUP = DeformConv2dCase("one group", batch=1, groups=1, depth=64, height=16, width=16, out_channels=64)
# No vectors: neither channels nor strides are multiples of anything.
ODD = replace(ONE_GROUP, name="odd", depth=67, out_channels=33)
WAYS = {"half": torch.float16, "tf32x3": torch.float32, "ieee": torch.float32, "double": torch.float64}


def launch(case: DeformConv2dCase, way: str, deterministic: bool, forward: bool = True, position_dtype=None) -> None:
    torch.backends.cuda.matmul.allow_tf32 = way == "tf32x3"
    x, offset, weight, bias, mask = case.tensors(WAYS[way], position_dtype=position_dtype)
    x, grad_y = (t.contiguous(memory_format=torch.channels_last) for t in (x, case.grad_y(WAYS[way])))
    geometry = [list(pair) for pair in case.geometry.values()]
    if forward:
        deform_conv2d_triton.forward(x, offset, weight, bias, mask, *geometry)
    arguments = grad_y, x, offset, weight, mask, *geometry, True, True, not deterministic, False, True, deterministic
    deform_conv2d_triton.backward(*arguments)


def main() -> None:
    compiled = Compiled(int(sys.argv[1]), disassembled=("codec half",))

    def compile(case: DeformConv2dCase, way: str, deterministic: bool, **others) -> None:
        compiled.problem = f"{case} {way}{' deterministic' if deterministic else ''}"
        launch(case, way, deterministic, **others)

    for way in WAYS:
        compile(CODEC, way, False, position_dtype=None if way == "double" else torch.float32)
        compile(CODEC, way, True, forward=False)
    for case in (ONE_GROUP, ODD):
        compile(case, "half", True)
    compiled.problem = "elements whose numbers have 64 bits"
    samples.index_of = lambda *tensors: samples.tl.int64
    launch(CODEC, "half", False)
    compiled.print()


if __name__ == "__main__":
    main()
