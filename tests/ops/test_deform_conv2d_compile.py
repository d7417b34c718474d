"""What deform_conv2d's Triton kernels become on GPUs of compute capability 8.6 and 9.0, which need not be there."""

import json

import pytest
from ops.python_process import python
from ops.test_triton_compile import REGISTERS

pytest.importorskip("triton")

# Registers of a thread, at most. Half of them are sums of the products, which is what tiles this large are for; most others are
# addresses and weights of four corners. Timed on an H100 (see TILES), few warps with many registers beat more with fewer:
# half precision's forward took 0.16 ms with 255 registers, and 0.21 ms with 128.
CEILING = {"forward": 255, "backward_samples": 255, "backward_weight": 224, "round_fixed": 48}
DETERMINISTIC_CEILING = 200
ODD_CEILING = 232  # without vectors every number has an address
LEAST_WARPS = 8  # of a multiprocessor, while nothing is summed in integers
SHARED = {86: 99 << 10, 90: 227 << 10}  # of a block, at most


@pytest.fixture(scope="module", params=[86, 90])
def compiled(request, tmp_path_factory) -> tuple[int, list[dict]]:
    cache = str(tmp_path_factory.mktemp("triton"))
    run = python("ops/compile_deform_conv2d.py", str(request.param), TRITON_CACHE_DIR=cache)
    assert run.returncode == 0, run.stderr[-5000:]
    return request.param, json.loads(run.stdout.splitlines()[-1])


def test_every_kernel_is_compiled(compiled):
    assert {kernel["kernel"] for kernel in compiled[1]} == set(CEILING)
    assert any(kernel["problem"] == "elements whose numbers have 64 bits" for kernel in compiled[1])


def test_nothing_spills(compiled):
    """But a few addresses, where they have 64 bits, in half precision's forward, which has all 255 registers."""
    wide = {"kernel": "forward", "problem": "elements whose numbers have 64 bits"}
    for kernel in compiled[1]:
        assert kernel["local"] == 0 and kernel["stack"] <= (40 if wide.items() <= kernel.items() else 0), kernel


def test_registers_stay_within_their_ceilings(compiled):
    for kernel in compiled[1]:
        ceiling = CEILING[kernel["kernel"]]
        if "odd" in kernel["problem"]:
            ceiling = ODD_CEILING
        elif "deterministic" in kernel["problem"] and kernel["kernel"] == "backward_samples":
            ceiling = DETERMINISTIC_CEILING
        assert kernel["reg"] <= ceiling, kernel


def test_a_multiprocessor_holds_several_programs(compiled):
    for kernel in compiled[1]:
        if kernel["problem"].split()[0] == "codec" and "deterministic" not in kernel["problem"]:
            of_a_block = -(-kernel["reg"] // 8) * 8 * 32 * kernel["warps"]
            assert REGISTERS // of_a_block * kernel["warps"] >= LEAST_WARPS, kernel


def test_shared_memory_is_there(compiled):
    capability, kernels = compiled
    assert [k for k in kernels if k["dynamic_shared"] > SHARED[capability]] == []


def test_products_are_those_of_the_tensor_cores_where_they_may_be(compiled):
    """float32 is multiplied as TF32 only where torch allows it."""
    products = [k for k in compiled[1] if k["kernel"] != "round_fixed"]
    for kernel in products:
        if "half" in kernel["problem"] or "tf32x3" in kernel["problem"]:
            assert kernel["tensor_core_products"], kernel
        elif "ieee" in kernel["problem"] or "double" in kernel["problem"]:
            assert not kernel["tensor_core_products"], kernel


def test_corners_are_loaded_by_16_bytes(compiled):
    """Half precision's: 8 channels. At least four loads, one of every corner."""
    kernels = [k for k in compiled[1] if k["problem"] == "codec half" and k["kernel"] in ("forward", "backward_weight")]
    assert len(kernels) == 2 and all(k["global_loads_of_16_bytes"] >= 4 for k in kernels)
