"""dkic.ops.deform_conv2d inside torch: autograd, torch.library's checks, torch.compile, torch.export, autocast, meta tensors."""

import copy
from dataclasses import replace

import pytest
import torch
import torchvision
from ops import tolerances
from ops.op_cases import DEFORM_CONV2D_FEW, PLAIN_CONV, DeformConv2dCase
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from dkic.ops import deform_conv2d

# Small, for checks that call the op once for every number.
TINY = DeformConv2dCase(
    "tiny",
    batch=1,
    groups=2,
    depth=2,
    height=3,
    width=4,
    kernel_size=(2, 3),
    stride=(2, 1),
    dilation=(1, 2),
    weight_groups=2,
    out_channels=2,
)
BARE = DeformConv2dCase("no mask, no bias", masked=False, biased=False)


def call(tensors, case: DeformConv2dCase) -> Tensor:
    *others, mask = tensors
    return deform_conv2d(*others, **case.geometry, mask=mask)


def leaves(case: DeformConv2dCase, dtype: torch.dtype = torch.float64) -> list[Tensor | None]:
    return [t if t is None else t.requires_grad_() for t in case.tensors(dtype)]


def native_arguments(tensors, case: DeformConv2dCase) -> tuple:
    return *tensors, *map(list, case.geometry.values())


@pytest.mark.parametrize("case", [TINY, DeformConv2dCase("", batch=1, height=3, width=4, masked=False, biased=False)])
def test_gradcheck(case):
    tensors = leaves(case)
    # Offsets far enough from the kinks, which lie on the integers, that a step of 1e-6 does not cross one.
    with torch.no_grad():
        tensors[1].copy_(tensors[1].floor() + tensors[1].frac().abs().clamp(0.05, 0.95))
    present = [t for t in tensors if t is not None]

    def op(*given: Tensor) -> Tensor:
        given = iter(given)
        return call([t if t is None else next(given) for t in tensors], case)

    assert torch.autograd.gradcheck(op, present)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [TINY, BARE, DeformConv2dCase("empty", batch=0)], ids=str)
def test_opcheck(case, dtype):
    arguments = native_arguments(leaves(case, dtype), case)
    torch.library.opcheck(torch.ops.dkic.deform_conv2d.default, arguments, **tolerances.OPCHECK[dtype])
    x, offset, weight, _, mask, *geometry = (t.detach() if isinstance(t, Tensor) else t for t in arguments)
    for wanted in (
        (True, True, True, True, case.masked),
        (True, False, False, False, False),
        (False, True, False, True, False),
        (False, False, True, False, False),
    ):
        arguments = (case.grad_y(dtype), x, offset, weight, mask, *geometry, *wanted, False)
        torch.library.opcheck(torch.ops.dkic.deform_conv2d_backward.default, arguments)


def test_second_derivative_is_refused():
    tensors = leaves(TINY)
    (grad_x,) = torch.autograd.grad(call(tensors, TINY).square().sum(), tensors[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="deform_conv2d has no second derivative"):
        grad_x.sum().backward()


class Block(nn.Module):
    """Typical use: offset and mask are computed by a convolution of x, so all sizes depend on x."""

    def __init__(self, case: DeformConv2dCase) -> None:
        super().__init__()
        self.case = case
        self.predict = nn.Conv2d(case.channels, case.groups * case.taps * 3, case.kernel_size, **case.geometry)
        _, _, weight, bias, _ = case.tensors()
        self.weight, self.bias = nn.Parameter(weight), None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        k = self.case.groups * self.case.taps
        offset, mask = self.predict(x).split([2 * k, k], 1)
        mask = mask.sigmoid() if self.case.masked else None
        return deform_conv2d(x, 3 * offset, self.weight, self.bias, **self.case.geometry, mask=mask).relu()


def block_and_input(case: DeformConv2dCase) -> tuple[Block, Tensor]:
    torch.manual_seed(0)
    return Block(case).double(), case.tensors()[0]


def outcome(block: nn.Module, x: Tensor) -> list[Tensor]:
    """The result and all gradients."""
    x = x.detach().requires_grad_()
    y = block(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *block.parameters()])]


