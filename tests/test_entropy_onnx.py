"""The quantized networks in ONNX Runtime: the same numbers as dkic's, not nearly so."""

import onnx
import onnxruntime
import pytest
import torch
from models import variable_rate_models
from quantized import quantized_models
from torch import Tensor
from trained_weights import THREE_QUALITIES

from dkic.entropy_onnx import EntropyModel, entropy_models
from dkic.hub import find_weights
from dkic.models.codec_network import CodecNetwork
from dkic.models.slice_context import take_cells
from dkic.models.weights_file import load_weights
from dkic.quantized import QuantizedConv2d


def run(model: EntropyModel, **tensors: Tensor) -> list[Tensor]:
    assert list(model.inputs) == list(tensors)
    session = onnxruntime.InferenceSession(model.model.SerializeToString())
    return [torch.from_numpy(t) for t in session.run(None, {name: t.contiguous().numpy() for name, t in tensors.items()})]


def trained() -> CodecNetwork:
    return load_weights(find_weights(THREE_QUALITIES)[1]).model


@pytest.mark.parametrize(
    ("network", "quality"),
    [(trained, None), (quantized_models.converted, None), (variable_rate_models.converted, torch.tensor([37.0]))],
    ids=["tiny", "small numbers of channels", "variable rate"],
)
@pytest.mark.parametrize("spread", [3, 3000], ids=["as of images", "beyond the scales"])
@torch.no_grad()
def test_every_pass_is_the_same(network, quality, spread):
    network = network()
    models = {model.name: model for model in entropy_models(network, quality, opset=20)}
    for model in models.values():
        onnx.checker.check_model(model.model, full_check=True)
    generator = torch.Generator().manual_seed(0)
    n, h, w = 2, 8, 12
    y = spread * torch.randn(n, network.context.latent_channels, h, w, generator=generator)
    if quality is None:
        z_hat = (spread * torch.randn(n, network.config.hyper_channels, h // 4, w // 4, generator=generator)).round()
        features = network.features(z_hat, None, (h, w))
        (found,) = run(models.pop("hyper_synthesis"), z_hat=z_hat)
    else:
        features = network.features(None, quality, (h, w)).expand(n, -1, -1, -1)
        found, size, offset = run(models.pop("features"), shape=torch.tensor(features.shape))
        assert torch.equal(size, network.quantizer(quality).size) and torch.equal(offset, network.quantizer(quality).offset)
        assert size.unique().numel() > 2
    assert torch.equal(found, features) and features.unique().numel() > 2

    known, means = torch.zeros_like(y), []
    passes = iter(network.context.coding_passes(features))
    for number, spec in enumerate(network.context.specs, 1):
        start = sum(spec.channels for spec in network.context.specs[: number - 1])
        (of_slice,) = run(models.pop(f"slice_{number}"), features=features, **({"y_hat": known[:, :start]} if number > 1 else {}))
        for index in range(1, spec.passes + 1):
            part = next(passes)
            decoded = {"y_hat": known[:, part.channels]} if index > 1 else {}
            mean, scale_index = run(models.pop(f"slice_{number}_pass_{index}"), slice_features=of_slice, **decoded)
            assert torch.equal(mean, part.mean) and torch.equal(scale_index, part.scale_index), (number, index)
            part.y_hat = (take_cells(y[:, part.channels], part.cells) - mean).round() + mean
            for (i, j), t in zip(part.cells, part.y_hat.chunk(len(part.cells), dim=2), strict=True):
                known[:, part.channels, i::2, j::2] = t
            means.append(mean.flatten())
    assert not models and torch.cat(means).unique().numel() > 10


def test_convolutions_are_integer_operators():
    network = quantized_models.converted()
    of_network = sum(isinstance(layer, QuantizedConv2d) for layer in network.modules())
    nodes = [node for model in entropy_models(network, None, opset=20) for node in model.model.graph.node]
    operators = [node.op_type for node in nodes]
    assert operators.count("ConvInteger") >= of_network and not {"Conv", "MatMul", "Gemm"} & {*operators}


def test_layers_without_a_translation_are_refused():
    network = quantized_models.converted()
    network.context.features[0].append(torch.nn.GELU())
    with pytest.raises(TypeError, match="GELU has no translation to ONNX"):
        list(entropy_models(network, None, opset=20))
