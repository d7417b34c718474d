"""DCNv3 and DCNv4 of dkic.nn compared with plain PyTorch, in float64."""

import copy

import pytest
import torch
from nn import dcn_reference
from ops import tolerances
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dkic.nn import DCNv3, DCNv4
from dkic.nn.functional import dcnv3, dcnv4

GEOMETRIES = [  # kernel_size, stride, pad, dilation, offset_scale, remove_center
    ((3, 3), (1, 1), (1, 1), (1, 1), 1.0, False),
    ((3, 3), (1, 1), (1, 1), (1, 1), 0.7, True),
    ((3, 2), (2, 1), (1, 0), (2, 1), 1.3, False),
    ((4, 4), (1, 2), (2, 1), (1, 1), 2.0, False),
    ((5, 5), (2, 2), (2, 2), (1, 1), 1.0, True),
]
GROUP, DEPTH = 2, 3


def tensors(geometry, height: int = 9, width: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    kernel, stride, pad, dilation, _, remove_center = geometry
    generator = torch.Generator().manual_seed(0)
    size = [
        (length + 2 * p - d * (k - 1) - 1) // s + 1
        for length, k, s, p, d in zip((height, width), kernel, stride, pad, dilation, strict=True)
    ]
    taps = kernel[0] * kernel[1] - remove_center
    x = torch.randn(2, height, width, GROUP * DEPTH, dtype=torch.float64, generator=generator)
    offset = torch.randn(2, *size, GROUP, taps, 2, dtype=torch.float64, generator=generator)
    mask = torch.randn(2, *size, GROUP, taps, dtype=torch.float64, generator=generator)
    return x.requires_grad_(), offset.requires_grad_(), mask.requires_grad_()


def assert_same_gradients(actual: Tensor, expected: Tensor, inputs) -> None:
    torch.testing.assert_close(actual, expected, **tolerances.FLOAT64)
    along = torch.randn(actual.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pairs = zip(*(torch.autograd.grad(y, inputs, along) for y in (actual, expected)), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, **tolerances.FLOAT64)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("version", [3, 4])
def test_operation_equals_plain_pytorch(version, geometry):
    *sizes, scale, remove_center = geometry
    x, offset, mask = tensors(geometry)
    expected = dcn_reference.aggregation(x, offset, mask, *sizes, GROUP, scale, remove_center)
    options = {"group": GROUP, "offset_scale": scale, "remove_center": remove_center}
    if version == 3:
        actual = dcnv3(x, offset.flatten(3), mask.flatten(3), *sizes, **options)
    else:
        unused = torch.full((*offset.shape[:3], 5), torch.nan, dtype=torch.float64)
        packed = torch.cat([torch.cat([offset.flatten(4), mask], -1).flatten(3), unused], -1)
        actual = dcnv4(x, packed, *sizes, **options)
    assert actual.is_contiguous()
    assert_same_gradients(actual, expected, (x, offset, mask))


@pytest.mark.parametrize("remove_center", [False, True])
def test_operation_compiles_and_exports(remove_center):
    class Model(nn.Module):
        def forward(self, x: Tensor, offset_mask: Tensor) -> Tensor:
            return dcnv4(x, offset_mask, group=2, offset_scale=0.5, remove_center=remove_center)

    inputs = torch.randn(1, 8, 8, 8, dtype=torch.float64), torch.randn(1, 8, 8, 56, dtype=torch.float64)
    expected = Model()(*inputs)
    compiled = torch.compile(Model(), fullgraph=True, backend="aot_eager")
    for other in (compiled, torch.export.export(Model(), inputs).module()):
        torch.testing.assert_close(other(*inputs), expected, **tolerances.FLOAT64)


def test_a_removed_center_is_not_sampled():
    x, offset, mask = torch.randn(1, 9, 9, 4), torch.zeros(1, 9, 9, 2 * 8 * 2), torch.ones(1, 9, 9, 2 * 8)
    x[0, 4, 4] = torch.nan
    y = dcnv3(x, offset, mask, pad=3, dilation=3, group=2, remove_center=True)
    assert not y[0, 4, 4].isnan().any()
    assert y[0, 4, 1].isnan().all()


V3_OPTIONS = [
    {},
    {"kernel_size": 5, "pad": 2, "dw_kernel_size": 3, "offset_scale": 1.3, "norm_layer": "BN", "act_layer": "SiLU"},
    {"remove_center": True, "center_feature_scale": True, "offset_scale": 0.5},
    {"dilation": 2, "pad": 2, "remove_center": True, "act_layer": "ReLU"},
]
V4_OPTIONS = [
    {},
    {"kernel_size": 5, "pad": 2, "dw_kernel_size": 3, "offset_scale": 1.3, "output_bias": False},
    {"remove_center": True, "center_feature_scale": True, "offset_scale": 0.5},
    {"dilation": 2, "pad": 2, "remove_center": True, "without_pointwise": True},
]


def trained(module: nn.Module) -> nn.Module:
    """In float64, with random numbers in the place of zeros, so that offsets, masks and gates vary."""
    generator = torch.Generator().manual_seed(0)
    module = module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, dtype=torch.float64, generator=generator) * 0.3)
    return module


