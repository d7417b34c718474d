"""deform_conv2d's compiled kernels: threads, and the memory they take."""

import pytest
import torch
from ops.op_cases import DEFORM_CONV2D_FEW, DeformConv2dCase
from ops.python_process import python
from ops.test_deform_conv2d import assert_all_equal, results

from dkic.ops import deform_conv2d


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        *DEFORM_CONV2D_FEW,
        # products large enough for BLAS to share among threads, were it allowed to; the second in a single block
        DeformConv2dCase("wide", batch=1, groups=8, depth=24, height=40, width=41, out_channels=192),
        # blocks of few pixels, alone and after others
        DeformConv2dCase("few pixels", batch=1, groups=8, depth=24, height=2, width=4, out_channels=192),
        DeformConv2dCase("few pixels at the end", batch=1, groups=8, depth=24, height=20, width=21, out_channels=192),
        DeformConv2dCase("one block", batch=1, groups=1, depth=512, height=5, width=6, out_channels=512),
        # sums so long that BLAS would cut them, of which it decides by the number of outputs and of threads
        DeformConv2dCase("8 outputs", batch=1, groups=8, depth=24, height=20, width=40, out_channels=8),
        DeformConv2dCase("24 outputs", batch=1, groups=8, depth=24, height=20, width=40, out_channels=24),
        DeformConv2dCase("64 outputs", batch=1, groups=8, depth=24, height=20, width=40, out_channels=64),
        DeformConv2dCase("two pixels", batch=1, groups=2, depth=256, height=1, width=2, out_channels=512, weight_groups=2),
    ],
    ids=str,
)
def test_results_do_not_depend_on_the_number_of_threads(case, dtype, threads):
    outcomes = []
    for count in (1, 2, 3, 3):
        threads(count)
        outcomes.append(results(deform_conv2d, case, case.tensors(dtype)))
    for outcome in outcomes[1:]:
        assert_all_equal(outcome, outcomes[0])


# How far a process's memory rises above what it holds before the op, less what the op returns. A small call comes first: it loads
# the library and lets BLAS allocate what it keeps. A fixed mmap threshold makes glibc return freed tensors to the system. By
# default it keeps freed blocks of up to 32 MB, and a result placed in one does not raise the peak.
PEAK = """if True:
    import sys, torch
    from pathlib import Path
    from dkic.ops import deform_conv2d
    kind, layout, threads, size = sys.argv[1], getattr(torch, sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(threads)
    def memory(line):
        text = Path("/proc/self/status").read_text()
        return 1024 * int(text.split(line + ":")[1].split()[0])
    def tensors(size):
        x, offset, mask = (torch.randn(1, c, size, size).contiguous(memory_format=layout) for c in (64, 36, 18))
        return [t.requires_grad_(kind == "backward") for t in (x, offset, torch.randn(64, 64, 3, 3), torch.randn(64), mask)]
    def call(t):
        y = deform_conv2d(*t[:4], padding=1, mask=t[4])
        if kind == "forward": return [y]
        grad_y = y.detach()  # of y's shape, and no memory of its own
        return [y, *torch.autograd.grad(y, t, grad_y)]
    call(tensors(64))
    large = tensors(size)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    results = call(large)
    extra = memory("VmHWM") - before - sum(t.nbytes for t in results)
    print(extra)
"""


# The layout conversion runs before the threads and does not depend on their number.
@pytest.mark.parametrize(("layout", "threads"), [("channels_last", 1), ("channels_last", 3), ("contiguous_format", 3)])
@pytest.mark.parametrize("kind", ["forward", "backward"])
def test_memory_does_not_grow_with_the_image(kind, layout, threads):
    """At most 32 MB besides arguments and results, for an x of 38 MB whose columns would have 340 MB.

    The gradient of an x that is not channels_last is there twice.
    """
    run = python("-c", PEAK, kind, layout, str(threads), "384", OMP_NUM_THREADS=str(threads), MALLOC_MMAP_THRESHOLD_="131072")
    assert run.returncode == 0, run.stderr
    twice = kind == "backward" and layout == "contiguous_format"
    assert int(run.stdout) <= 32 * 2**20 + twice * 64 * 384 * 384 * 4
    # Results that are counted were allocated: the measure sees what it should.
    assert int(run.stdout) > -(2**20)
