"""deform_conv2d's Triton kernels in Triton's interpreter; test_deform_conv2d_triton.py runs this file.

The interpreter takes some 10 ms a program, whatever its size: so tiles have more pixels here than on a GPU, but where they are
what is tested.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import triton.language as tl
from ops import tolerances
from ops.op_cases import DEFORM_CONV2D_CASES, TORCHVISION_CONV, DeformConv2dCase
from ops.test_deform_conv2d import NAMES, results
from ops.test_deform_conv2d_precision import as_float64, largest, tensors_of
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from dkic.ops import deform_conv2d_triton, reference
from dkic.ops.deform_conv2d_triton import TILES, backward, forward

BARE = DeformConv2dCase("no mask, no bias", batch=1, masked=False, biased=False, kernel_size=(2, 2))
SMALL = replace(TORCHVISION_CONV, name="small", batch=2)
DEEP = DeformConv2dCase(
    "several tiles of all", batch=1, groups=2, depth=34, height=3, width=25, out_channels=66, kernel_size=(1, 2), padding=(0, 1)
)
# Two taps serve for the groups' numbers; what is left out takes long here, and no other way through a kernel.
SLOW = ("13x13", "as large as x", "padding beyond", "many blocks", "three strips", "no bias", "weight groups", "torchvision")
SINGLE = [case for case in DEFORM_CONV2D_CASES if not any(words in case.name for words in SLOW)]
CASES = [
    *(replace(case, groups=1) for case in SINGLE),
    *(replace(case, kernel_size=(1, 2), padding=(0, 1)) for case in DEFORM_CONV2D_CASES if "weight groups" in case.name),
    SMALL,
    replace(SMALL, name="batch 0", batch=0),
    BARE,
    replace(BARE, name="padding beyond the kernel", padding=(3, 4)),
]


@pytest.fixture(autouse=True)
def pixels(request, monkeypatch):
    """Of a tile; those of a GPU's where a test's parameter is None."""
    wanted = getattr(request, "param", 128)
    if wanted:
        wide = {key: replace(tiles, pixels=wanted, outputs=max(tiles.outputs, 64), channels=32) for key, tiles in TILES.items()}
        monkeypatch.setattr(deform_conv2d_triton, "TILES", wide)


@pytest.fixture(autouse=True)
def bfloat16_products(monkeypatch):
    """The interpreter multiplies bfloat16 numbers' bits as if they were integers."""
    multiply = InterpreterBuilder.create_dot

    def widened(self, a, b, *others):
        if a.data.dtype == np.uint16:
            a, b = (TensorHandle((t.data.astype(np.uint32) << 16).view(np.float32), tl.float32) for t in (a, b))
        return multiply(self, a, b, *others)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", widened)


def outcome(
    case: DeformConv2dCase, tensors: tuple[Tensor | None, ...], grad_y: Tensor, deterministic: bool = False
) -> dict[str, Tensor]:
    """y and all gradients, by name."""
    x, offset, weight, bias, mask = tensors
    geometry = [list(pair) for pair in case.geometry.values()]
    gradients = backward(grad_y, x, offset, weight, mask, *geometry, *(t is not None for t in tensors), deterministic)
    named = zip(NAMES, gradients, tensors, strict=True)
    return {"y": forward(*tensors, *geometry), **{name: gradient for name, gradient, t in named if t is not None}}


def assert_as_the_reference(case: DeformConv2dCase, dtype: torch.dtype, deterministic: bool = False, **options) -> None:
    tensors, grad_y = tensors_of(case, dtype, **options), case.grad_y(dtype)
    exact = results(reference.deform_conv2d, case, as_float64(tensors), grad_y.double())
    actual = outcome(case, tensors, grad_y, deterministic)
    assert actual.keys() == exact.keys()
    # Rounding of samples, operands of the products, may add up; y and the gradient of weight are bound by it.
    rounded = tolerances.HALF_SPACING.get(dtype, 0.0) if dtype.itemsize == 2 else 0.0
    if dtype == torch.bfloat16:
        rounded *= 2  # the interpreter cuts digits off where a GPU rounds
    sums = 1e-13 if dtype == torch.float64 else tolerances.FLOAT32_SUMS
    magnitudes = magnitudes_of_products(case, as_float64(tensors), grad_y.double()) if rounded and exact["y"].numel() else {}
    for name, t in actual.items():
        like = exact[name]
        contiguous = torch.contiguous_format if name in ("weight", "bias") else torch.channels_last
        given = tensors[NAMES.index(name)].dtype if name in NAMES else dtype
        assert t.shape == like.shape and t.dtype == given and t.is_contiguous(memory_format=contiguous), name
        if not t.numel():
            continue
        last = tolerances.HALF_SPACING.get(given, 0.0) * (2 if given == torch.bfloat16 else 1)
        allowed = last * like.abs() + sums * largest(like) + rounded * magnitudes.get(name, torch.zeros(()))
        excess = ((t - like).abs() - allowed).clamp(min=0)
        assert largest(excess) == 0, f"{name}: {largest(t - like)} of {largest(like)}"


def magnitudes_of_products(case: DeformConv2dCase, tensors: tuple[Tensor | None, ...], grad_y: Tensor) -> dict[str, Tensor]:
    """The sums that make y and the gradient of weight, of magnitudes."""
    x, offset, weight, _, mask = tensors
    size = {"kernel_size": case.kernel_size, **case.geometry}
    columns = reference.samples(x, offset, mask, **size).abs().unflatten(1, (case.weight_groups, -1))  # [n, g, c, k, h, w]
    w = weight.abs().flatten(2).unflatten(0, (case.weight_groups, -1))
    g = grad_y.abs().unflatten(1, (case.weight_groups, -1))
    y = torch.einsum("ngckhw,gock->ngohw", columns, w).flatten(1, 2)
    return {"y": y, "weight": torch.einsum("ngckhw,ngohw->gock", columns, g).reshape(weight.shape)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(case):
    assert_as_the_reference(case, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [SMALL, BARE], ids=str)
def test_every_dtype(case, dtype):
    assert_as_the_reference(case, dtype)


@pytest.mark.parametrize("pixels", [None], indirect=True)
@pytest.mark.parametrize("way", ["half", "ieee"])
def test_tiles_of_a_gpu(way, pixels, monkeypatch):
    """Several of pixels, outputs and channels, and of parts of the pixels; offsets of another dtype."""
    monkeypatch.setattr(deform_conv2d_triton, "way_to_multiply", lambda dtype: way)
    monkeypatch.setattr(deform_conv2d_triton, "PART", 32)
    dtype = torch.float16 if way == "half" else torch.float32
    assert_as_the_reference(DEEP, dtype, position_dtype=torch.float32 if way == "half" else torch.float16)