def assert_same_module(module: nn.Module, actual: Tensor, expected: Tensor, x: Tensor) -> None:
    used = [p for p in module.parameters() if p.requires_grad]
    assert_same_gradients(actual, expected, [x, *used])


@pytest.mark.parametrize("options", V3_OPTIONS, ids=str)
def test_dcnv3_equals_plain_pytorch(options):
    module = trained(DCNv3(12, group=3, **options)).eval()
    x = torch.randn(2, 8, 7, 12, dtype=torch.float64, requires_grad=True)
    assert_same_module(module, module(x), dcn_reference.dcnv3(module, x), x)


@pytest.mark.parametrize("options", V4_OPTIONS, ids=str)
def test_dcnv4_equals_plain_pytorch(options):
    module = trained(DCNv4(12, group=3, **options))
    x = torch.randn(2, 56, 12, dtype=torch.float64, requires_grad=True)
    assert_same_module(module, module(x, (8, 7)), dcn_reference.dcnv4(module, x, (8, 7)), x)


def test_dcnv4_of_a_square_image_needs_no_shape():
    module = trained(DCNv4(16, group=1))
    x = torch.randn(1, 49, 16, dtype=torch.float64)
    assert torch.equal(module(x), module(x, (7, 7)))


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("make", [lambda: DCNv3(8, group=2, remove_center=True), lambda: DCNv4(8, group=2)])
def test_a_module_of_the_meta_device_loads(make, assign):
    module = trained(make()).float()
    with torch.device("meta"):
        loaded = make()
    if not assign:
        loaded.to_empty(device="cpu")
    loaded.load_state_dict(module.state_dict(), assign=assign)
    loaded.to("cpu")
    x = torch.randn(1, 9, 8) if isinstance(module, DCNv4) else torch.randn(1, 3, 3, 8)
    with torch.inference_mode():
        loaded(x)
    y = loaded(x)
    torch.testing.assert_close(y, module(x), rtol=0, atol=0)
    y.sum().backward()


def test_a_module_made_in_inference_mode_converts():
    with torch.inference_mode():
        module = DCNv3(8, group=2)
    assert module.double().order.constant("offset_rows", torch.device("cpu")).dtype == torch.int64


def test_state_dicts_are_the_published_ones():
    v3 = DCNv3(16, group=2, center_feature_scale=True).state_dict()
    assert {name: tuple(t.shape) for name, t in v3.items()} == {
        "dw_conv.0.weight": (16, 1, 3, 3),
        "dw_conv.0.bias": (16,),
        "dw_conv.1.1.weight": (16,),
        "dw_conv.1.1.bias": (16,),
        "offset.weight": (36, 16),
        "offset.bias": (36,),
        "mask.weight": (18, 16),
        "mask.bias": (18,),
        "input_proj.weight": (16, 16),
        "input_proj.bias": (16,),
        "output_proj.weight": (16, 16),
        "output_proj.bias": (16,),
        "center_feature_scale_proj_weight": (2, 16),
        "center_feature_scale_proj_bias": (2,),
    }
    assert "dw_conv.1.0.running_mean" in DCNv3(16, group=2, norm_layer="BN").state_dict()
    v4 = DCNv4(16, group=2, dw_kernel_size=5, remove_center=True, output_bias=False).state_dict()
    assert {name: tuple(t.shape) for name, t in v4.items()} == {
        "offset_mask_dw.weight": (16, 1, 5, 5),
        "offset_mask_dw.bias": (16,),
        "offset_mask.weight": (48, 16),
        "offset_mask.bias": (48,),  # 2 groups of 8 taps of 3, a multiple of 8
        "value_proj.weight": (16, 16),
        "value_proj.bias": (16,),
        "output_proj.weight": (16, 16),
    }
    assert DCNv4(16, group=1).offset_mask.out_features == 32  # 27, padded to a multiple of 8


