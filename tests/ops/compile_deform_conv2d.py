"""Compiles deform_conv2d's Triton kernels without a GPU; as compile_triton.py for the Gaussian ops.

test_deform_conv2d_compile.py reads what comes out.
"""

import sys
from dataclasses import replace

import torch
from ops.compile_triton import Compiled
from ops.op_cases import DeformConv2dCase

from dkic.ops.triton import deform_columns, samples, tiles
from dkic.ops.triton import deform_conv2d as deform_conv2d_triton

CODEC = DeformConv2dCase("codec", batch=1, groups=8, depth=24, height=16, width=16, out_channels=192)
ONE_GROUP = DeformConv2dCase("one group", batch=1, groups=1, depth=64, height=16, width=16, out_channels=64)
# No vectors: neither channels nor strides are multiples of anything.
ODD = replace(ONE_GROUP, name="odd", depth=67, out_channels=33)


def launch(case: DeformConv2dCase, dtype: torch.dtype, deterministic: bool) -> None:
    x, offset, weight, bias, mask = case.tensors(dtype, position_dtype=torch.float32)
    x, grad_y = (t.contiguous(memory_format=torch.channels_last) for t in (x, case.grad_y(dtype)))
    geometry = [list(pair) for pair in case.geometry.values()]
    deform_conv2d_triton.forward(x, offset, weight, bias, mask, *geometry)
    deform_conv2d_triton.backward(grad_y, x, offset, weight, mask, *geometry, True, True, True, False, True, deterministic)


def main() -> None:
    capability = int(sys.argv[1])
    compiled = Compiled(capability, disassembled=("codec float16", "codec float32"))
    tiles.capability = lambda device: divmod(capability, 10)
    deform_columns.PROGRAMS = 1  # all taps to a program, as for large images
    for case, dtype in ((CODEC, torch.float16), (CODEC, torch.float32), (CODEC, torch.float64), (ODD, torch.float16)):
        for deterministic in (False, True):
            compiled.problem = f"{case} {str(dtype)[6:]}{' deterministic' if deterministic else ''}"
            launch(case, dtype, deterministic)
    compiled.problem = f"{ONE_GROUP} float16"
    launch(ONE_GROUP, torch.float16, False)
    compiled.problem = "elements whose numbers have 64 bits"
    samples.index_of = lambda *tensors: samples.tl.int64
    launch(CODEC, torch.float16, False)
    launch(CODEC, torch.float32, False)
    compiled.print()


if __name__ == "__main__":
    main()
