"""The compiled kernels of all ops by each instruction set below the machine's best, by which all other tests are."""

import re

import pytest
from ops.python_process import CAPABILITIES, capability, python

# What of each op's tests runs the kernels, as pytest's -k has it.
CHOSEN = {
    "ldcn": "equals_reference or outside or precision or what_was_asked",
    "deform_conv2d": "equals_reference or outside or precision or nan_stays or read_as_it_lies",
    "gaussian": "not opcheck",
    "requantize": "equals_the or even or one_number",
    "quantized_conv2d": "equals_the or even or float32 or harm",
    "factorized_likelihood": "equals_compressai",
    "raster_context": "equals_convolutions_position_by_position",
}
FILES = (
    "test_ldcn", "test_ldcn_precision", "test_ldcn_native",
    "test_deform_conv2d", "test_deform_conv2d_precision",
    "test_gaussian_likelihood", "test_gaussian_likelihood_precision", "test_gaussian_likelihood_noise", "test_gaussian_symbols",
    "test_requantize", "test_quantized_conv2d", "test_factorized_likelihood", "test_raster_context",
)  # fmt: skip


@pytest.mark.parametrize("asked", CAPABILITIES)
def test_every_op_passes(asked):
    """In one process for all ops: to import torch takes longer than most of the tests."""
    if CAPABILITIES.index(asked) > CAPABILITIES.index(capability()):
        pytest.skip(f"this CPU has no {asked} (test_ldcn_native.py: and says so)")
    if asked == capability():
        pytest.skip(f"all tests here are by {asked}")
    chosen = " or ".join(f"(test_{op} and ({tests}))" for op, tests in CHOSEN.items())
    files = [f"ops/{name}.py" for name in FILES]
    run = python("-m", "pytest", "-p", "no:cacheprovider", "-k", chosen, *files, DKIC_CPU_CAPABILITY=asked)
    assert run.returncode == 0, run.stdout[-5000:]
    assert [name for name in FILES if not re.search(rf"/{name}\.py s*\.", run.stdout)] == []  # something of each has passed