@pytest.fixture(autouse=True)
def compiled_nothing_yet():
    """Dynamo counts compilations of one code object over all tests, and gives up at eight."""
    torch.compiler.reset()


@pytest.mark.parametrize("case", DEFORM_CONV2D_FEW, ids=str)
def test_compile(case):
    block, x = block_and_input(case)
    compiled = torch.compile(copy.deepcopy(block), fullgraph=True, backend="aot_eager", dynamic=False)
    torch.testing.assert_close(outcome(compiled, x), outcome(block, x), **tolerances.FLOAT64)


@pytest.mark.parametrize("case", DEFORM_CONV2D_FEW, ids=str)
def test_compile_with_dynamic_shapes(case):
    block, x = block_and_input(case)
    backend = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(copy.deepcopy(block), fullgraph=True, backend=backend, dynamic=True)
    for size in ((2, x.shape[1], 9, 11), (3, x.shape[1], 12, 7), (5, x.shape[1], 31, 24)):
        x = torch.randn(size, dtype=torch.float64)
        torch.testing.assert_close(outcome(compiled, x), outcome(block, x), **tolerances.FLOAT64)
    assert backend.frame_count == 1  # compiled once for all sizes


def test_compile_with_inductor():
    """The default backend also checks the strides that the fake kernels promise. (The op alone: it compiles no C++.)"""
    compiled = torch.compile(deform_conv2d, fullgraph=True, dynamic=True)
    for height, width in ((9, 11), (12, 7)):
        case = DeformConv2dCase("", height=height, width=width)
        *others, mask = tensors = leaves(case)
        actual, expected = (op(*others, **case.geometry, mask=mask) for op in (compiled, deform_conv2d))
        assert torch.equal(actual, expected) and actual.stride() == expected.stride()
        gradients = (torch.autograd.grad(y, tensors, case.grad_y()) for y in (actual, expected))
        assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("case", DEFORM_CONV2D_FEW, ids=str)
def test_export_with_dynamic_height_and_width(case):
    block, _ = block_and_input(case)
    x = torch.randn(case.batch, case.channels, 10, 11, dtype=torch.float64)
    # From 6 on y is larger than 1 along both axes: the convolution's own trace can't hold for both 1 and more.
    height, width = torch.export.Dim("height", min=6, max=4096), torch.export.Dim("width", min=6, max=4096)
    program = torch.export.export(block, (x,), dynamic_shapes={"x": {2: height, 3: width}})
    for h, w in ((7, 9), (13, 6), (40, 51)):
        x = torch.randn(case.batch, case.channels, h, w, dtype=torch.float64)
        torch.testing.assert_close(program.module()(x), block(x), **tolerances.FLOAT64)


@pytest.mark.parametrize("half", ["nothing", "input", "weight", "all"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype, half):
    """Computed in float32, returned in input's dtype, as torchvision does; gradients come back in the dtypes that went in."""
    tensors = dict(zip(("input", "offset", "weight", "bias", "mask"), leaves(PLAIN_CONV, torch.float32), strict=True))
    for name in tensors:
        if half in (name, "all"):
            tensors[name] = tensors[name].detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype):
        y = call(tensors.values(), PLAIN_CONV)
    exact = call([t.float() for t in tensors.values()], PLAIN_CONV)
    assert y.dtype == tensors["input"].dtype and torch.equal(y, exact.to(y.dtype))
    grad_y = PLAIN_CONV.grad_y(y.dtype)
    gradients, wanted = (torch.autograd.grad(result, list(tensors.values()), grad_y.to(result.dtype)) for result in (y, exact))
    assert [g.dtype for g in gradients] == [t.dtype for t in tensors.values()]
    assert all(map(torch.equal, gradients, wanted))


