"""The codec's quantized networks as ONNX models of integer operators, for `dkic.codec_onnx`. Needs the extra `onnx`.

Every tensor is exact, so every runtime computes the numbers of dkic:

* A convolution is ConvInteger: uint8 times uint8 with int32 sums. Weights have the zero point 128. int8 weights would be wrong in
  ONNX Runtime on x86 without VNNI, whose kernel adds pairs of products in saturating int16. Activations are in -255 ... 255;
  where they can be negative, their positive and negative parts are convolved separately.
* Requantization is one float32 multiplication, Round (half to even) and Clip. The int32 sum is converted to float32 once.
* An LDCN block is DeformConv in float32, whose products and sums are multiples of 1/64 below 2^18 (see `QuantizedLDCNBlock`).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from dkic.entropy.quantization import MEAN_STEPS, SCALE_INDEX_MAX
from dkic.models.codec_network import CodecNetwork
from dkic.models.dkic import DKIC
from dkic.models.slice_context import INDEX_START, PASSES, Cells, PassContext, SliceContext
from dkic.quantized import ACTIVATION_MAX, ActivationScale, LatentInput, QuantizedConv2d, QuantizedLDCNBlock
from dkic.quantized.ldcn_block import LOGIT_MAX, OFFSET_MAX, OFFSET_UNITS

_IR_VERSION = 10  # of opset 20 and 21
_WEIGHT_ZERO = 128


class EntropyModel(NamedTuple):
    """A model to write.

    Attributes:
        name: of its file, without a suffix.
        inputs, outputs: names of its tensors, with their shapes as text.
        model: the ONNX model.
    """

    name: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    model: onnx.ModelProto


def entropy_models(network: CodecNetwork, quality: Tensor | None, opset: int) -> Iterator[EntropyModel]:
    """Models of the hyper-synthesis, of each slice's features, and of each pass of a slice.

    In place of the hyper-synthesis a variable-rate network has a model of constants: the features of the quality, and the
    quantizer's size and offset of each channel.

    Args:
        network: converted; see `dkic.quantized.convert`.
        quality: `[1]`, of a variable-rate network.
        opset: at least 19.
    """
    context = network.context
    graph = _Graph(opset)
    if isinstance(network, DKIC):
        features = network.config.hyper_features
        z = graph.input("z_hat", network.config.hyper_channels, "h/4", "w/4")
        t = _Activations(graph.clip(z, -ACTIVATION_MAX, ACTIVATION_MAX), nonnegative=False)
        graph.output("features", graph.sequence(t, network.h_s.layers()).name, features, "h", "w")
        yield graph.model("hyper_synthesis")
    else:
        shape = graph.input_shape("shape")
        vector = network.features(None, quality, (1, 1))
        features = vector.shape[1]
        graph.output("features", graph.node("Expand", graph.constant(vector), shape), features, "h", "w")
        for name, value in network.quantizer(quality)._asdict().items():
            graph.constant_output(name, cast(Tensor, value).float())
        yield graph.model("features")
    earlier = 0
    for number, spec in enumerate(context.specs):
        yield _slice_features(context, number, earlier, features, _Graph(opset))
        for index, cells in enumerate(PASSES[spec.passes]):
            yield _pass(context, number, index, cells, _Graph(opset))
        earlier += spec.channels


def _slice_features(context: SliceContext, number: int, earlier: int, features: int, graph: "_Graph") -> EntropyModel:
    t = graph.input("features", features, "h", "w")
    if number:
        latent_inputs = list(context.entries)[:number]
        t = graph.node("Concat", t, graph.latent(graph.input("y_hat", earlier, "h", "w"), latent_inputs), axis=1)
    layers = cast(nn.Sequential, context.features[number])
    graph.output("slice_features", graph.sequence(_Activations(t, nonnegative=False), layers).name, _width(context), "h", "w")
    return graph.model(f"slice_{number + 1}")


def _pass(context: SliceContext, number: int, index: int, cells: Cells, graph: "_Graph") -> EntropyModel:
    spec, layers = context.specs[number], cast(PassContext, cast(nn.ModuleList, context.passes[number])[index])
    features = graph.input("slice_features", _width(context), "h", "w")
    t = graph.cells(features, cells)
    if layers.spatial is not None:
        known = graph.latent(graph.input("y_hat", spec.channels, "h", "w"), [context.entries[number]])
        # With a stride of 2, the padding selects the cell.
        paddings = [(2 - i, 2 - j, i + 1, j + 1) for i, j in cells]
        found = [graph.convolution(_Activations(known, False), layers.spatial, padding).name for padding in paddings]
        t = graph.node("Add", t, graph.node("Concat", *found, axis=2))
    t = graph.clip(t, -ACTIVATION_MAX, ACTIVATION_MAX)
    results = graph.sequence(_Activations(t, nonnegative=False), layers.parameters_of).name
    mean, scale = graph.split(results, spec.channels)
    shape = spec.channels, {1: "h/2", 2: "h", 4: "2h"}[len(cells)], "w/2"
    graph.output("mean", graph.node("Mul", mean, graph.scalar(1 / MEAN_STEPS)), *shape)
    scale = graph.clip(graph.node("Add", scale, graph.scalar(INDEX_START)), 0, SCALE_INDEX_MAX)
    graph.output("scale_index", scale, *shape)
    return graph.model(f"slice_{number + 1}_pass_{index + 1}")


def _width(context: SliceContext) -> int:
    """Channels of a slice's features."""
    return cast(ActivationScale, context.hidden_scales[0]).channels


