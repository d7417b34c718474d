"""deform_conv2d's Triton kernels, in Triton's interpreter and on a GPU if there is one."""

import pytest
import torch
import torchvision
from ops import tolerances
from ops.layouts import LAYOUTS
from ops.op_cases import DEFORM_CONV2D_CASES, DEFORM_CONV2D_STATISTICS, PLAIN_CONV, DeformConv2dCase
from ops.python_process import python
from ops.test_deform_conv2d import NAMES, assert_all_close, results
from ops.test_deform_conv2d_precision import HALVES, as_float64, largest, tensors_of
from ops.test_deform_conv2d_torch import TINY, call, leaves, native_arguments
from torch import Tensor

from dkic.ops import backends, deform_conv2d, explain, reference, set_backend

pytest.importorskip("triton")

from dkic.ops.triton import deform_conv2d as deform_conv2d_triton  # noqa: E402
from dkic.ops.triton import tiles  # noqa: E402


def test_passes_in_the_interpreter():
    """In a subprocess, because Triton selects the interpreter when it is imported."""
    run = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "ops/interpreted_deform_conv2d.py", TRITON_INTERPRET="1")
    assert run.returncode == 0 and " passed" in run.stdout, run.stdout[-5000:]


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def on_the_gpu(case: DeformConv2dCase, tensors, grad_y: Tensor) -> dict[str, Tensor]:
    """y and all gradients, by name, on the CPU."""
    given = tuple(None if t is None else t.cuda() for t in tensors)
    return {name: t.cpu() for name, t in results(deform_conv2d, case, given, grad_y.cuda()).items()}


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def tf32(request):
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = request.param
    yield request.param
    torch.backends.cuda.matmul.allow_tf32 = before


def assert_as_the_reference(case: DeformConv2dCase, dtype: torch.dtype, loss: float | None = None) -> None:
    """loss: of a result, beside its largest number."""
    tensors, grad_y = tensors_of(case, dtype), case.grad_y(dtype)
    expected = results(reference.deform_conv2d, case, as_float64(tensors), grad_y.double())
    # Of half precision's samples and results each is rounded once.
    if loss is None:
        loss = 1e-12 if dtype == torch.float64 else max(4 * tolerances.HALF_SPACING[dtype], tolerances.FLOAT32_SUMS)
    for name, t in on_the_gpu(case, tensors, grad_y).items():
        if t.numel():
            assert largest(t.double() - expected[name]) <= loss * largest(expected[name]), name


