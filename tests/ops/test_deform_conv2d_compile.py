"""Machine code of deform_conv2d's Triton kernels for compute capability 8.6 and 9.0; no GPU is needed."""

import json

import pytest
from ops.python_process import python
from ops.test_triton_compile import REGISTERS

pytest.importorskip("triton")

# Registers of a thread, at most. Half of those of the kernels that multiply are sums of the products, which is what tiles this
# large are for.
CEILING = {"forward": 240, "backward_samples": 255, "backward_weight": 160, "write_columns": 176, "round_fixed": 48}
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
    assert [k for k in compiled[1] if k["local"] or k["stack"]] == []


def test_registers_stay_within_their_ceilings(compiled):
    assert [k for k in compiled[1] if k["reg"] > CEILING[k["kernel"]]] == []


def test_columns_of_float32_leave_room_for_many_warps(compiled):
    """The kernels are bound by the latency of loads: 8 blocks of 4 warps per multiprocessor."""
    kernels = [k for k in compiled[1] if k["problem"] == "codec float32" and k["kernel"] == "write_columns"]
    assert kernels and all(k["reg"] <= 64 for k in kernels)


def test_a_multiprocessor_holds_several_programs(compiled):
    for kernel in compiled[1]:
        if kernel["problem"].split()[0] == "codec" and "deterministic" not in kernel["problem"]:
            of_a_block = -(-kernel["reg"] // 8) * 8 * 32 * kernel["warps"]
            assert REGISTERS // of_a_block * kernel["warps"] >= LEAST_WARPS, kernel


def test_shared_memory_is_there(compiled):
    capability, kernels = compiled
    assert [k for k in kernels if k["dynamic_shared"] > SHARED[capability]] == []


def test_products_of_half_precision_are_those_of_the_tensor_cores(compiled):
    kernels = [k for k in compiled[1] if k["problem"] == "codec float16" and k["kernel"] != "round_fixed"]
    assert {k["kernel"] for k in kernels} == {"forward", "backward_samples", "backward_weight"}
    assert all(k["tensor_core_products"] for k in kernels)


def test_corners_are_loaded_by_16_bytes(compiled):
    """8 channels in half precision, 4 in float32: at least four loads; the float32 columns are stored likewise."""
    kernels = {(k["problem"], k["kernel"]): k for k in compiled[1]}
    for name in ("forward", "backward_weight"):
        assert kernels["codec float16", name]["global_loads_of_16_bytes"] >= 4
    columns = kernels["codec float32", "write_columns"]
    assert columns["global_loads_of_16_bytes"] >= 4 and columns["stores_of_16_bytes"] >= 1


def test_a_round_of_half_precision_is_short(compiled):
    """The inner loop of forward, for 64 pixels by 192 outputs: 16 channels on 8.6, 32 on 9.0."""
    (forward,) = (k for k in compiled[1] if k["problem"] == "codec float16" and k["kernel"] == "forward")
    assert forward["longest_loop"] <= {86: 260, 90: 480}[compiled[0]]