class _Activations(NamedTuple):
    """Integers of -255 ... 255 in a float32 tensor. nonnegative: 0 ... 255."""

    name: str
    nonnegative: bool


class _Graph:
    """An ONNX graph in the making. Tensors are names."""

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._shapes: dict[str, str] = {}

    def input(self, name: str, *shape: int | str) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]))
        self._shapes[name] = _text(shape)
        return name

    def input_shape(self, name: str) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, [4]))
        self._shapes[name] = "[4], int64: the shape of the features"
        return name

    def output(self, name: str, tensor: str, *shape: int | str) -> None:
        self._nodes.append(helper.make_node("Identity", [tensor], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]))
        self._shapes[name] = _text(shape)

    def constant_output(self, name: str, value: Tensor) -> None:
        self._nodes.append(helper.make_node("Identity", [self.constant(value)], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape))
        self._shapes[name] = f"[{', '.join(map(str, value.shape))}]"

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def constant(self, value: Tensor | np.ndarray) -> str:
        array = np.ascontiguousarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)
        self._constants.append(numpy_helper.from_array(array, f"c{len(self._constants)}"))
        return self._constants[-1].name

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def clip(self, t: str, low: float, high: float) -> str:
        return self.node("Clip", t, self.scalar(low), self.scalar(high))

    def cast(self, t: str, to: int) -> str:
        return self.node("Cast", t, to=to)

    def split(self, t: str, channels: int) -> tuple[str, str]:
        """The first channels, and the others."""
        axis, ends = self._integers(1), self._integers(channels)
        first = self.node("Slice", t, self._integers(0), ends, axis)
        return first, self.node("Slice", t, ends, self._integers(2**31), axis)

    def cells(self, t: str, cells: Cells) -> str:
        """See `take_cells`."""
        ends, axes, steps = self._integers(2**31, 2**31), self._integers(2, 3), self._integers(2, 2)
        return self.node("Concat", *(self.node("Slice", t, self._integers(*cell), ends, axes, steps) for cell in cells), axis=2)

    def requantize(self, t: str, multiplier: Tensor, low: int, high: int) -> str:
        """t: float32 integers."""
        return self.clip(self.node("Round", self.node("Mul", t, self.constant(multiplier.view(-1, 1, 1)))), low, high)

    def latent(self, t: str, inputs: Sequence[nn.Module]) -> str:
        """Activations of a latent, of which each of the inputs has some channels."""
        multiplier = torch.cat([one.multiplier for one in inputs if isinstance(one, LatentInput)])
        units = self.node("Round", self.node("Mul", t, self.scalar(MEAN_STEPS)))
        return self.requantize(units, multiplier, -ACTIVATION_MAX, ACTIVATION_MAX)

    def sequence(self, t: _Activations, layers: Iterable[nn.Module]) -> _Activations:
        for layer in layers:
            match layer:
                case nn.Sequential():
                    t = self.sequence(t, layer)
                case QuantizedConv2d():
                    t = self.convolution(t, layer)
                case QuantizedLDCNBlock():
                    t = self.ldcn_block(t, layer)
                case nn.PixelShuffle():
                    name = self.node("DepthToSpace", t.name, blocksize=layer.upscale_factor, mode="CRD")
                    t = _Activations(name, t.nonnegative)
                case nn.ReLU():
                    t = _Activations(self.node("Relu", t.name), nonnegative=True)
                case nn.Identity():
                    pass
                case _:
                    raise TypeError(
                        f"entropy_onnx: {type(layer).__name__} has no translation to ONNX; use the layers of dkic.quantized"
                    )
        return t

    def convolution(self, t: _Activations, layer: nn.Module, padding: Sequence[int] | None = None) -> _Activations:
        """padding: top, left, bottom, right; None: the layer's."""
        assert isinstance(layer, QuantizedConv2d)
        if layer.slope is not None or layer.upscale > 1:
            raise TypeError(
                "entropy_onnx: QuantizedConv2d has no translation to ONNX with negative_slope or upscale; set neither"
            )
        weight = self.constant((layer.weight.int() + _WEIGHT_ZERO).to(torch.uint8))
        zero = self.constant(np.array(_WEIGHT_ZERO, np.uint8))
        pads = list(padding or (int(layer.padding[0]),) * 4)

        def sums(part: str) -> str:
            part = self.cast(self.node("Relu", part), TensorProto.UINT8)
            strides = list(layer.stride)
            return self.node("ConvInteger", part, weight, "", zero, pads=pads, strides=strides, group=layer.groups)

        total = sums(t.name)
        if not t.nonnegative:
            total = self.node("Sub", total, sums(self.node("Neg", t.name)))
        total = self.node("Add", total, self.constant(layer.bias.view(-1, 1, 1)))
        units = self.requantize(self.cast(total, TensorProto.FLOAT), layer.multiplier, layer.low, layer.high)
        return _Activations(units, nonnegative=layer.low == 0)

    def ldcn_block(self, x: _Activations, block: QuantizedLDCNBlock) -> _Activations:
        value = self.convolution(x, block.value).name
        numbers = self.convolution(self.convolution(x, block.depthwise), block.offset_mask).name
        offset, logits = self.split(numbers, 2 * block.taps)
        offset = self.node("Mul", self.clip(offset, -OFFSET_MAX, OFFSET_MAX), self.scalar(1 / OFFSET_UNITS))
        rows = self.cast(self.node("Add", logits, self.scalar(LOGIT_MAX)), TensorProto.INT64)
        mask = self.node("Gather", self.constant(block.mask_table.float()), rows)
        channels, k = block.value.out_channels, block.kernel_size
        total = self.node(
            "DeformConv",
            value,
            self.constant(np.ones((channels, 1, k, k), np.float32)),
            offset,
            "",
            mask,
            group=channels,
            kernel_shape=[k, k],
            offset_group=block.taps // k**2,
            pads=[k // 2] * 4,
        )
        total = self.node("Mul", total, self.scalar(OFFSET_UNITS**2))
        units = self.requantize(total, block.aggregate_multiplier, -ACTIVATION_MAX, ACTIVATION_MAX)
        y = self.convolution(_Activations(units, nonnegative=False), block.project).name
        return _Activations(self.clip(self.node("Add", x.name, y), -ACTIVATION_MAX, ACTIVATION_MAX), nonnegative=False)

    def model(self, name: str) -> EntropyModel:
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._constants)
        opset = [helper.make_opsetid("", self._opset)]
        model = helper.make_model(graph, producer_name="dkic", opset_imports=opset, ir_version=_IR_VERSION)
        inputs, outputs = ({t.name: self._shapes[t.name] for t in tensors} for tensors in (self._inputs, self._outputs))
        return EntropyModel(name, inputs, outputs, model)

    def _integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))


def _text(shape: Sequence[int | str]) -> str:
    return f"[N, {', '.join(map(str, shape))}]"
