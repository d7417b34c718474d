"""Methods for CompressAI's autoregressive models that run context model and entropy coder in one native op."""

from typing import Any

from compressai.entropy_models import GaussianConditional
from compressai.latent_codecs import RasterScanLatentCodec
from compressai.layers import MaskedConv2d
from compressai.models import JointAutoregressiveHierarchicalPriors
from torch import Tensor, nn

from dkic.compressai.entropy_models import tables_of
from dkic.ops.raster_context import GaussianTables, RasterNetwork, raster_decode, raster_encode

# Methods of GaussianConditional that the native op replaces.
GAUSSIAN = ("build_indexes", "quantize", "dequantize")


def unsupported(module: Any) -> str | None:
    """Why the native op can't run the context model of a raster-scan module, or None."""
    context, network = module.context_prediction, module.entropy_parameters
    (kh, kw), mask = context.kernel_size, context.mask.flatten(2)
    if kh != kw or kh % 2 == 0 or context.groups != 1 or context.stride != (1, 1) or context.dilation != (1, 1):
        return "context_prediction must be a square, odd convolution without groups, stride or dilation"
    if context.padding_mode != "zeros":
        return f"context_prediction must be padded with zeros, and has padding_mode {context.padding_mode!r}"
    if mask[..., kh * kw // 2 :].any():
        return "the mask of context_prediction must exclude the middle and what follows it (mask_type='A')"
    if type(network) is not nn.Sequential or not all(type(layer) is nn.Conv2d for layer in (network[0], network[-1])):
        return "entropy_parameters must be a Sequential that begins and ends with a Conv2d"
    for layer in network:
        pointwise = type(layer) is nn.Conv2d and (layer.kernel_size, layer.stride, layer.groups) == ((1, 1), (1, 1), 1)
        if not (pointwise and layer.padding == (0, 0)) and type(layer) not in (nn.LeakyReLU, nn.ReLU):
            return f"entropy_parameters must have 1x1 Conv2d, ReLU and LeakyReLU only, and has a {type(layer).__name__}"
    gaussian = getattr(module.gaussian_conditional, "_dkic_original", type(module.gaussian_conditional))
    if gaussian is not GaussianConditional:
        return f"gaussian_conditional must be a GaussianConditional, and is a {gaussian.__name__}"
    if own := [name for name in GAUSSIAN if name in vars(module.gaussian_conditional)]:
        return f"gaussian_conditional must have CompressAI's {own[0]}, and has one of its own"
    return None


def _bias(convolution: nn.Conv2d) -> Tensor:
    return convolution.weight.new_zeros(convolution.out_channels) if convolution.bias is None else convolution.bias


def network_of(context_prediction: MaskedConv2d, entropy_parameters: nn.Sequential) -> RasterNetwork:
    """The current weights of the context model."""
    convolutions, slopes = [], []
    for layer in entropy_parameters:
        if isinstance(layer, nn.Conv2d):
            convolutions.append(layer)
            slopes.append(1.0)
        else:
            slopes[-1] *= getattr(layer, "negative_slope", 0.0)  # of two activations in a row too
    return RasterNetwork(
        context_prediction.weight * context_prediction.mask,
        _bias(context_prediction),
        [c.weight for c in convolutions],
        [_bias(c) for c in convolutions],
        slopes[:-1],
    )


def gaussian_tables(model: GaussianConditional) -> GaussianTables:
    """The tables of an updated model."""
    return GaussianTables(model.scale_table, model.lower_bound_scale.bound.item(), *tables_of(model))


def _on_cpu(t: Tensor) -> Tensor:
    return t.detach().cpu()


def _encoded(module: nn.Module, y: Tensor, params: Tensor) -> tuple[Tensor, list[bytes]]:
    y_hat, strings = raster_encode(_on_cpu(y), _on_cpu(params), *_context_model(module))
    return y_hat.to(y.device), strings


def _decoded(module: nn.Module, strings: list[bytes], params: Tensor) -> Tensor:
    return raster_decode(strings, _on_cpu(params), *_context_model(module)).to(params.device)


def _context_model(module: Any) -> tuple[RasterNetwork, GaussianTables]:
    network = network_of(module.context_prediction, module.entropy_parameters)
    context_weight, context_bias, weights, biases, slopes = network
    on_cpu = RasterNetwork(
        _on_cpu(context_weight), _on_cpu(context_bias), [*map(_on_cpu, weights)], [*map(_on_cpu, biases)], slopes
    )
    return on_cpu, gaussian_tables(module.gaussian_conditional)


# ---- JointAutoregressiveHierarchicalPriors, Cheng2020Anchor, Cheng2020Attention ----


def joint_compress(self: JointAutoregressiveHierarchicalPriors, x: Tensor) -> dict[str, Any]:
    y = self.g_a(x)
    z = self.h_a(y)
    z_strings = self.entropy_bottleneck.compress(z)
    params = self.h_s(self.entropy_bottleneck.decompress(z_strings, z.size()[-2:]))
    _, y_strings = _encoded(self, y, params)
    return {"strings": [y_strings, z_strings], "shape": z.size()[-2:]}


def joint_decompress(
    self: JointAutoregressiveHierarchicalPriors, strings: list[list[bytes]], shape: tuple[int, int]
) -> dict[str, Any]:
    if not isinstance(strings, list) or len(strings) != 2:
        raise ValueError("decompress/strings: must be those of y and of z; give what compress returned")
    params = self.h_s(self.entropy_bottleneck.decompress(strings[1], shape))
    return {"x_hat": self.g_s(_decoded(self, strings[0], params)).clamp_(0, 1)}


# ---- RasterScanLatentCodec ----


def raster_scan_compress(self: RasterScanLatentCodec, y: Tensor, ctx_params: Tensor) -> dict[str, Any]:
    y_hat, strings = _encoded(self, y, ctx_params)
    return {"strings": [strings], "y_hat": y_hat, "shape": y.shape[2:4]}


def raster_scan_decompress(
    self: RasterScanLatentCodec, strings: list[list[bytes]], shape: tuple[int, int], ctx_params: Tensor, **kwargs: Any
) -> dict[str, Any]:
    (y_strings,) = strings
    if tuple(shape) != tuple(ctx_params.shape[2:]):
        raise ValueError(f"decompress/shape: is {tuple(shape)} and the parameters' is {tuple(ctx_params.shape[2:])}; check both")
    return {"y_hat": _decoded(self, y_strings, ctx_params)}
