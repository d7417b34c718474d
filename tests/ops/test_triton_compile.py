"""What Triton's kernels become on GPUs of compute capability 8.6 and 9.0, which need not be there: registers, and no spills."""

import json

import pytest
import torch
from ops.python_process import python

pytest.importorskip("triton")

# Instructions an element of the forward pass of contiguous float32, at most: 3 % above what Triton 3.8 makes of it.
MOST_INSTRUCTIONS = {
    "bits, noise": 202,
    "bits, rounded": 185,
    "bits and derivatives, noise": 236,
    "bits and derivatives, rounded": 218,
}
# Registers of a thread, at most. 80 of them leave 6 blocks of 4 warps on a multiprocessor of 65,536: 24 warps.
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
    """The share of a multiprocessor's warps that its registers serve; they are given to warps by 256, and blocks are whole."""
    of_a_block = -(-kernel["reg"] // 8) * 8 * 32 * kernel["warps"]
    return min(REGISTERS // of_a_block * kernel["warps"], MOST_WARPS[capability]) / MOST_WARPS[capability]


def test_every_kernel_is_compiled(compiled):
    assert {kernel["kernel"] for kernel in compiled[1]} == set(CEILING)
    assert any(kernel["problem"] == "elements whose numbers have 64 bits" for kernel in compiled[1])


def test_nothing_spills(compiled):
    assert [k for k in compiled[1] if k["stack"] or k["local"]] == []


def test_registers_leave_room_for_many_warps(compiled):
    capability, kernels = compiled
    assert [k for k in kernels if k["reg"] > CEILING[k["kernel"]]] == []
    assert [k for k in kernels if occupancy(k, capability) < LEAST_OCCUPANCY[capability]] == []


def test_contiguous_float32_moves_by_16_bytes(compiled):
    """y, scale and mean; y_hat and whichever of bits and derivatives are wanted."""
    plain = [k for k in compiled[1] if k["kernel"] == "forward" and "float32 [2, 192, 16, 16] contiguous" in k["problem"]]
    assert plain and all(k["loads_of_16_bytes"] == 3 and k["stores_of_16_bytes"] in (1, 2, 3, 4) for k in plain)


def test_only_reciprocals_are_approximated(compiled):
    """As the interpreter has it: subnormal numbers kept, no exponential but ours. Of reciprocals, the precision tests allow for
    what PTX allows."""
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
    """Triton's interpreter cuts its digits off, so that only compiled code tells."""
    rounded = [k["rounding_to_bfloat16"] for k in compiled[1] if k["kernel"] == "forward" and k["problem"].startswith("bfloat16")]
    assert rounded and all(way == ["rn"] for way in rounded)
