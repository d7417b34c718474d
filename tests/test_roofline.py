"""benchmarks/roofline.py: its operations compared with those counted while computing the formulas on small problems, number by
number; its bytes compared with those of the tensors; its times with manual results."""

import math
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ops.op_cases import DeformConv2dCase, LdcnCase, LikelihoodCase

from benchmarks import roofline
from dkic.ops import reference

ROOT = Path(__file__).resolve().parents[1]
LDCN = LdcnCase("small", batch=2, groups=2, depth=3, height=4, width=3, kernel_size=(1, 2), padding=(0, 1))
CONV = DeformConv2dCase("small", batch=1, groups=2, depth=2, height=4, width=3, weight_groups=2, out_channels=4, stride=(2, 1))
LATENT = LikelihoodCase("small", (2, 3, 2))


class Number:
    """Counts the operations that it takes part in. Comparisons, signs and floors are free."""

    operations = 0

    def __init__(self, value: float) -> None:
        self.value = value

    def _with(self, other, value: float) -> "Number":
        Number.operations += 1
        return Number(value)

    def __add__(self, other):
        return self._with(other, self.value + other.value)

    def __sub__(self, other):
        return self._with(other, self.value - other.value)

    def __mul__(self, other):
        return self._with(other, self.value * other.value)

    def __truediv__(self, other):
        return self._with(other, self.value / other.value)

    def of(self, function) -> "Number":
        return self._with(self, function(self.value))


@pytest.fixture(autouse=True)
def counting():
    Number.operations = 0


