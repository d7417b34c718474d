"""The kernels of all ops with each instruction set below the machine's best one, which all other tests use."""

import re

import pytest
from ops.python_process import CAPABILITIES, capability, python

# Which tests of each op's files run the kernels: those with one of these in their names.
CHOSEN = {
    "ldcn": ("equals_reference", "outside", "precision", "requested_instruction_set"),
    "deform_conv2d": ("equals_reference", "outside", "precision", "nan_stays", "not_copied"),
    "gaussian": ("not opcheck",),
    "requantize": ("equals_the", "even", "one_multiplier"),
    "quantized_conv2d": ("equals_the", "even", "float32", "corrupt"),
    "factorized_likelihood": ("equals_compressai",),
    "raster_context": ("equals_convolutions_position_by_position",),
}
FILES = (
    "test_ldcn",
    "test_ldcn_precision",
    "test_ldcn_native",
    "test_deform_conv2d",
    "test_deform_conv2d_precision",
    "test_gaussian_likelihood",
    "test_gaussian_likelihood_precision",
    "test_gaussian_likelihood_noise",
    "test_gaussian_symbols",
    "test_requantize",
    "test_quantized_conv2d",
    "test_factorized_likelihood",
    "test_raster_context",
)


@pytest.mark.parametrize("asked", CAPABILITIES)
def test_every_op_passes(asked):
    """In one process for all ops, because importing torch takes longer than most of the tests."""
    if CAPABILITIES.index(asked) > CAPABILITIES.index(capability()):
        pytest.skip(f"this CPU has no {asked} (test_ldcn_native.py: and says so)")
    if asked == capability():
        pytest.skip(f"all tests here are by {asked}")
    chosen = " or ".join(f"(test_{op} and ({' or '.join(names)}))" for op, names in CHOSEN.items())
    files = [f"ops/{name}.py" for name in FILES]
    run = python("-m", "pytest", "-v", "-p", "no:cacheprovider", "-k", chosen, *files, DKIC_CPU_CAPABILITY=asked)
    assert run.returncode == 0, run.stdout[-5000:]
    passed = re.findall(r"(test_\w+)\.py::(\S+) .*PASSED", run.stdout)
    assert {file for file, _ in passed} == set(FILES)
    for op, names in CHOSEN.items():  # a name that chooses nothing would prove nothing
        tests = [f"{file} {test}" for file, test in passed if file.startswith(f"test_{op}")]
        assert all(any(name in test for test in tests) for name in names if not name.startswith("not ")), op
