"""deform_conv2d compared with torchvision's, and with F.conv2d of the same shape as a lower bound: forward, and with backward, in
float32; on a GPU also float16 (dkic's offset and mask stay float32, as under autocast; torchvision requires one dtype).

Each gets inputs in its fastest layout: torchvision NCHW (it copies other layouts), the others channels_last.
Creating the inputs is not timed; results are compared with torchvision's before timing. F.conv2d has no sampling and no
gradients of offset and mask: it measures only the matrix products.
"""

from collections.abc import Callable, Iterator

import pytest
import roofline
import torch
import torchvision
from ops.op_cases import DeformConv2dCase
from problem_sizes import DEFORM_CONV2D_PROBLEMS
from torch import Tensor

from dkic.ops import backends, deform_conv2d

LAYOUTS = {"torchvision": torch.contiguous_format, "F.conv2d": torch.channels_last, "dkic": torch.channels_last}
ROUNDS = {
    "torchvision": {"forward": 5, "forward+backward": 3},
    "F.conv2d": {"forward": 30, "forward+backward": 20},
    "dkic": {"forward": 30, "forward+backward": 20},
}

WITHOUT_GPU = backends.unavailable_reason("triton")  # the reason, or None
NEEDS_GPU = pytest.mark.skipif(WITHOUT_GPU is not None, reason=str(WITHOUT_GPU))
PLACES = [
    ("cpu", torch.float32),
    pytest.param("cuda", torch.float32, marks=NEEDS_GPU),
    pytest.param("cuda", torch.float16, marks=NEEDS_GPU),
]
ON = {("cpu", torch.float32): "", ("cuda", torch.float32): ", GPU", ("cuda", torch.float16): ", GPU, float16"}

# Sums of 1728 products of numbers near 1, and over channels and pixels for the gradients, in float32 and in different orders.
# An offset's gradient has a step where its position is rounded to the other side of a pixel, so a few may differ.
CLOSE = {torch.float32: 1e-3, torch.float16: 3e-2}
FEW = 1e-4


@pytest.fixture(autouse=True)
def float32_products() -> Iterator[None]:
    """Disables TF32, which cuDNN uses for float32 by default and the other implementations do not."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def parts(case: DeformConv2dCase, work: str, implementation: str, dtype: torch.dtype) -> tuple[roofline.Work, ...]:
    """Flops and bytes that dkic's op needs at least."""
    of_case = roofline.deform_conv2d(case, dtype)
    return () if implementation != "dkic" else of_case[:1] if work == "forward" else of_case


def calls(
    case: DeformConv2dCase, implementation: str, device: str, dtype: torch.dtype, rounded: torch.dtype | None = None
) -> dict[str, Callable[[], list[Tensor]]]:
    """The timed call: "forward" returns [y], "forward+backward" also the gradients of all tensors.

    rounded: the dtype to which the numbers are rounded before; None: dtype.
    """

    def laid_out(t: Tensor, dtype: torch.dtype = dtype) -> Tensor:
        t = t.to(device, dtype)
        return t.contiguous(memory_format=LAYOUTS[implementation]) if t.dim() == 4 else t

    x, offset, weight, bias, mask = case.tensors(rounded or dtype, position_dtype=torch.float32)
    of_positions = torch.float32 if implementation == "dkic" else dtype
    leaves = [laid_out(x), laid_out(offset, of_positions), laid_out(weight), laid_out(bias), laid_out(mask, of_positions)]
    leaves = [t.requires_grad_() for t in leaves]
    grad_y = laid_out(case.grad_y(rounded or dtype))
    if implementation == "F.conv2d":
        leaves = [leaves[0], *leaves[2:4]]

    def op(x: Tensor, *others: Tensor) -> Tensor:
        if implementation == "F.conv2d":
            return torch.nn.functional.conv2d(x, *others, **case.geometry, groups=case.weight_groups)
        offset, weight, bias, mask = others
        function = deform_conv2d if implementation == "dkic" else torchvision.ops.deform_conv2d
        return function(x, offset, weight, bias, **case.geometry, mask=mask)

    def forward() -> list[Tensor]:
        with torch.no_grad():
            return [op(*leaves)]

    def both() -> list[Tensor]:
        y = op(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, grad_y)]

    return {"forward": forward, "forward+backward": both}


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, e in zip(actual, expected, strict=True):
        close, a = CLOSE[a.dtype], a.float()
        scale = e.abs().mean()
        wrong = ~torch.isclose(a / scale, e / scale, rtol=close, atol=close)
        assert wrong.float().mean() < FEW, f"{int(wrong.sum())} of {wrong.numel()} numbers differ from torchvision's"


@pytest.mark.parametrize("implementation", ["torchvision", "F.conv2d", "dkic"])  # the peers first: see conftest.py
@pytest.mark.parametrize(("device", "dtype"), PLACES)
@pytest.mark.parametrize("work", ["forward", "forward+backward"])
@pytest.mark.parametrize("case", DEFORM_CONV2D_PROBLEMS, ids=str)
def test_deform_conv2d(case, work, device, dtype, implementation, measure):
    call = calls(case, implementation, device, dtype)[work]
    if implementation == "dkic":
        # In float32: torchvision's positions in float16 are off by up to 1/32 of a pixel here, and ours are float32.
        assert_same(call(), calls(case, "torchvision", device, torch.float32, dtype)[work]())
    rounds, operations = ROUNDS[implementation][work], parts(case, work, implementation, dtype)
    measure(f"deform_conv2d {work} {case}{ON[device, dtype]}", implementation, call, rounds, device=device, parts=operations)
