"""Coding of a latent with an autoregressive context model in raster order; networks and entropy coder are native code.

The context model of Minnen et al. 2018 ("Joint Autoregressive and Hierarchical Priors for Learned Image Compression"): a masked
convolution over the decoded latent, followed by 1x1 convolutions over its output and the parameters of the hyperprior, predicts
the scales and means of each position.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dkic.ops import backends
from dkic.ops._gaussian_indexes import edges_between
from dkic.ops.cdf_coder import check_intact, check_tables, from_bytes, to_bytes
from dkic.ops.schemas import library


class RasterNetwork(NamedTuple):
    """Weights of a context model for a latent with M channels and P hyperprior parameters per position.

    Attributes:
        context_weight: float32 `[C, M, k, k]`, k odd and at most 31. The center and the elements after it in raster order are
            not read, so they need not be masked.
        context_bias: float32 `[C]`.
        weights: weights of the 1x1 convolutions, float32 `[out, in, 1, 1]`: the first has P + C inputs, the parameters before the
            context; the last has 2 M outputs, the scales before the means.
        biases: biases of the 1x1 convolutions, float32 `[out]`.
        slopes: negative slopes of the LeakyReLU after each 1x1 convolution except the last; 0: ReLU; 1: identity.
    """

    context_weight: Tensor
    context_bias: Tensor
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    slopes: Sequence[float]


class GaussianTables(NamedTuple):
    """Tables of zero-mean Gaussians with increasing scales, as in CompressAI's `GaussianConditional`; see `cdf_encode`.

    Attributes:
        scales: `[T]`, the standard deviation of each table; an element uses the first table with a scale >= its own.
        scale_min: lower bound of the elements' scales, applied before the table is selected.
        cdf, cdf_length, offset: as for `cdf_encode`.
    """

    scales: Tensor
    scale_min: float
    cdf: Tensor
    cdf_length: Tensor
    offset: Tensor


def raster_encode(y: Tensor, params: Tensor, network: RasterNetwork, tables: GaussianTables) -> tuple[Tensor, list[bytes]]:
    """Encodes a latent; returns the dequantized latent and one stream per sample.

    Symbols are round(y - mean), half to even, in raster order of the positions and then by channel. Scales and means are
    bit-exact with `raster_decode` for any number of threads, and between AVX2 and AVX-512. CPUs without fused multiply-add, or
    params that differ in a bit, can produce other symbols.

    Args:
        y: float32 `[N, M, H, W]` on the CPU.
        params: float32 `[N, P, H, W]` on the CPU.

    Returns:
        y_hat: float32 `[N, M, H, W]`, contiguous; N streams.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
        RuntimeError: y - mean is not finite or exceeds int32; or as for `cdf_encode`.
    """
    _check(y=y, params=params)
    if y.shape[0] != params.shape[0] or y.shape[2:] != params.shape[2:]:
        shapes = f"{list(y.shape)} and {list(params.shape)}"
        raise ValueError(f"raster_encode/params: must have the batch and size of y, and the shapes are {shapes}; crop one")
    y_hat, data, size = torch.ops.dkic.raster_encode(y.detach(), params.detach(), *_arguments(network, tables))
    return y_hat, to_bytes(data, size)


def raster_decode(strings: Sequence[bytes], params: Tensor, network: RasterNetwork, tables: GaussianTables) -> Tensor:
    """Decodes the streams of `raster_encode`; returns the dequantized latent, float32 `[N, M, H, W]`.

    Raises:
        FormatError: a stream is damaged, or was encoded with other parameters, network or tables.
        TypeError, ValueError, RuntimeError: as for `raster_encode`.
    """
    _check(params=params)
    data, size = from_bytes("raster_decode", strings, params.shape[0])
    y_hat, intact = torch.ops.dkic.raster_decode(data, size, params.detach(), *_arguments(network, tables))
    check_intact("raster_decode", intact)
    return y_hat


def _check(**tensors: Tensor) -> None:
    if not torch.compiler.is_compiling() and (reason := backends.load_cpu()):
        raise RuntimeError(reason)
    for name, t in tensors.items():
        if not isinstance(t, Tensor) or t.dtype != torch.float32 or t.device.type != "cpu":
            kind = f"{t.dtype} on {t.device}" if isinstance(t, Tensor) else type(t).__name__
            raise TypeError(f"raster_context/{name}: must be float32 on the CPU, and is {kind}; convert it")
        if t.dim() != 4:
            raise ValueError(f"raster_context/{name}: must have 4 dimensions, and has shape {list(t.shape)}; give [N, C, H, W]")


def _arguments(network: RasterNetwork, tables: GaussianTables) -> tuple:
    edges = edges_between(tables.scales, "next_larger")
    integers = check_tables("raster_context", tables.cdf, tables.cdf_length, tables.offset)
    weights, biases = ([t.detach() for t in group] for group in (network.weights, network.biases))
    context = network.context_weight.detach(), network.context_bias.detach()
    return *context, weights, biases, [float(s) for s in network.slopes], edges, float(tables.scale_min), *integers


@torch.library.register_fake("dkic::raster_encode", lib=library)
def _encode_fake(y, params, *others):
    size = torch.library.get_ctx().new_dynamic_size()
    streams = y.new_empty((size,), dtype=torch.uint8), y.new_empty((y.shape[0],), dtype=torch.int64)
    return y.new_empty(y.shape), *streams


@torch.library.register_fake("dkic::raster_decode", lib=library)
def _decode_fake(data, size, params, context_weight, *others):
    shape = params.shape[0], context_weight.shape[1], *params.shape[2:]
    return params.new_empty(shape), params.new_empty((params.shape[0],), dtype=torch.bool)
