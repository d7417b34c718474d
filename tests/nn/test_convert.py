"""dkic.nn.convert on torchvision's module, and on classes made like mmcv's and InternImage's."""

import pytest
import torch
import torchvision
from nn import dcn_reference
from ops import tolerances
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from dkic.nn import DCNv3, DCNv4, DeformConv2d, DeformConv2dPack, convert


def class_named(name: str, module: str, base: type = nn.Module) -> type:
    """A class as another package has it."""
    return type(name, (base,), {"__module__": module})


def mmcv_module(name: str, modulated: bool, pack: bool) -> nn.Module:
    """The attributes and parameters of a class of mmcv 2.2, of 4 input and 6 output channels."""
    m = class_named(name, "mmcv.ops.deform_conv")()
    m.in_channels, m.out_channels, m.kernel_size, m.stride, m.padding = 4, 6, (3, 2), (2, 1), (1, 0)
    m.dilation, m.groups, m.deform_groups = (1, 2), 2, 2
    m.weight = nn.Parameter(torch.randn(6, 2, 3, 2))
    if modulated:
        m.bias = nn.Parameter(torch.randn(6))
    if pack:
        m.conv_offset = nn.Conv2d(4, 2 * 6 * (3 if modulated else 2), (3, 2), (2, 1), (1, 0), (1, 2))
    return m.double()


def geometry(m) -> tuple:
    return m.stride, m.padding, m.dilation


def test_torchvisions_layer_in_a_model():
    theirs = torchvision.ops.DeformConv2d(4, 6, 3, padding=1, groups=2).double().eval()
    shared = nn.Sequential(theirs, nn.ModuleDict({"again": theirs}))
    x, offset = torch.randn(1, 4, 8, 8).double(), torch.randn(1, 18, 8, 8).double()
    expected = theirs(x, offset)
    seed = torch.random.get_rng_state()
    assert convert(shared) is shared
    assert torch.equal(seed, torch.random.get_rng_state())
    ours = shared[0]
    assert type(ours) is DeformConv2d and shared[1]["again"] is ours
    assert ours.weight is theirs.weight and not ours.training
    torch.testing.assert_close(ours(x, offset), expected, **tolerances.FLOAT64)


@pytest.mark.parametrize("modulated", [False, True])
def test_mmcvs_layers_with_given_offsets(modulated):
    theirs = mmcv_module("ModulatedDeformConv2d" if modulated else "DeformConv2d", modulated, pack=False)
    x, offset = torch.randn(1, 4, 8, 9).double(), torch.randn(1, 24, 4, 7).double()
    given = (x, offset, torch.rand(1, 12, 4, 7).double()) if modulated else (x, offset)
    bias = theirs.bias if modulated else None
    expected = torchvision.ops.deform_conv2d(x, offset, theirs.weight, bias, *geometry(theirs), *given[2:])
    ours = convert(theirs)
    assert type(ours) is DeformConv2d
    torch.testing.assert_close(ours(*given), expected, **tolerances.FLOAT64)


@pytest.mark.parametrize("modulated", [False, True])
def test_mmcvs_layers_that_predict_offsets(modulated):
    theirs = mmcv_module("ModulatedDeformConv2dPack" if modulated else "DeformConv2dPack", modulated, pack=True)
    x = torch.randn(1, 4, 8, 9).double()
    predicted = theirs.conv_offset(x)
    offset, mask = (predicted[:, :24], predicted[:, 24:].sigmoid()) if modulated else (predicted, None)
    bias = theirs.bias if modulated else None
    expected = torchvision.ops.deform_conv2d(x, offset, theirs.weight, bias, *geometry(theirs), mask)
    ours = convert(theirs)
    assert type(ours) is DeformConv2dPack and ours.modulated == modulated
    torch.testing.assert_close(ours(x), expected, **tolerances.FLOAT64)


@pytest.mark.parametrize("name", ["DCNv3", "DCNv3_pytorch"])
@pytest.mark.parametrize("norm_layer", ["LN", "BN"])
def test_internimages_layer(name, norm_layer):
    theirs = class_named(name, "ops_dcnv3.modules.dcnv3", DCNv3)(
        16, group=2, norm_layer=norm_layer, act_layer="SiLU", dw_kernel_size=5, remove_center=True, center_feature_scale=True
    ).double()
    theirs.dw_kernel_size, theirs.remove_center = 5, 1
    nn.init.normal_(theirs.offset.weight)
    theirs.eval()
    x = torch.randn(1, 6, 5, 16).double()
    ours = convert(theirs)
    assert type(ours) is DCNv3
    torch.testing.assert_close(ours(x), dcn_reference.dcnv3(theirs, x), **tolerances.FLOAT64)


@pytest.mark.parametrize("without_pointwise", [False, True])
def test_flashinternimages_layer(without_pointwise):
    options = {"without_pointwise": without_pointwise, "output_bias": without_pointwise}
    theirs = class_named("DCNv4", "DCNv4.modules.dcnv4", DCNv4)(16, group=2, offset_scale=0.5, **options).double()
    theirs.dw_kernel_size = None
    nn.init.normal_(theirs.offset_mask.weight)
    x = torch.randn(1, 30, 16).double()
    ours = convert(theirs)
    assert type(ours) is DCNv4
    torch.testing.assert_close(ours(x, (6, 5)), dcn_reference.dcnv4(theirs, x, (6, 5)), **tolerances.FLOAT64)


def test_a_module_that_cannot_be_converted_is_named():
    other = class_named("DCNv4", "somebody")()
    other.weight = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match=r"^convert/model: block\.0 \(somebody\.DCNv4\) can't be converted \(.*channels"):
        convert(nn.ModuleDict({"block": nn.Sequential(other)}))


def test_only_a_module_is_converted():
    with pytest.raises(TypeError, match="^convert/model: must be a torch.nn.Module, and is a int"):
        convert(3)


@pytest.mark.parametrize("tensor", ["weight", "conv_offset"])
def test_a_parametrized_layer_is_named_and_the_model_is_unchanged(tensor):
    pack = mmcv_module("ModulatedDeformConv2dPack", modulated=True, pack=True)
    weight_norm(pack if tensor == "weight" else pack.conv_offset)
    model = nn.Sequential(torchvision.ops.DeformConv2d(4, 6, 3), pack)
    before = list(model)
    with pytest.raises(ValueError, match=r"^convert/model: 1 \(.*ModulatedDeformConv2dPack\).*parametrizes weight.*; call "):
        convert(model)
    assert list(model) == before


def test_hooks_are_kept_and_their_handles_remain_valid():
    theirs = mmcv_module("ModulatedDeformConv2dPack", modulated=True, pack=True)
    seen = []
    handles = [
        theirs.register_forward_hook(lambda *_: seen.append("forward")),
        theirs.register_forward_pre_hook(lambda *_, **__: seen.append("pre"), with_kwargs=False),
        theirs.register_full_backward_hook(lambda *_: seen.append("backward")),
        theirs.conv_offset.register_forward_hook(lambda *_: seen.append("inner")),
    ]
    ours = convert(nn.Sequential(theirs))[0]
    x = torch.randn(1, 4, 8, 9, requires_grad=True, dtype=torch.float64)
    ours(x).sum().backward()
    assert type(ours) is DeformConv2dPack and seen == ["pre", "inner", "forward", "backward"]
    for handle in handles:
        handle.remove()
    seen.clear()
    ours(x)
    assert seen == []


def test_other_modules_are_kept():
    ours = DeformConv2dPack(4, 4, 3)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), ours, class_named("DeformConv2d", "mine")())
    before = list(model)
    assert convert(model) is model and list(model) == before
