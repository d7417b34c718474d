"""deform_conv2d's Triton kernels: in Triton's interpreter, which needs no GPU, and on a GPU where there is one."""

import pytest
from ops.python_process import python

pytest.importorskip("triton")


def test_passes_in_the_interpreter():
    """In a process of its own: Triton asks for its interpreter when it is imported."""
    run = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "ops/interpreted_deform_conv2d.py", TRITON_INTERPRET="1")
    assert run.returncode == 0 and " passed" in run.stdout, run.stdout[-5000:]