def test_autocast_gives_float32_as_torchvision_does():
    *others, mask = PLAIN_CONV.tensors(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected = torchvision.ops.deform_conv2d(*others, **PLAIN_CONV.geometry, mask=mask)
        actual = deform_conv2d(*others, **PLAIN_CONV.geometry, mask=mask)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)  # and the same dtype


def test_autocast_leaves_float64_and_its_absence_alone():
    tensors = PLAIN_CONV.tensors()
    with torch.autocast("cpu", torch.bfloat16):
        assert call(tensors, PLAIN_CONV).dtype == torch.float64
        with torch.autocast("cpu", enabled=False):
            assert call(PLAIN_CONV.tensors(torch.float32), PLAIN_CONV).dtype == torch.float32


def test_compile_under_autocast():
    *others, mask = PLAIN_CONV.tensors(torch.float32)
    compiled = torch.compile(deform_conv2d, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        expected = deform_conv2d(*others, **PLAIN_CONV.geometry, mask=mask)
        assert torch.equal(compiled(*others, **PLAIN_CONV.geometry, mask=mask), expected)


@pytest.mark.parametrize("case", DEFORM_CONV2D_FEW, ids=str)
def test_meta_tensors_give_shape_layout_and_dtype(case):
    real = case.tensors(torch.float16)
    meta = [t if t is None else t.to("meta").requires_grad_() for t in real]
    y, expected = call(meta, case), call(real, case)
    assert (y.shape, y.dtype, y.stride()) == (expected.shape, expected.dtype, expected.stride())
    y.backward(torch.empty_like(y))
    assert all(t is None or t.grad.shape == t.shape for t in meta)


# ---- TorchScript ----


class Scripted(nn.Module):
    """Passes the geometry in all forms that TorchScript supports."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.padding = (1, 1)

    def forward(self, x: Tensor, offset: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
        return deform_conv2d(x, offset, self.weight, bias, 1, padding=self.padding, dilation=(1, 1), mask=mask)


@pytest.mark.parametrize("case", [PLAIN_CONV, replace(PLAIN_CONV, masked=False, biased=False)], ids=["plain", "bare"])
def test_script(case, tmp_path):
    x, offset, weight, bias, mask = leaves(case)
    module = Scripted(weight.detach())
    torch.jit.script(module).save(tmp_path / "module.pt")
    scripted = torch.jit.load(tmp_path / "module.pt")
    given = [t for t in (x, offset, bias, mask) if t is not None]
    for y, weight in ((module(x, offset, bias, mask), module.weight), (scripted(x, offset, bias, mask), scripted.weight)):
        assert torch.equal(y, call((x, offset, weight, bias, mask), case))
        gradients = torch.autograd.grad(y, [*given, weight], case.grad_y())
        expected = torch.autograd.grad(call((x, offset, weight, bias, mask), case), [*given, weight], case.grad_y())
        assert all(map(torch.equal, gradients, expected))


def test_the_function_itself_is_scripted():
    scripted = torch.jit.script(deform_conv2d)
    *others, mask = TINY.tensors()
    assert torch.equal(scripted(*others, **TINY.geometry, mask=mask), call((*others, mask), TINY))
    with pytest.raises(RuntimeError, match="offset does not fit"):
        scripted(*others, padding=3, mask=mask)


@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
def test_symbolic_integers_are_geometry(name):
    """Geometry that a traced program computes from sizes."""
    case = PLAIN_CONV

    def op(x, offset, weight):
        return deform_conv2d(x, offset, weight, **{**case.geometry, name: (x.shape[1] // 6, x.shape[1] // 6)})

    tensors = case.tensors()[:3]
    traced = torch.fx.experimental.proxy_tensor.make_fx(op, tracing_mode="symbolic")(*tensors)
    assert torch.equal(traced(*tensors), op(*tensors))