_COPIES = "clone", "copy_", "_to_copy", "contiguous", "index", "index_select", "cat"


class LayoutRecorder(TorchDispatchMode):
    """Records the copies of tensors as large as an image, and the strides of channels that ldcn reads and writes."""

    def __init__(self, image: int) -> None:
        super().__init__()
        self.image, self.copies, self.channel_strides = image, [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if name in _COPIES and result.numel() >= self.image:
            self.copies.append(name)
        if name == "ldcn":
            self.channel_strides += [t.stride(1) for t in (*args[:3], result)]
        return result


@pytest.mark.parametrize("make", [lambda: DCNv3(16, group=2, offset_scale=0.5), lambda: DCNv4(16, group=2, remove_center=True)])
def test_modules_copy_no_activation(make):
    module, x = make(), torch.randn(2, 8, 8, 16)
    with torch.no_grad(), LayoutRecorder(x.numel()) as recorder:
        module(x if isinstance(module, DCNv3) else x.flatten(1, 2))
    assert recorder.copies == [] and recorder.channel_strides == [1] * 4


@pytest.mark.parametrize("make", [lambda: DCNv3(16, group=2, remove_center=True), lambda: DCNv4(16, group=2, dw_kernel_size=3)])
def test_compile_export_and_autocast(make):
    module = trained(make())
    x = torch.randn(2, 8, 8, 16, dtype=torch.float64)
    x = x if isinstance(module, DCNv3) else x.flatten(1, 2)
    expected = module(x)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(module, (x,)).module()
    for other in (compiled, exported, copy.deepcopy(module)):
        torch.testing.assert_close(other(x), expected, **tolerances.FLOAT64)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = module.float()(x.float())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.double(), expected, rtol=0.1, atol=0.1 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DCNv3(10, group=4), "DCNv3/channels: is 10 for group=4; give"),
        (lambda: DCNv4(10, group=4), "DCNv4/channels: is 10 for group=4; give"),
        (lambda: DCNv3(8, stride=2), "DCNv3: stride=2 and pad=1 .* give stride=1 .* dkic.nn.functional.dcnv3"),
        (lambda: DCNv4(8, pad=2), "DCNv4: stride=1 and pad=2 .* give stride=1 .* dkic.nn.functional.dcnv4"),
        (lambda: DCNv4(8, kernel_size=4, dilation=2, pad=3, remove_center=True), "DCNv4/remove_center: .* give a square kernel"),
        (lambda: DCNv3(8, norm_layer="GN"), "DCNv3/norm_layer: is 'GN'; give LN or BN"),
        (lambda: DCNv3(8, act_layer="Tanh"), "DCNv3/act_layer: is 'Tanh'; give one of ReLU, SiLU, GELU"),
        (lambda: DCNv3(8)(torch.ones(1, 8, 4, 4)), r"DCNv3/input: has shape \[1, 8, 4, 4\]; give \[N, H, W, 8\]"),
        (lambda: DCNv4(8)(torch.ones(1, 8, 4)), r"DCNv4/input: has shape \[1, 8, 4\]; give \[N, H\*W, 8\]"),
        (lambda: DCNv4(8)(torch.ones(1, 6, 8)), r"DCNv4/shape: is None.*; give \(H, W\) with H\*W = 6"),
        (lambda: DCNv4(8)(torch.ones(1, 6, 8), (2, 2)), r"DCNv4/shape: is \(2, 2\); give \(H, W\) with H\*W = 6"),
        (lambda: dcnv4(torch.ones(1, 4, 4, 8), torch.ones(1, 4, 4, 100)), "dcnv4/offset_mask: .* give at least 108"),
        (lambda: dcnv3(torch.ones(1, 4, 4, 8), torch.ones(1, 4, 4, 72), torch.ones(1, 4, 4, 9)), "dcnv3/mask: .* give 36"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
