"""Exported models in ONNX Runtime compared with the models."""

import onnx
import onnxruntime
import pytest
import torch
from ops import op_cases
from torch import Tensor, nn

import dkic.onnx
from dkic.nn import DCNv3, DCNv4, DeformConv2dPack
from dkic.ops import deform_conv2d, ldcn

DYNAMIC = torch.export.Dim.DYNAMIC
CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # float32 sums in another order, of a few hundred products near 1


class Ldcn(nn.Module):
    def __init__(self, **geometry) -> None:
        super().__init__()
        self.geometry = geometry

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        return ldcn(x, offset, mask, **self.geometry)


class DeformConv(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor | None, **geometry) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias if bias is None else nn.Parameter(bias)
        self.geometry = geometry

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        return deform_conv2d(x, offset, self.weight, self.bias, mask=mask, **self.geometry)


def exported(model: nn.Module, inputs: tuple, dynamic_shapes=None, opset_version: int = 20) -> onnx.ModelProto:
    program = torch.onnx.export(
        model.eval(),
        inputs,
        dynamo=True,
        verbose=False,
        opset_version=opset_version,
        dynamic_shapes=dynamic_shapes,
        custom_translation_table=dkic.onnx.translation_table(),
    )
    onnx.checker.check_model(program.model_proto, full_check=True)
    return program.model_proto


def run(model: onnx.ModelProto, *inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [i.name for i in session.get_inputs()]
    return torch.from_numpy(session.run(None, {n: t.numpy() for n, t in zip(names, inputs, strict=True)})[0])


def assert_agrees(model: nn.Module, exported_model: onnx.ModelProto, *inputs: Tensor, **tolerance) -> None:
    with torch.no_grad():
        expected = model(*inputs)
    actual = run(exported_model, *inputs)
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected, **(tolerance or CLOSE))


def given(*tensors: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(t for t in tensors if t is not None)


@pytest.mark.parametrize("case", op_cases.LDCN_FEW, ids=str)
def test_ldcn(case):
    model, inputs = Ldcn(**case.geometry), given(*case.tensors(torch.float32))
    assert_agrees(model, exported(model, inputs), *inputs)


CONVS = [op_cases.PLAIN_CONV, op_cases.TORCHVISION_CONV]
CONVS += [c for c in op_cases.DEFORM_CONV2D_CASES if c.name in ("no mask, no bias", "torchvision's test, no bias")]


@pytest.mark.parametrize("case", CONVS, ids=str)
def test_deform_conv2d(case):
    x, offset, weight, bias, mask = case.tensors(torch.float32)
    model, inputs = DeformConv(weight, bias, **case.geometry), given(x, offset, mask)
    assert_agrees(model, exported(model, inputs), *inputs)


@pytest.mark.parametrize("opset_version", [19, 22])
def test_batch_height_and_width_may_be_dynamic(opset_version):
    model = Ldcn()
    axes = {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC}

    def inputs(n: int, h: int, w: int) -> tuple[Tensor, ...]:
        return torch.randn(n, 6, h, w), torch.randn(n, 2 * 18, h, w) * 3, torch.randn(n, 18, h, w)

    proto = exported(model, inputs(2, 8, 9), (axes,) * 3, opset_version)
    assert proto.opset_import[0].version == opset_version
    for size in ((2, 8, 9), (1, 5, 13), (3, 17, 4)):
        assert_agrees(model, proto, *inputs(*size))


def test_dtypes():
    """float64 is kept; half precision is rounded once, at the end, and its positions may be float32."""
    x, offset, mask = op_cases.PLAIN.tensors(torch.float64)
    model = Ldcn(**op_cases.PLAIN.geometry)
    assert_agrees(model, exported(model, (x, offset, mask)), x, offset, mask, rtol=1e-12, atol=1e-12)
    inputs = x.half(), offset.float(), mask.float()
    assert_agrees(model, exported(model, inputs), *inputs, rtol=2**-10, atol=2**-10)


def test_samples_outside_and_at_the_border():
    """Positions exactly at -1 and at the size, beyond them, and infinite."""
    x = torch.randn(1, 2, 4, 5)
    offset = torch.zeros(1, 2 * 9 * 2, 4, 5)
    positions = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 4.0, 5.0, 1e6, torch.inf, -torch.inf])
    offset.view(-1).copy_(positions.repeat(offset.numel() // len(positions) + 1)[: offset.numel()])
    assert_agrees(Ldcn(), exported(Ldcn(), (x, offset)), x, offset)


def randomized(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator) * 0.3
    return model


@pytest.mark.parametrize("remove_center", [False, True])
def test_layers(remove_center):
    image = torch.randn(2, 16, 8, 7)
    for model, x, axes in (
        (DeformConv2dPack(16, 8, 3, padding=1, deform_groups=2), image, (0, 2, 3)),
        (DCNv3(16, group=2, remove_center=remove_center, center_feature_scale=True), image.permute(0, 2, 3, 1), (0, 1, 2)),
        (DCNv4(16, group=2, remove_center=remove_center, offset_scale=0.5), image.flatten(2).transpose(1, 2)[:, :49], (0,)),
    ):
        proto = exported(randomized(model), (x,), (dict.fromkeys(axes, DYNAMIC),))
        assert {node.domain for node in proto.graph.node} == {""}
        assert_agrees(model, proto, x)
        assert_agrees(model, proto, x[:1])


def test_dynamic_channels_are_refused():
    x, offset, _ = op_cases.PLAIN.tensors(torch.float32)
    with pytest.raises(torch.onnx.OnnxExporterError) as caught:
        exported(Ldcn(), (x, offset), ({1: DYNAMIC}, {}))
    causes, error = [], caught.value
    while error is not None:
        causes.append(error)
        error = error.__cause__
    assert isinstance(causes[-1], ValueError) and "x has a dynamic number of channels" in str(causes[-1])


def test_without_onnxscript(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"\.\[onnx\]"):
        dkic.onnx.translation_table()
