"""dkic.ops.ldcn on a GPU, including properties that the emulator cannot test. Skipped without a GPU."""

import pytest
import torch
from ops import tolerances
from ops.layouts import LAYOUTS, channels_last
from ops.ldcn_parity import assert_close, of_reference
from ops.op_cases import LDCN_CASES, LDCN_FEW, LDCN_STATISTICS, LDCN_WARP_CASES, PLAIN, LdcnCase
from torch import Tensor
from torch._prims_common import suggest_memory_format

from dkic.ops import backends, ldcn, set_backend

WITHOUT_GPU = backends.unavailable_reason("cuda")  # the reason, or None
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(WITHOUT_GPU is not None, reason=str(WITHOUT_GPU))]

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
TINY = LdcnCase("tiny", batch=1, groups=2, depth=3, height=3, width=4, kernel_size=(2, 3), stride=(2, 1), dilation=(1, 2))


def results(case: LdcnCase, tensors: tuple[Tensor | None, ...], grad_y: Tensor, device: str = "cuda") -> list[Tensor]:
    """y and the gradients of x, offset and mask (if present), copied to the CPU with their layouts."""
    leaves = [t if t is None else t.detach().to(device).requires_grad_() for t in tensors]
    y = ldcn(*leaves, **case.geometry)
    assert y.device == leaves[0].device
    gradients = torch.autograd.grad(y, [t for t in leaves if t is not None], grad_y.to(device))
    return [t.detach().cpu() for t in (y, *gradients)]


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LDCN_CASES, ids=str)
def test_equals_reference(case, dtype):
    tensors, grad_y = case.tensors(dtype), case.grad_y(dtype)
    assert_close(results(case, tensors, grad_y), of_reference(case, tensors, grad_y))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LDCN_CASES, ids=str)
def test_equals_reference_by_integers(case, dtype, deterministic):
    tensors, grad_y = case.tensors(dtype), case.grad_y(dtype)
    assert_close(results(case, tensors, grad_y), of_reference(case, tensors, grad_y))