def sampled(case: LdcnCase, x: list, offset: list, mask: list) -> Iterator[SimpleNamespace]:
    """Computes every tap of every group at every position: its position, and the numbers that its channels use."""
    (kh, kw), (ho, wo) = case.kernel_size, case.out_size
    for n, g, k, oh, ow in product(range(case.batch), range(case.groups), range(kh * kw), range(ho), range(wo)):
        tap = g * kh * kw + k
        steps = zip((oh, ow), (k // kw, k % kw), case.stride, case.padding, case.dilation, strict=True)
        bases = (p * stride - padding + t * dilation for p, t, stride, padding, dilation in steps)
        at = [Number(base) + Number(offset[n][2 * tap + i][oh][ow]) for i, base in enumerate(bases)]
        row, column = (math.floor(p.value) for p in at)
        fy, fx = at[0] - Number(row), at[1] - Number(column)
        m = Number(mask[n][tap][oh][ow])
        low = m * fy
        high, right = m - low, low * fx
        top = high * fx
        places = [(row + i, column + j) for i in (0, 1) for j in (0, 1)]

        def corners(c: int, n=n, places=places) -> list[Number]:
            inside = (0 <= r < case.height and 0 <= q < case.width for r, q in places)
            return [Number(x[n][c][r][q] if ok else 0.0) for (r, q), ok in zip(places, inside, strict=True)]

        weights = [high - top, top, low - right, right]
        yield SimpleNamespace(
            n=n, g=g, k=k, p=(oh, ow), tap=tap, fy=fy, fx=fx, mask=m, weights=weights, places=places, corners=corners
        )


def numbers(*shape: int) -> dict[tuple[int, ...], Number]:
    """Zeros by index."""
    return {index: Number(0.0) for index in product(*map(range, shape))}


def tensor(values: dict, *shape: int) -> torch.Tensor:
    return torch.tensor([n.value for n in values.values()], dtype=torch.float64).view(shape)


def sample_gradients(s, dots):
    """Of dy, dx and mask."""
    right, below = dots[1] - dots[0], dots[3] - dots[2]
    top, bottom = dots[0] + s.fx * right, dots[2] + s.fx * below
    fall = bottom - top
    return s.mask * fall, s.mask * (right + s.fy * (below - right)), top + s.fy * fall


def test_ldcn_forward():
    x, offset, mask = LDCN.tensors()
    y = numbers(*LDCN.grad_y().shape)
    for s in sampled(LDCN, *(t.tolist() for t in (x, offset, mask))):
        for c in range(s.g * LDCN.depth, (s.g + 1) * LDCN.depth):
            for weight, corner in zip(s.weights, s.corners(c), strict=True):
                y[(s.n, c, *s.p)] += weight * corner
    torch.testing.assert_close(tensor(y, *LDCN.grad_y().shape), reference.ldcn(x, offset, mask, **LDCN.geometry))
    assert roofline.ldcn(LDCN)[0].flops == Number.operations


def test_ldcn_backward():
    leaves = [t.requires_grad_() for t in LDCN.tensors()]
    grad_y = LDCN.grad_y()
    expected = torch.autograd.grad(reference.ldcn(*leaves, **LDCN.geometry), leaves, grad_y)
    g = grad_y.tolist()
    grad_x, grad_offset, grad_mask = (numbers(*t.shape) for t in leaves)
    outside = Number(0.0)
    for s in sampled(LDCN, *(t.tolist() for t in leaves)):
        dots = [Number(0.0) for _ in range(4)]
        for c in range(s.g * LDCN.depth, (s.g + 1) * LDCN.depth):
            gradient = Number(g[s.n][c][s.p[0]][s.p[1]])
            for i, (place, corner) in enumerate(zip(s.places, s.corners(c), strict=True)):
                dots[i] += gradient * corner
                share = s.weights[i] * gradient
                if (at := (s.n, c, *place)) in grad_x:
                    grad_x[at] += share
                else:
                    outside += share
        dy, dx, of_mask = sample_gradients(s, dots)
        grad_offset[(s.n, 2 * s.tap, *s.p)], grad_offset[(s.n, 2 * s.tap + 1, *s.p)] = dy, dx
        grad_mask[(s.n, s.tap, *s.p)] = of_mask
    for values, gradient in zip((grad_x, grad_offset, grad_mask), expected, strict=True):
        torch.testing.assert_close(tensor(values, *gradient.shape), gradient)
    assert roofline.ldcn(LDCN)[1].flops == Number.operations


def test_deform_conv2d():
    x, offset, weight, bias, mask = CONV.tensors()
    w, b, y = weight.tolist(), bias.tolist(), numbers(*CONV.grad_y().shape)
    of_group, from_group = CONV.out_channels // CONV.weight_groups, CONV.channels // CONV.weight_groups
    products = 0
    for s in sampled(CONV, *(t.tolist() for t in (x, offset, mask))):
        for c in range(s.g * CONV.depth, (s.g + 1) * CONV.depth):
            parts = [weight * corner for weight, corner in zip(s.weights, s.corners(c), strict=True)]
            sample = parts[0] + parts[1] + parts[2] + parts[3]
            before = Number.operations
            for o in range(c // from_group * of_group, (c // from_group + 1) * of_group):
                y[(s.n, o, *s.p)] += sample * Number(w[o][c % from_group][s.k // 3][s.k % 3])
            products += Number.operations - before
    for n, o, *p in y:
        y[(n, o, *p)] += Number(b[o])
    expected = reference.deform_conv2d(x, offset, weight, bias, **CONV.geometry, mask=mask)
    torch.testing.assert_close(tensor(y, *expected.shape), expected)
    forward, backward = roofline.deform_conv2d(CONV)
    assert (forward.flops, forward.products) == (Number.operations - products, products)
    # Backward: the gradient of each sample and of each weight; samples again, and as in ldcn; each grad_y added to bias's.
    ldcn = LdcnCase("", **{name: getattr(CONV, name) for name in LdcnCase.__dataclass_fields__ if name != "name"})
    sums = CONV.channels // CONV.groups * 7 * math.prod(mask.shape)
    assert (backward.products, backward.flops) == (2 * products, roofline.ldcn(ldcn)[1].flops + sums + math.prod(expected.shape))


def test_gaussian_likelihood():
    phi = torch.distributions.Normal(0.0, 1.0).cdf
    k = Number(1 / math.sqrt(2 * math.pi) / math.log(2))
    half, minus_half = Number(0.5), Number(-0.5)
    y, mean, noise, scale, grad_y_hat, grad_bits = 1.25, 0.5, 0.2, 1.5, 0.7, -0.3
    leaves = [torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in (y, mean, scale)]
    bits = reference.gaussian_bits(leaves[0] + noise - leaves[1], leaves[2])
    of_y, of_mean, of_scale = torch.autograd.grad(bits, leaves, torch.tensor(grad_bits, dtype=torch.float64))

    def bin_of(v):
        r = Number(1.0) / Number(scale)
        upper, lower = (v + half) * r, (v - half) * r
        cdfs = (t.of(lambda value: phi(torch.tensor(value, dtype=torch.float64)).item()) for t in (upper, lower))
        return r, upper, lower, next(cdfs) - next(cdfs)

    y_hat = Number(y) + Number(noise)
    *_, p = bin_of(y_hat - Number(mean))
    assert math.isclose(-p.of(math.log2).value, bits.item(), rel_tol=1e-6)
    forward, backward = roofline.gaussian_likelihood(LATENT)
    assert forward.flops == 12 * Number.operations

    Number.operations = 0
    r, upper, lower, p = bin_of(Number(y + noise) - Number(mean))
    above, below = ((t * t * minus_half).of(math.exp) for t in (upper, lower))
    factor = k * r / p
    by_v, by_scale = (below - above) * factor, (upper * above - lower * below) * factor
    from_bits, grad_scale = Number(grad_bits) * by_v, Number(grad_bits) * by_scale
    grad_y = from_bits + Number(grad_y_hat)
    found = grad_y.value, -from_bits.value, grad_scale.value
    wanted = of_y.item() + grad_y_hat, of_mean.item(), of_scale.item()
    assert all(math.isclose(f, w, rel_tol=1e-6) for f, w in zip(found, wanted, strict=True))
    assert backward.flops == 12 * Number.operations
    assert roofline.gaussian_symbols(LATENT).flops == 12 * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("masked", [True, False])
def test_bytes_are_those_of_arguments_and_results(masked, dtype):
    for case, works in ((LDCN, roofline.ldcn), (CONV, roofline.deform_conv2d)):
        case = type(case)(**{**vars(case), "masked": masked})
        x, offset, *rest, mask = case.tensors(dtype, position_dtype=torch.float32)
        y = case.grad_y(dtype)
        arguments = sum(t.nbytes for t in (x, offset, *rest, mask) if t is not None)
        forward, backward = works(case, dtype)
        assert forward.bytes == arguments + y.nbytes
        unread = rest[-1].nbytes if rest else 0  # bias
        assert backward.bytes == 2 * arguments - unread + y.nbytes


def test_bytes_of_likelihoods():
    y, scale, mean = LATENT.tensors(torch.float32)
    forward, backward = roofline.gaussian_likelihood(LATENT)
    assert (forward.bytes, backward.bytes) == (5 * y.nbytes, 8 * y.nbytes)
    assert roofline.gaussian_symbols(LATENT).bytes == 3 * y.nbytes + y.numel() * 5


def test_the_roofline_time_is_the_largest_of_the_resource_times():
    gpu = roofline.Gpu("a GPU", bytes=100.0, flops=10.0, tf32=60.0, half=50.0)
    work = roofline.Work("work", bytes=300, flops=20, products=100)
    # 3 s of memory, 2 s of arithmetic, 100 / (60 / 3) s of products
    assert (work.roofline_seconds(gpu), work.limit(gpu)) == (5.0, "products")
    half = roofline.Work("work", bytes=300, flops=20, products=100, half=True)
    assert (half.roofline_seconds(gpu), half.limit(gpu)) == (3.0, "memory")
    # Where three of tf32's are slower than one of float32's, the same units do both.
    gpu = roofline.Gpu("a GPU", bytes=100.0, flops=10.0, tf32=30.0, half=50.0)
    assert (work.roofline_seconds(gpu), work.limit(gpu)) == (12.0, "arithmetic")


def test_a_gpu_is_recognized_by_its_full_name(monkeypatch):
    for name, found in (("NVIDIA GeForce RTX 3090", "RTX 3090"), ("NVIDIA GeForce RTX 3090 Ti", None)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert getattr(roofline.gpu_of(torch.device("cuda")), "name", None) == found
        assert roofline.gpu_of(torch.device("cpu")) is None


def test_prints_a_table_of_all_kernels():
    child = subprocess.run([sys.executable, "-m", "benchmarks.roofline"], cwd=ROOT, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in child.stdout.splitlines())
    assert len(rows) == 2 * (4 + 6) + 3 and all(len(row) == len(head) == 8 for row in rows)
    # 1x192x128x128 in float32, 8 groups: x and y, 9 taps of 3 numbers
    row = next(row for row in rows if row[:2] == ["ldcn forward", "1x192x128x128 G=8, float32"])
    moved = 4 * 128 * 128 * (2 * 192 + 8 * 9 * 3)
    assert row[4:6] == [f"{moved / 1e6:.1f}", f"{1e6 * moved / 936e9:.1f} (memory)"]
