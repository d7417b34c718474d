"""ldcn compared with torchvision's deform_conv2d (groups = C, weights 1): forward, and with backward, float32; and in half
types (offset and mask stay float32, as under autocast) with itself in float32. On the CPU and on a GPU if available.

Each gets inputs in its fastest layout: torchvision NCHW (it copies other layouts), dkic channels_last. Creating
the inputs is not timed; the result is compared with the peer's before timing.
"""

from collections.abc import Callable

import pytest
import roofline
import torch
from ops.op_cases import LdcnCase
from peers import torchvision_ldcn
from problem_sizes import LDCN_PROBLEMS
from torch import Tensor

from dkic.ops import backends, ldcn

LAYOUTS = {"torchvision": torch.contiguous_format, "dkic": torch.channels_last}
ROUNDS = {"torchvision": {"forward": 5, "forward+backward": 3}, "dkic": {"forward": 30, "forward+backward": 30}}
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
WITHOUT_GPU = backends.unavailable_reason("cuda")  # the reason, or None
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(WITHOUT_GPU is not None, reason=str(WITHOUT_GPU)))]
ON = {"cpu": "", "cuda": ", GPU"}

# Sums of 36 products, and over channels and pixels for the gradients, in float32 and in different orders.
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


def parts(case: LdcnCase, work: str, implementation: str, dtype: torch.dtype = torch.float32) -> tuple[roofline.Work, ...]:
    """Flops and bytes that dkic's op needs at least."""
    of_case = roofline.ldcn(case, dtype)
    return () if implementation != "dkic" else of_case[:1] if work == "forward" else of_case


def calls(
    case: LdcnCase, implementation: str, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> dict[str, Callable[[], list[Tensor]]]:
    """The timed call: "forward" returns [y], "forward+backward" also the gradients of x, offset and mask. x is of `dtype`."""
    layout = LAYOUTS[implementation]
    tensors = case.tensors(dtype, position_dtype=torch.float32)
    leaves = [t.to(device).contiguous(memory_format=layout).requires_grad_() for t in tensors]
    grad_y = case.grad_y(dtype).to(device).contiguous(memory_format=layout)
    weight = torch.ones(case.channels, 1, *case.kernel_size, device=device)

    def op(*tensors: Tensor) -> Tensor:
        if implementation == "dkic":
            return ldcn(*tensors, **case.geometry)
        return torchvision_ldcn(*tensors, weight, **case.geometry)

    def forward() -> list[Tensor]:
        with torch.no_grad():
            return [op(*leaves)]

    def both() -> list[Tensor]:
        y = op(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, grad_y)]

    return {"forward": forward, "forward+backward": both}


@pytest.mark.parametrize("implementation", ["torchvision", "dkic"])  # the peer first: see conftest.py
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("work", ["forward", "forward+backward"])
@pytest.mark.parametrize("case", LDCN_PROBLEMS, ids=str)
def test_ldcn(case, work, device, implementation, measure):
    call, moved = calls(case, implementation, device=device)[work], None
    if implementation == "dkic":
        results = call()
        torch.testing.assert_close(results, calls(case, "torchvision", device=device)[work](), **CLOSE)
        given = [*case.tensors(torch.float32), *([case.grad_y(torch.float32)] if work != "forward" else [])]
        moved = sum(t.nbytes for t in (*given, *results))
    name = f"ldcn {work} {case}{ON[device]}"
    operations = parts(case, work, implementation)
    measure(name, implementation, call, ROUNDS[implementation][work], bytes_moved=moved, device=device, parts=operations)


@pytest.mark.parametrize("implementation", ["dkic float32", "dkic"])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("work", ["forward", "forward+backward"])
@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("case", LDCN_PROBLEMS, ids=str)
def test_ldcn_half(case, name, work, device, implementation, measure):
    call = calls(case, "dkic", HALVES[name] if implementation == "dkic" else torch.float32, device)[work]
    if implementation == "dkic":  # y is rounded once, from what float32 gives for the rounded inputs
        x, offset, mask = (t.to(device) for t in case.tensors(HALVES[name], position_dtype=torch.float32))
        expected = ldcn(x.float(), offset, mask, **case.geometry)
        torch.testing.assert_close(call()[0].float(), expected, rtol=2.0**-7, atol=1e-3)
    operations, rounds = parts(case, work, implementation, HALVES[name]), ROUNDS["dkic"][work]
    measure(f"ldcn {name} {work} {case}{ON[device]}", implementation, call, rounds, device=device, parts=operations)
