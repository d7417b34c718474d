"""ldcn compared with torchvision's deform_conv2d (groups = C, weights 1): forward, and with backward, float32; and in half
types (offset and mask stay float32, as under autocast) with itself in float32. On the CPU and on a GPU if available; there also
compared with DCNv4, if its package is installed.

Each gets inputs in its fastest layout: torchvision NCHW (it copies other layouts), dkic channels_last. Creating
the inputs is not timed; the result is compared with the peer's before timing.
"""

from collections.abc import Callable
from importlib.util import find_spec

import pytest
import roofline
import torch
from devices import ON, devices
from ops.op_cases import LdcnCase
from peers import dcnv4_inputs, dcnv4_ldcn, dcnv4_order, torchvision_ldcn
from problem_sizes import DCNV4_PROBLEMS, LDCN_PROBLEMS
from torch import Tensor

from dkic.ops import backends, ldcn

LAYOUTS = {"torchvision": torch.contiguous_format, "dkic": torch.channels_last}
ROUNDS = {"torchvision": {"forward": 5, "forward+backward": 3}, "dkic": {"forward": 30, "forward+backward": 30}}
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
WITHOUT_GPU = backends.unavailable_reason("cuda")  # the reason, or None
DEVICES = devices("cuda")
WITHOUT_DCNV4 = WITHOUT_GPU or ("the package DCNv4 is not installed" if find_spec("DCNv4") is None else None)

# Sums of 36 products, and over channels and pixels for the gradients, in float32 and in different orders.
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


def parts(case: LdcnCase, work: str, implementation: str, dtype: torch.dtype = torch.float32) -> tuple[roofline.Work, ...]:
    """Flops and bytes that dkic's op needs at least."""
    of_case = roofline.ldcn(case, dtype)
    return () if implementation != "dkic" else of_case[:1] if work == "forward" else of_case


def calls(
    case: LdcnCase,
    implementation: str,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    positions: torch.dtype = torch.float32,
) -> dict[str, Callable[[], list[Tensor]]]:
    """The timed call: "forward" returns [y], "forward+backward" also the gradients of x, offset and mask.

    x is of `dtype`; offset and mask are float32, rounded to `positions`.
    """
    layout = LAYOUTS[implementation]
    x, *others = case.tensors(dtype, position_dtype=positions)
    tensors = [x, *(t.float() for t in others if t is not None)]
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


def dcnv4_calls(case: LdcnCase, dtype: torch.dtype) -> dict[str, Callable[[], list[Tensor]]]:
    """As `calls`, of DCNv4, with its results in ldcn's layout. It takes offset and mask in x's dtype."""
    order = dcnv4_order(case.groups, case.kernel_size).cuda()
    tensors = (t.cuda() for t in case.tensors(dtype, position_dtype=dtype))
    value, packed = (t.requires_grad_() for t in dcnv4_inputs(*tensors, order))
    grad_y = case.grad_y(dtype).cuda().permute(0, 2, 3, 1).contiguous()
    geometry = case.groups, case.kernel_size, case.padding

    def forward() -> list[Tensor]:
        with torch.no_grad():
            return [dcnv4_ldcn(value, packed, *geometry)]

    def both() -> list[Tensor]:
        y = dcnv4_ldcn(value, packed, *geometry)
        return [y.detach(), *torch.autograd.grad(y, (value, packed), grad_y)]

    return {"forward": forward, "forward+backward": both}


def ldcn_layout(results: list[Tensor], case: LdcnCase) -> list[Tensor]:
    """DCNv4's y, and gradients if there are any, as ldcn's."""
    order = dcnv4_order(case.groups, case.kernel_size).cuda()
    if len(results) > 1:
        *images, packed = results
        results = [*images, packed[..., order.offset_rows], packed[..., order.mask_rows]]
    return [t.permute(0, 3, 1, 2).float() for t in results]


@pytest.mark.skipif(WITHOUT_DCNV4 is not None, reason=str(WITHOUT_DCNV4))
@pytest.mark.parametrize("implementation", ["DCNv4", "dkic"])
@pytest.mark.parametrize("work", ["forward", "forward+backward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("case", DCNV4_PROBLEMS, ids=str)
def test_dcnv4_cuda(case, dtype, work, implementation, measure):
    call = of_dcnv4 = dcnv4_calls(case, dtype)[work]
    if implementation == "dkic":
        call = calls(case, "dkic", dtype, "cuda", positions=dtype)[work]  # DCNv4 has offsets and masks of x's dtype
        close = CLOSE if dtype == torch.float32 else {"rtol": 2.0**-6, "atol": 2.0**-4}
        torch.testing.assert_close([t.float() for t in call()], ldcn_layout(of_dcnv4(), case), **close)
    name = f"ldcn {str(dtype).removeprefix('torch.')} {work} {case}, beside DCNv4, GPU"
    measure(name, implementation, call, ROUNDS["dkic"][work], device="cuda", parts=parts(case, work, implementation, dtype))
