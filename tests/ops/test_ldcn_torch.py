"""dkic.ops.ldcn inside torch: autograd, torch.library's checks, torch.compile, torch.export, autocast, meta tensors."""

import copy

import pytest
import torch
from ops import tolerances
from ops.op_cases import LDCN_FEW, PLAIN, LdcnCase
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from dkic.ops import ldcn

# Small, for checks that call the op once for every number.
TINY = LdcnCase("tiny", batch=1, groups=2, depth=3, height=3, width=4, kernel_size=(2, 3), stride=(2, 1), dilation=(1, 2))


@pytest.mark.parametrize("masked", [True, False])
def test_gradcheck(masked):
    tensors = [t.requires_grad_() for t in TINY.tensors()[: 3 if masked else 2]]
    # Offsets far enough from the kinks, which lie on the integers, that a step of 1e-6 does not cross one.
    with torch.no_grad():
        tensors[1].copy_(tensors[1].floor() + tensors[1].frac().abs().clamp(0.05, 0.95))
    assert torch.autograd.gradcheck(lambda *t: ldcn(*t, **TINY.geometry), tensors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [TINY, LdcnCase("no mask", masked=False), LdcnCase("empty", batch=0)], ids=str)
def test_opcheck(case, dtype):
    geometry = tuple(map(list, case.geometry.values()))
    tensors = [t if t is None else t.requires_grad_() for t in case.tensors(dtype)]
    torch.library.opcheck(torch.ops.dkic.ldcn.default, (*tensors, *geometry), **tolerances.OPCHECK[dtype])
    tensors = [t if t is None else t.detach() for t in tensors]
    arguments = (case.grad_y(dtype), *tensors, *geometry)
    for wanted in ((True, True, case.masked), (True, False, False), (False, True, False)):
        torch.library.opcheck(torch.ops.dkic.ldcn_backward.default, (*arguments, *wanted, False))