@pytest.mark.parametrize("position_dtype", [None, torch.float32], ids=["", "float offset"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LDCN_WARP_CASES, ids=str)
def test_channels_last_equals_reference(case, dtype, position_dtype):
    tensors = case.tensors(dtype, position_dtype=position_dtype)
    tensors = tuple(t if t is None else channels_last(t) for t in tensors)
    grad_y = channels_last(case.grad_y(dtype))
    assert_close(results(case, tensors, grad_y), of_reference(case, tensors, grad_y))


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_channels_last_what_is_not_sampled_does_not_matter(bad):
    """A sample of weight 0 that is not finite."""
    case = LdcnCase("small", groups=2, depth=16)
    x, offset, mask = map(channels_last, case.tensors(torch.float32))
    x[1, 3, 0, 0], offset[0, 0, 2, 2], offset[0, 1, 2, 2] = bad, float("nan"), 100
    y = ldcn(x.cuda(), offset.cuda(), mask.cuda()).cpu()
    expected = of_reference(case, (x, offset, mask), case.grad_y(torch.float32))[0]
    assert torch.equal(y.isfinite(), expected.isfinite()) and not y.isfinite().all()


@pytest.mark.parametrize("position_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_offset_and_mask_of_any_type(dtype, position_dtype):
    tensors, grad_y = PLAIN.tensors(dtype, position_dtype=position_dtype), PLAIN.grad_y(dtype)
    actual = results(PLAIN, tensors, grad_y)
    assert [t.dtype for t in actual] == [dtype, dtype, position_dtype, position_dtype]
    if dtype != torch.float64 and position_dtype == torch.float64:  # which are rounded to float32
        tensors = (tensors[0], *(t.float() for t in tensors[1:]))
        actual = [t.float() if t.dtype == torch.float64 else t for t in actual]
    assert_close(actual, of_reference(PLAIN, tensors, grad_y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", ["x", "offset", "mask", "grad_y"])
def test_any_layout(which, layout, dtype):
    case = LdcnCase("D 16", depth=16)  # whole vectors, where the layout lets them be
    arguments = dict(zip(("x", "offset", "mask"), case.tensors(dtype), strict=True), grad_y=case.grad_y(dtype))
    expected = of_reference(case, tuple(arguments.values())[:3], arguments["grad_y"])
    given = {name: t.cuda() for name, t in arguments.items()}
    given[which] = layout(given[which])
    leaves = [given[name].detach().requires_grad_() for name in ("x", "offset", "mask")]
    y = ldcn(*leaves)
    actual = [y.detach(), *torch.autograd.grad(y, leaves, given["grad_y"])]
    for t, like in zip(actual, (leaves[0], *leaves), strict=True):
        assert t.is_contiguous(memory_format=suggest_memory_format(like))
    assert_close([t.cpu() for t in actual], expected)


@pytest.mark.parametrize("wanted", ["x", "offset", "mask", "x offset", "offset mask"])
def test_only_the_gradients_that_are_wanted(wanted, deterministic):
    tensors, names = PLAIN.tensors(), ("x", "offset", "mask")
    expected = dict(zip(names, results(PLAIN, tensors, PLAIN.grad_y())[1:], strict=True))
    leaves = [t.cuda().requires_grad_(name in wanted.split()) for name, t in zip(names, tensors, strict=True)]
    ldcn(*leaves).backward(PLAIN.grad_y().cuda())
    for name, t in zip(names, leaves, strict=True):
        assert torch.equal(t.grad.cpu(), expected[name]) if name in wanted.split() else t.grad is None


def test_gradcheck():
    tensors = [t.cuda() for t in TINY.tensors()]
    # Offsets far enough from the kinks, which lie on the integers, that a step of 1e-6 does not cross one.
    tensors[1] = tensors[1].floor() + tensors[1].frac().abs().clamp(0.05, 0.95)
    leaves = [t.requires_grad_() for t in tensors]
    # Atomics add in another order at every run.
    assert torch.autograd.gradcheck(lambda *t: ldcn(*t, **TINY.geometry), leaves, nondet_tol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_same_bits_every_time(dtype, deterministic):
    """Thousands of contributions to every pixel of x."""
    case = LdcnCase("crowded", batch=2, groups=4, depth=24, height=96, width=96)
    x, offset, mask = case.tensors(dtype, position_dtype=torch.float32)
    grid = torch.arange(96.0)
    offset.view(2, -1, 2, 96, 96)[:, :, 0] -= 0.95 * grid.view(-1, 1)
    offset.view(2, -1, 2, 96, 96)[:, :, 1] -= 0.95 * grid
    first = results(case, (x, offset, mask), case.grad_y(dtype))
    for _ in range(4):
        assert all(map(torch.equal, results(case, (x, offset, mask), case.grad_y(dtype)), first))


# ---- Streams and devices ----


def test_runs_in_the_current_stream():
    """x is ready long after the launch, so a kernel in another stream would read too early."""
    x, offset, mask = (t.cuda() for t in LdcnCase("", batch=2, depth=32, height=64, width=64).tensors(torch.float32))
    expected = ldcn(x, offset, mask)
    late, stream = torch.zeros_like(x), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10**8)
        late.copy_(x)
        found = ldcn(late, offset, mask)
    stream.synchronize()
    assert torch.equal(found, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is no second GPU")
def test_on_a_second_device():
    tensors, grad_y = PLAIN.tensors(torch.float32), PLAIN.grad_y(torch.float32)
    assert torch.cuda.current_device() == 0
    assert_close(results(PLAIN, tensors, grad_y, "cuda:1"), of_reference(PLAIN, tensors, grad_y))
    assert torch.cuda.current_device() == 0
    x, offset, mask = tensors
    with pytest.raises(ValueError, match="^ldcn/offset: must be on x's device cuda:1, and is on cuda:0"):
        ldcn(x.to("cuda:1"), offset.to("cuda:0"), mask.to("cuda:1"))


@pytest.mark.parametrize("which", range(3))
def test_native_code_refuses_tensors_on_the_cpu(which):
    arguments = [t.cuda() for t in PLAIN.tensors(torch.float32)]
    arguments[which] = arguments[which].cpu()
    with pytest.raises(RuntimeError):
        torch.ops.dkic.ldcn(*arguments, [3, 3], [1, 1], [1, 1], [1, 1])


def test_a_backend_asked_for_by_name_refuses_the_cpu():
    set_backend("ldcn", "cuda")
    try:
        ldcn(*(t.cuda() for t in PLAIN.tensors()))
        with pytest.raises(RuntimeError, match="is set to its cuda backend, which does not support cpu tensors"):
            ldcn(*PLAIN.tensors())
    finally:
        set_backend("ldcn", None)


# ---- More elements than 32 bits count ----

BEYOND = (1, 512, 2049, 2048)


def needs_memory(gigabytes: int) -> None:
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if free < gigabytes * 1e9:
        pytest.skip(f"the GPU has {free / 1e9:.0f} GB of free memory, and this takes {gigabytes}")


def beyond_32_bits() -> tuple[Tensor, Tensor]:
    """x, of which the last pixels lie beyond 2^31 elements, and offsets of one pixel to the right."""
    assert torch.Size(BEYOND).numel() > 2**31
    x = torch.empty(BEYOND, dtype=torch.float16, device="cuda", memory_format=torch.channels_last).normal_()
    offset = torch.zeros(1, 2, *BEYOND[2:], device="cuda")
    offset[:, 1] = 1
    return x, offset


def test_forward_beyond_32_bits():
    needs_memory(10)
    x, offset = beyond_32_bits()
    y = ldcn(x, offset, kernel_size=1, padding=0)
    for row in (0, 1023, 1024, 2047, 2048):
        assert torch.equal(y[:, :, row, :-1], x[:, :, row, 1:]) and not y[:, :, row, -1].any()


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomics", "integers"])
def test_backward_beyond_32_bits(deterministic):
    needs_memory(32 if deterministic else 23)
    grad_y, offset = beyond_32_bits()
    x = torch.zeros_like(grad_y)
    geometry = [1, 1], [1, 1], [0, 0], [1, 1]
    grad_x, grad_offset, _ = torch.ops.dkic.ldcn_backward(grad_y, x, offset, None, *geometry, True, True, False, deterministic)
    assert not grad_offset.any()
    for row in (0, 1023, 1024, 2047, 2048):
        assert torch.equal(grad_x[:, :, row, 1:], grad_y[:, :, row, :-1]) and not grad_x[:, :, row, 0].any()


# ---- Inside torch ----


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [TINY, LdcnCase("no mask", masked=False), LdcnCase("empty", batch=0)], ids=str)
def test_opcheck(case, dtype, deterministic):
    geometry = tuple(map(list, case.geometry.values()))
    tensors = [t if t is None else t.cuda().requires_grad_() for t in case.tensors(dtype)]
    torch.library.opcheck(torch.ops.dkic.ldcn.default, (*tensors, *geometry), **tolerances.OPCHECK[dtype])
    arguments = (case.grad_y(dtype).cuda(), *(t if t is None else t.detach() for t in tensors), *geometry)
    for wanted in ((True, True, case.masked), (True, False, False), (False, True, False)):
        torch.library.opcheck(torch.ops.dkic.ldcn_backward.default, (*arguments, *wanted, True))


@pytest.mark.parametrize("case", LDCN_FEW, ids=str)
def test_compile(case, deterministic):
    torch.compiler.reset()
    tensors = [t if t is None else t.cuda().requires_grad_() for t in case.tensors(torch.float32)]
    leaves, grad_y = [t for t in tensors if t is not None], case.grad_y(torch.float32).cuda()
    compiled = torch.compile(lambda *t: ldcn(*t, **case.geometry).mul(2), fullgraph=True)
    actual, expected = compiled(*tensors), ldcn(*tensors, **case.geometry).mul(2)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(*(torch.autograd.grad(y, leaves, grad_y) for y in (actual, expected)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    """x is cast, offset and mask keep float32; gradients come back in the dtypes that went in."""
    x, offset, mask = (t.cuda().requires_grad_() for t in LDCN_STATISTICS.tensors(torch.float32))
    with torch.autocast("cuda", dtype):
        y = ldcn(x, offset, mask)
        assert ldcn(x.double(), offset, mask).dtype == torch.float64
    assert y.dtype == dtype and torch.equal(y, ldcn(x.to(dtype), offset, mask))
    gradients = torch.autograd.grad(y, (x, offset, mask), LDCN_STATISTICS.grad_y(dtype).cuda())
    assert [g.dtype for g in gradients] == [torch.float32] * 3
