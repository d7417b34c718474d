"""Registers, spills and instructions of the compiled Triton kernels for compute capability 8.6 and 9.0; no GPU is needed."""

import json

import pytest
import torch
from ops.python_process import python

pytest.importorskip("triton")

# Maximum instructions per element of the forward with float32: 3 % above the count of Triton 3.8.
MOST_INSTRUCTIONS = {
    "bits, noise": 202,
    "bits, rounded": 185,
    "bits and derivatives, noise": 236,
    "bits and derivatives, rounded": 218,
    "bits and derivatives, noise, channels last": 277,
}
# Maximum registers per thread. 80 registers allow 6 blocks of 4 warps on a multiprocessor with 65,536 registers: 24 warps.
CEILING = {"forward": 80, "add": 48, "backward": 48, "symbols": 48}
REGISTERS, MOST_WARPS = 65_536, {86: 48, 90: 64}
LEAST_OCCUPANCY = {86: 0.5, 90: 0.375}


@pytest.fixture(scope="module", params=[86, 90])
def compiled(request, tmp_path_factory) -> tuple[int, list[dict]]:
    cache = str(tmp_path_factory.mktemp("triton"))
    run = python("ops/compile_triton.py", str(request.param), TRITON_CACHE_DIR=cache)
    assert run.returncode == 0, run.stderr[-5000:]
    return request.param, json.loads(run.stdout.splitlines()[-1])


def occupancy(kernel: dict, capability: int) -> float:
    """Occupancy as limited by registers, which are allocated per warp in units of 256, for whole blocks."""
    of_a_block = -(-kernel["reg"] // 8) * 8 * 32 * kernel["warps"]
    return min(REGISTERS // of_a_block * kernel["warps"], MOST_WARPS[capability]) / MOST_WARPS[capability]


def test_every_kernel_is_compiled(compiled):
    assert {kernel["kernel"] for kernel in compiled[1]} == set(CEILING)
    assert any(kernel["problem"] == "64-bit element indexes" for kernel in compiled[1])


def test_nothing_spills(compiled):
    assert [k for k in compiled[1] if k["stack"] or k["local"]] == []


def test_registers_leave_room_for_many_warps(compiled):
    capability, kernels = compiled
    assert [k for k in kernels if k["reg"] > CEILING[k["kernel"]]] == []
    assert [k for k in kernels if occupancy(k, capability) < LEAST_OCCUPANCY[capability]] == []


def test_contiguous_float32_moves_by_16_bytes(compiled):
    """Loads y, scale and mean; stores y_hat and the computed ones of bits and derivatives."""
    plain = [k for k in compiled[1] if k["kernel"] == "forward" and "float32 [2, 192, 16, 16] contiguous" in k["problem"]]
    assert plain and all(k["loads_of_16_bytes"] == 3 and k["stores_of_16_bytes"] in (1, 2, 3, 4) for k in plain)


def test_only_reciprocals_are_approximated(compiled):
    """As in the interpreter: no flushed subnormals and no approximate exponential. The precision tests allow for PTX's
    error bound of reciprocals."""
    found = {a for k in compiled[1] for a in k["approximations"]}
    assert found == {"rcp.approx.ftz.f32"}


def test_an_element_takes_few_instructions(compiled):
    from dkic.ops.triton.gaussian_likelihood import BLOCK

    elements = BLOCK[torch.float32]  # of a block
    counted = [k for k in compiled[1] if k["problem"] in MOST_INSTRUCTIONS]
    found = {k["problem"]: k["instructions"] * 32 * k["warps"] / elements for k in counted}
    assert found.keys() == MOST_INSTRUCTIONS.keys()
    assert {problem: n for problem, n in found.items() if n > MOST_INSTRUCTIONS[problem]} == {}


def test_bfloat16_is_rounded_to_nearest(compiled):
    """Triton's interpreter truncates bfloat16, so only compiled code can be tested."""
    rounded = [k["rounding_to_bfloat16"] for k in compiled[1] if k["kernel"] == "forward" and k["problem"].startswith("bfloat16")]
    assert rounded and all(way == ["rn"] for way in rounded)
