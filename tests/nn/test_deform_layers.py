"""Deformable convolutions of dkic.nn compared with torchvision's layer and with mmcv's computation."""

import copy
import inspect
import math
import subprocess
import sys

import pytest
import torch
import torchvision
from ops import tolerances
from torch import Tensor, nn

from dkic.nn import DeformConv2d, DeformConv2dPack

GEOMETRIES = [
    {},
    {"padding": 1},
    {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)},
    {"padding": 1, "groups": 2, "bias": False},
]


def gradients(layer: nn.Module, y: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(y.square().sum(), [*inputs, *layer.parameters()]))


def inputs_of(layer: nn.Module, offset_groups: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """input, offset and mask for a layer of 4 input channels."""
    x = torch.randn(2, 4, 9, 8).double().requires_grad_()
    conv = nn.Conv2d(4, 1, layer.kernel_size, layer.stride, layer.padding, layer.dilation).double()
    size, k = conv(x).shape[2:], offset_groups * math.prod(layer.kernel_size)
    return x, torch.randn(2, 2 * k, *size).double().requires_grad_(), torch.rand(2, k, *size).double().requires_grad_()


# ---- DeformConv2d ----


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_equals_torchvisions_layer(options):
    theirs = torchvision.ops.DeformConv2d(4, 6, (3, 2), **options).double()
    ours = DeformConv2d(4, 6, (3, 2), **options).double()
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x, offset, mask = inputs_of(ours)
    for given in ((x, offset), (x, offset, mask)):
        actual, expected = ours(*given), theirs(*given)
        torch.testing.assert_close(actual, expected, **tolerances.FLOAT64)
        assert actual.stride() == expected.stride()
        for a, e in zip(gradients(ours, actual, *given), gradients(theirs, expected, *given), strict=True):
            torch.testing.assert_close(a, e, **tolerances.FLOAT64)
    assert repr(ours) == repr(theirs)


def test_constructor_and_initialization_are_torchvisions():
    layers = DeformConv2d, torchvision.ops.DeformConv2d
    ours, theirs = (inspect.signature(layer).parameters for layer in layers)
    assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]
    states = []
    for layer in layers:
        torch.manual_seed(0)
        states.append(layer(8, 6, 3, groups=2).state_dict())
    assert list(states[0]) == list(states[1]) and all(map(torch.equal, states[0].values(), states[1].values()))


# ---- DeformConv2dPack ----


def mmcv_forward(layer: DeformConv2dPack, x: Tensor) -> Tensor:
    """ModulatedDeformConv2dPack.forward of mmcv 2.2, on torchvision's op."""
    out = layer.conv_offset(x)
    o1, o2, mask = torch.chunk(out, 3, dim=1)
    offset = torch.cat((o1, o2), dim=1)
    geometry = layer.stride, layer.padding, layer.dilation
    return torchvision.ops.deform_conv2d(x, offset, layer.weight, layer.bias, *geometry, torch.sigmoid(mask))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("options", [{**options, "deform_groups": g} for g in (1, 2) for options in GEOMETRIES], ids=str)
def test_equals_mmcvs_layer(options, trained, memory_format):
    torch.manual_seed(0)
    layer = DeformConv2dPack(4, 6, (3, 2), **options).double().to(memory_format=memory_format)
    if trained:  # before, all offsets are zero: samples at the padding lie at exactly -1
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    x = torch.randn(2, 4, 9, 8).double().contiguous(memory_format=memory_format).requires_grad_()
    actual, expected = layer(x), mmcv_forward(layer, x)
    torch.testing.assert_close(actual, expected, **tolerances.FLOAT64)
    assert actual.is_contiguous(memory_format=memory_format)
    for a, e in zip(gradients(layer, actual, x), gradients(layer, expected, x), strict=True):
        torch.testing.assert_close(a, e, **tolerances.FLOAT64)


def test_parameters_are_mmcvs():
    layer = DeformConv2dPack(8, 6, (3, 2), groups=2, deform_groups=4)
    shapes = {name: tuple(t.shape) for name, t in layer.state_dict().items()}
    assert shapes == {
        "weight": (6, 4, 3, 2),
        "bias": (6,),
        "conv_offset.weight": (4 * 3 * 6, 8, 3, 2),
        "conv_offset.bias": (4 * 3 * 6,),
    }
    bound = 1 / math.sqrt(8 * 6)
    assert 0.9 * bound < layer.weight.abs().max() <= bound
    assert not layer.bias.any() and not layer.conv_offset.weight.any() and not layer.conv_offset.bias.any()
    assert list(inspect.signature(DeformConv2dPack).parameters) == [
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "deform_groups",
        "bias",
        "modulated",
    ]


def test_initially_a_convolution_with_half_the_weight():
    layer = DeformConv2dPack(4, 6, 3, padding=1).double()
    x = torch.randn(2, 4, 9, 8).double()
    expected = nn.functional.conv2d(x, layer.weight / 2, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, **tolerances.FLOAT64)


# ---- Both ----


@pytest.mark.parametrize("layer", [DeformConv2d(4, 6, 3, padding=1), DeformConv2dPack(4, 6, 3, padding=1)])
def test_script_compile_and_export(layer, tmp_path):
    layer = copy.deepcopy(layer).double()
    x, offset, mask = (t.detach() for t in inputs_of(layer))
    given = (x, offset, mask) if isinstance(layer, DeformConv2d) else (x,)
    expected = layer(*given)
    torch.jit.script(layer).save(tmp_path / "layer.pt")
    scripted = torch.jit.load(tmp_path / "layer.pt")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(layer, given).module()
    for other in (scripted, compiled, exported):
        torch.testing.assert_close(other(*given), expected, **tolerances.FLOAT64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeformConv2d(5, 6, 3, groups=2), "in_channels: is 5 for groups=2; give"),
        (lambda: DeformConv2d(6, 5, 3, groups=2), "out_channels: is 5 for groups=2; give"),
        (lambda: DeformConv2d(6, 6, 3, groups=0), "in_channels: is 6 for groups=0; give"),
        (lambda: DeformConv2d(0, 0, 3), "in_channels: is 0 for groups=1; give"),
        (lambda: DeformConv2d(-4, 4, 3), "in_channels: is -4 for groups=1; give"),
        (lambda: DeformConv2dPack(6, 6, 3, deform_groups=4), "in_channels: is 6 for deform_groups=4; give"),
    ],
)
def test_groups_that_do_not_divide_are_refused(make, message):
    with pytest.raises(ValueError, match=f"^DeformConv2d(Pack)?/{message}"):
        make()


def test_an_invalid_kernel_size_is_refused():
    with pytest.raises(TypeError, match="^DeformConv2dPack/kernel_size: must be an int or a pair"):
        DeformConv2dPack(4, 4, (3, 3, 3))


def test_import_needs_no_more_than_torch():
    """Neither the codec nor torchvision and triton, which may be missing."""
    code = "import sys, dkic.nn; print([m for m in ('torchvision', 'PIL', 'dkic.models', 'dkic.coding') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