@pytest.mark.cuda
@pytest.mark.skipif(backends.find_triton() is not None, reason=backends.find_triton() or "")
class TestOnAGpu:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("case", [*DEFORM_CONV2D_CASES, DEFORM_CONV2D_STATISTICS], ids=str)
    def test_equals_the_reference(self, case, dtype):
        assert_as_the_reference(case, dtype)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("case", DEFORM_CONV2D_CASES, ids=str)
    def test_equals_the_reference_by_integers(self, case, dtype, deterministic):
        assert_as_the_reference(case, dtype)

    @pytest.mark.parametrize("tf32", [False, True], indirect=True)
    def test_float32_is_multiplied_as_torch_allows(self, tf32):
        """TF32 has 11 digits, as float16."""
        loss = 4 * tolerances.HALF_SPACING[torch.float16] if tf32 else tolerances.FLOAT32_SUMS
        assert_as_the_reference(DEFORM_CONV2D_STATISTICS, torch.float32, loss)

    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    def test_half_precision_fused(self, dtype):
        case = DeformConv2dCase("", batch=2, groups=8, depth=24, height=20, width=21, out_channels=192)
        assert_as_the_reference(case, dtype)

    def test_tuned_tiles_give_the_same(self, tmp_path, monkeypatch):
        """What was tuned is used from then on."""
        monkeypatch.setenv("DKIC_CACHE", str(tmp_path))
        tiles.tuned.cache_clear()
        x, offset, weight, bias, mask = (t.cuda() for t in DEFORM_CONV2D_STATISTICS.tensors(torch.float32))
        expected = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
        deform_conv2d_triton.tune_call(x, offset, weight, bias, padding=(1, 1), mask=mask)
        assert "(tuned)" in explain("deform_conv2d", x, offset, weight, bias, padding=1, mask=mask)
        torch.testing.assert_close(deform_conv2d(x, offset, weight, bias, padding=1, mask=mask), expected)
        tiles.tuned.cache_clear()

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("which", ["input", "offset", "weight", "mask", "grad_y"])
    def test_any_layout_gives_the_same(self, which, layout, deterministic):
        arguments = dict(zip(NAMES, PLAIN_CONV.tensors(), strict=True), grad_y=PLAIN_CONV.grad_y())
        given = {name: t.cuda() for name, t in arguments.items()}
        expected = results(deform_conv2d, PLAIN_CONV, tuple(given[name] for name in NAMES), given["grad_y"])
        given[which] = layout(given[which])
        actual = results(deform_conv2d, PLAIN_CONV, tuple(given[name] for name in NAMES), given["grad_y"])
        # Not to the bit: a kernel that can load vectors sums over channels in another order.
        assert_all_close(actual, expected, **tolerances.FLOAT64)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_deterministic_results_are_the_same_every_time(self, dtype, deterministic):
        case = DeformConv2dCase("", batch=2, groups=2, depth=32, height=40, width=41, out_channels=48)
        tensors = case.tensors(dtype)
        runs = [on_the_gpu(case, tensors, case.grad_y(dtype)) for _ in range(5)]
        assert all(torch.equal(t, runs[0][name]) for run in runs[1:] for name, t in run.items())

    def test_all_but_the_gradient_of_input_is_always_the_same(self):
        case = DeformConv2dCase("", batch=2, groups=2, depth=32, height=40, width=41, out_channels=48)
        runs = [on_the_gpu(case, case.tensors(torch.float32), case.grad_y(torch.float32)) for _ in range(5)]
        assert all(torch.equal(t, runs[0][name]) for run in runs[1:] for name, t in run.items() if name != "input")

    def test_gradcheck(self, deterministic):
        tensors = [t.detach().cuda().requires_grad_() for t in leaves(TINY)]
        with torch.no_grad():  # kinks lie on the integers
            tensors[1].copy_(tensors[1].floor() + tensors[1].frac().abs().clamp(0.05, 0.95))
        assert torch.autograd.gradcheck(lambda *given: call(given, TINY), tensors)

    def test_runs_in_the_current_stream(self):
        """input is ready long after the launch, so a kernel in another stream would read too early."""
        x, offset, weight, bias, mask = (t.cuda() for t in DEFORM_CONV2D_STATISTICS.tensors(torch.float32))
        expected = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
        late, stream = torch.zeros_like(x), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(10**8)
            late.copy_(x)
            found = deform_conv2d(late, offset, weight, bias, padding=1, mask=mask)
        stream.synchronize()
        assert torch.equal(found, expected)

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is no second GPU")
    def test_runs_on_the_tensors_device(self):
        tensors = DEFORM_CONV2D_STATISTICS.tensors(torch.float32)
        first, second = (call([t.to(f"cuda:{i}") for t in tensors], DEFORM_CONV2D_STATISTICS).cpu() for i in (0, 1))
        torch.testing.assert_close(first, second)

    def test_image_beyond_2_31_elements(self):
        """Its last rows, at offsets that need 64 bits: as those of an image of these rows alone."""
        if torch.cuda.mem_get_info()[0] < 6 << 30:
            pytest.skip("needs 6 GiB of free GPU memory")
        height, width, channels = 2**15 + 8, 2**11, 32
        x = torch.zeros(1, height, width, channels, dtype=torch.float16, device="cuda").permute(0, 3, 1, 2)
        x[:, :, -8:] = torch.randn(8, width, device="cuda")
        weight = torch.randn(16, channels, 1, 1, dtype=torch.float16, device="cuda")
        geometry = {"stride": (8, 4)}
        offset = torch.full((1, 2, (height - 1) // 8 + 1, width // 4), 0.5, device="cuda")
        y = deform_conv2d(x, offset, weight, **geometry)
        assert torch.equal(y[:, :, -1:], deform_conv2d(x[:, :, -8:].clone(), offset[:, :, -1:], weight, **geometry))
        assert y[:, :, -1:].any()

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
    def test_opcheck(self, dtype, deterministic):
        arguments = native_arguments([t.detach().cuda().requires_grad_() for t in leaves(TINY, dtype)], TINY)
        torch.library.opcheck(torch.ops.dkic.deform_conv2d.default, arguments, **tolerances.OPCHECK[dtype])

    def test_compile(self):
        tensors = [t.cuda() for t in PLAIN_CONV.tensors(torch.float32)]
        compiled = torch.compile(lambda *given: call(given, PLAIN_CONV).relu(), fullgraph=True)
        torch.testing.assert_close(compiled(*tensors), call(tensors, PLAIN_CONV).relu())

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_autocast(self, dtype):
        """Computed in float32, returned in input's dtype, as torchvision does."""
        x, offset, weight, bias, mask = (t.cuda() for t in PLAIN_CONV.tensors(torch.float32))
        for image in (x, x.to(dtype)):
            with torch.autocast("cuda", dtype):
                y = call((image, offset, weight, bias, mask), PLAIN_CONV)
                expected = torchvision.ops.deform_conv2d(image, offset, weight, bias, **PLAIN_CONV.geometry, mask=mask)
            assert torch.equal(y, call((image.float(), offset, weight, bias, mask), PLAIN_CONV).to(image.dtype))
            assert y.dtype == expected.dtype
            torch.testing.assert_close(y, expected, rtol=2.0**-7, atol=2.0**-7)

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_results_have_the_memory_format_of_their_tensor(self, layout):
        tensors = [t.cuda().contiguous(memory_format=layout) if t.dim() == 4 else t.cuda() for t in PLAIN_CONV.tensors()]
        tensors[2] = tensors[2].contiguous()  # weight, whose gradient always is
        for name, t in results(deform_conv2d, PLAIN_CONV, tuple(tensors), PLAIN_CONV.grad_y().cuda()).items():
            assert t.is_contiguous(memory_format=torch.contiguous_format if name in ("weight", "bias") else layout), name

    def test_asked_for_by_name(self):
        tensors, grad_y = PLAIN_CONV.tensors(), PLAIN_CONV.grad_y()
        set_backend("deform_conv2d", "triton")
        try:
            actual = on_the_gpu(PLAIN_CONV, tensors, grad_y)
        finally:
            set_backend("deform_conv2d", None)
        assert_all_close(actual, results(reference.deform_conv2d, PLAIN_CONV, tensors), **tolerances.FLOAT64)