def test_second_derivative_is_refused():
    tensors = [t.requires_grad_() for t in TINY.tensors()]
    y = ldcn(*tensors, **TINY.geometry)
    (grad_x,) = torch.autograd.grad(y.square().sum(), tensors[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="ldcn has no second derivative"):
        grad_x.sum().backward()


class Block(nn.Module):
    """Typical use: offset and mask are computed by a convolution of x, so all sizes depend on x."""

    def __init__(self, case: LdcnCase) -> None:
        super().__init__()
        self.case = case
        geometry = dict(case.geometry)
        self.predict = nn.Conv2d(case.channels, case.groups * case.taps * 3, geometry.pop("kernel_size"), **geometry)

    def forward(self, x: Tensor) -> Tensor:
        k = self.case.groups * self.case.taps
        offset, mask = self.predict(x).split([2 * k, k], 1)
        return ldcn(x, 3 * offset, mask.sigmoid(), **self.case.geometry).relu()


def block_and_input(case: LdcnCase) -> tuple[Block, Tensor]:
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


@pytest.mark.parametrize("case", LDCN_FEW, ids=str)
def test_compile(case):
    block, x = block_and_input(case)
    compiled = torch.compile(copy.deepcopy(block), fullgraph=True, backend="aot_eager", dynamic=False)
    torch.testing.assert_close(outcome(compiled, x), outcome(block, x), **tolerances.FLOAT64)


@pytest.mark.parametrize("case", LDCN_FEW, ids=str)
def test_compile_with_dynamic_shapes(case):
    block, x = block_and_input(case)
    backend = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(copy.deepcopy(block), fullgraph=True, backend=backend, dynamic=True)
    for size in ((2, x.shape[1], 9, 11), (3, x.shape[1], 12, 7), (5, x.shape[1], 31, 24)):
        x = torch.randn(size, dtype=torch.float64)
        torch.testing.assert_close(outcome(compiled, x), outcome(block, x), **tolerances.FLOAT64)
    assert backend.frame_count == 1  # compiled once for all sizes


def test_compile_with_inductor():
    """The default backend also checks the strides that the fake kernels promise. (ldcn alone: it compiles no C++.)"""
    compiled = torch.compile(ldcn, fullgraph=True, dynamic=True)
    for height, width in ((9, 11), (12, 7)):
        case = LdcnCase("", height=height, width=width)
        tensors = [t.requires_grad_() for t in case.tensors()]
        actual, expected = (op(*tensors) for op in (compiled, ldcn))
        assert torch.equal(actual, expected) and actual.stride() == expected.stride()
        gradients = (torch.autograd.grad(y, tensors, case.grad_y()) for y in (actual, expected))
        assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("case", LDCN_FEW, ids=str)
def test_export_with_dynamic_height_and_width(case):
    block, _ = block_and_input(case)
    x = torch.randn(case.batch, case.channels, 10, 11, dtype=torch.float64)
    # From 6 on y is larger than 1 along both axes: the convolution's own trace can't hold for both 1 and more.
    height, width = torch.export.Dim("height", min=6, max=4096), torch.export.Dim("width", min=6, max=4096)
    program = torch.export.export(block, (x,), dynamic_shapes={"x": {2: height, 3: width}})
    for h, w in ((7, 9), (13, 6), (40, 51)):
        x = torch.randn(case.batch, case.channels, h, w, dtype=torch.float64)
        torch.testing.assert_close(program.module()(x), block(x), **tolerances.FLOAT64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    """x is cast, offset and mask keep float32; gradients come back in the dtypes that went in."""
    tensors = [t.requires_grad_() for t in PLAIN.tensors(torch.float32)]
    x, offset, mask = tensors
    with torch.autocast("cpu", dtype):
        y = ldcn(x, offset, mask)
    assert y.dtype == dtype
    assert torch.equal(y, ldcn(x.to(dtype), offset, mask))
    assert not torch.equal(y, ldcn(x.to(dtype), offset.to(dtype), mask.to(dtype)))
    gradients = torch.autograd.grad(y, tensors, PLAIN.grad_y(dtype))
    assert [g.dtype for g in gradients] == [torch.float32] * 3
    expected = torch.autograd.grad(ldcn(x.to(dtype), offset, mask), tensors, PLAIN.grad_y(dtype))
    assert all(map(torch.equal, gradients, expected))


def test_autocast_leaves_float64_and_its_absence_alone():
    x, offset, mask = PLAIN.tensors()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ldcn(x, offset, mask), ldcn(x, offset, mask).double())
        with torch.autocast("cpu", enabled=False):
            assert ldcn(x.float(), offset, mask).dtype == torch.float32


def test_compile_under_autocast():
    x, offset, mask = PLAIN.tensors(torch.float32)
    compiled = torch.compile(ldcn, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(x, offset, mask), ldcn(x, offset, mask))


@pytest.mark.parametrize("case", LDCN_FEW, ids=str)
def test_meta_tensors_give_shape_layout_and_dtype(case):
    real = case.tensors(torch.float16)
    meta = [t if t is None else t.to("meta").requires_grad_() for t in real]
    y = ldcn(*meta, **case.geometry)
    expected = ldcn(*real, **case.geometry)
    assert (y.shape, y.dtype, y.stride()) == (expected.shape, expected.dtype, expected.stride())
    y.backward(torch.empty_like(y))
    assert all(t is None or t.grad.shape == t.shape for t in meta)


def test_script():
    x, offset, mask = tensors = [t.requires_grad_() for t in PLAIN.tensors()]
    scripted = torch.jit.script(ldcn)
    y, expected = scripted(x, offset, mask, kernel_size=(3, 3), padding=1), ldcn(x, offset, mask)
    assert torch.equal(y, expected)
    assert all(map(torch.equal, *(torch.autograd.grad(t, tensors, PLAIN.grad_y()) for t in (y, expected))))
    assert torch.equal(scripted(x, offset, None), ldcn(x, offset))
    with pytest.raises(RuntimeError, match="offset does not fit"):
        scripted(x, offset, mask, kernel_size=2)


def test_symbolic_integers_are_geometry():
    def op(x, offset):
        return ldcn(x, offset, kernel_size=x.shape[1] // 2, padding=(x.shape[1] // 6, 1))

    tensors = PLAIN.tensors()[:2]
    traced = torch.fx.experimental.proxy_tensor.make_fx(op, tracing_mode="symbolic")(*tensors)
    assert torch.equal(traced(*tensors), op(*tensors))
