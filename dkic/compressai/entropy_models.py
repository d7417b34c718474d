"""Methods of CompressAI's entropy models on dkic's kernels. Each has the signature and the results of the method it replaces."""

from typing import Final

import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional
from compressai.entropy_models.entropy_models import GaussianMixtureConditional
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from dkic.ops import factorized_likelihood, gaussian_indexes, gaussian_likelihood
from dkic.ops._factorized_likelihood import FILTERS
from dkic.ops._gaussian_likelihood import LEAST_SCALE
from dkic.ops.cdf_coder import cdf_decode, cdf_encode

RULE: Final = "next_larger"  # CompressAI rounds a scale up to the next one in its table


def tables_of(model: EntropyModel) -> tuple[Tensor, Tensor, Tensor]:
    """CDFs `[T, L]`, their lengths `[T]` and offsets `[T]`. Raises ValueError if `update()` has not been called."""
    model._check_cdf_size()
    model._check_cdf_length()
    model._check_offsets_size()
    return model._quantized_cdf, model._cdf_length.reshape(-1), model._offset.reshape(-1)


_values = WeakTensorKeyDictionary()  # of bounds: version, address and number


def value_of(bound: Tensor) -> float:
    """The number in the buffer of a `LowerBound`. It is read again only after a change, because reading waits for a GPU."""
    if bound.is_inference():  # has no version
        return bound.item()
    state = bound._version, bound.data_ptr()
    known, value = _values.get(bound, (None, 0.0))
    if known != state:
        value = bound.item()
        _values[bound] = state, value
    return value


# ---- EntropyModel ----


def compress(self: EntropyModel, inputs: Tensor, indexes: Tensor, means: Tensor | None = None) -> list[bytes]:
    if inputs.dim() < 2:
        raise ValueError("Invalid `inputs` size. Expected a tensor with at least 2 dimensions.")
    if inputs.size() != indexes.size():
        raise ValueError("`inputs` and `indexes` should have the same size.")
    return cdf_encode(self.quantize(inputs, "symbols", means), indexes, *tables_of(self))


def decompress(
    self: EntropyModel,
    strings: list[bytes],
    indexes: Tensor,
    dtype: torch.dtype = torch.float,
    means: Tensor | None = None,
) -> Tensor:
    if not isinstance(strings, tuple | list):
        raise ValueError("Invalid `strings` parameter type.")
    if len(strings) != indexes.size(0):
        raise ValueError("Invalid strings or indexes parameters")
    if indexes.dim() < 2:
        raise ValueError("Invalid `indexes` size. Expected a tensor with at least 2 dimensions.")
    tables = tables_of(self)
    if means is not None:
        fits = means.dim() == indexes.dim() and means.shape[:2] == indexes.shape[:2]
        if not fits or any(m not in (1, i) for m, i in zip(means.shape[2:], indexes.shape[2:], strict=True)):
            raise ValueError("Invalid means parameters")
    symbols = cdf_decode(strings, indexes, *tables).to(self._quantized_cdf.device)
    return self.dequantize(symbols, means, dtype)


# ---- EntropyBottleneck ----


def _channels(self: EntropyBottleneck, streams: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Index and median of each element, `[streams, C, *size]` and `[streams, C, 1, ...]`, without copies."""
    medians = self._get_medians().detach().reshape(1, -1, *(1,) * len(size)).expand(streams, *(-1,) * (len(size) + 1))
    channels = torch.arange(medians.size(1), dtype=torch.int32, device=medians.device).reshape(1, -1, *(1,) * len(size))
    return channels.expand(streams, -1, *size), medians


def bottleneck_forward(self: EntropyBottleneck, x: Tensor, training: bool | None = None) -> tuple[Tensor, Tensor]:
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or self.filters != FILTERS:
        return EntropyBottleneck.forward(self, x, training)  # factorized_likelihood does not support these
    training = self.training if training is None else training
    medians = self._get_medians().reshape(1, -1, *(1,) * (x.dim() - 2))
    outputs = self.quantize(x, "noise" if training else "dequantize", medians)
    likelihood = factorized_likelihood(
        outputs, list(self.matrices), list(self.biases), list(self.factors), likelihood_min=_likelihood_min(self)
    )
    return outputs, _bound_if_compiling(self, likelihood)


def bottleneck_compress(self: EntropyBottleneck, x: Tensor) -> list[bytes]:
    return compress(self, x, *_channels(self, x.size(0), tuple(x.shape[2:])))


def bottleneck_decompress(self: EntropyBottleneck, strings: list[bytes], size: tuple[int, ...]) -> Tensor:
    indexes, medians = _channels(self, len(strings), tuple(size))
    return decompress(self, strings, indexes, medians.dtype, medians)


# ---- GaussianConditional ----


def build_indexes(self: GaussianConditional, scales: Tensor) -> Tensor:
    if len(self.scale_table) == 1:
        return torch.zeros_like(scales, dtype=torch.int32)
    table, bound = self.scale_table.tolist(), value_of(self.lower_bound_scale.bound)
    indexes = gaussian_indexes(scales.detach(), table, RULE).int()
    least = sum(scale < bound for scale in table[:-1])  # the index of the bound; smaller scales get it too
    return indexes.clamp_(min=least) if least else indexes


def gaussian_forward(
    self: GaussianConditional, inputs: Tensor, scales: Tensor, means: Tensor | None = None, training: bool | None = None
) -> tuple[Tensor, Tensor]:
    training = self.training if training is None else training
    scales, scale_min = _bounded(self, scales)
    if training:
        outputs, likelihood = gaussian_likelihood(inputs, scales, means, quantize="noise", scale_min=scale_min, **_output(self))
    else:
        # In evaluation CompressAI's rounding has no gradient: outputs depend on the mean only, the likelihood on the scale only.
        fixed = None if means is None else means.detach()
        outputs, likelihood = gaussian_likelihood(
            inputs.detach(), scales, fixed, quantize="round", scale_min=scale_min, **_output(self)
        )
        if means is not None and fixed is not None and means.requires_grad:
            outputs = outputs + (means - fixed)
    return outputs, _bound_if_compiling(self, likelihood)


def likelihood(self: GaussianConditional, inputs: Tensor, scales: Tensor, means: Tensor | None = None) -> Tensor:
    scales, scale_min = _bounded(self, scales)
    return gaussian_likelihood(inputs, scales, means, quantize="none", scale_min=scale_min, output="likelihood")[1]


def _bounded(self: GaussianConditional, scales: Tensor) -> tuple[Tensor, float]:
    """Scales and scale_min. A program that is compiled can't read the bound's value, so there the bound is applied here."""
    if torch.compiler.is_compiling():
        return self.lower_bound_scale(scales), LEAST_SCALE
    return scales, value_of(self.lower_bound_scale.bound)


def _output(self: EntropyModel) -> dict:
    return {"output": "likelihood", "likelihood_min": _likelihood_min(self)}


def _likelihood_min(self: EntropyModel) -> float:
    """The likelihood bound; 0 where there is none, and where `_bound_if_compiling` applies it."""
    if torch.compiler.is_compiling() or not self.use_likelihood_bound:
        return 0.0
    return value_of(self.likelihood_lower_bound.bound)


def _bound_if_compiling(self: EntropyModel, likelihood: Tensor) -> Tensor:
    bounded = self.use_likelihood_bound and torch.compiler.is_compiling()
    return self.likelihood_lower_bound(likelihood) if bounded else likelihood


# ---- GaussianMixtureConditional ----


def mixture_likelihood(
    self: GaussianMixtureConditional, inputs: Tensor, scales: Tensor, means: Tensor, weights: Tensor
) -> Tensor:
    parts = zip(scales.chunk(self.K, 1), means.chunk(self.K, 1), weights.chunk(self.K, 1), strict=True)
    return sum(likelihood(self, inputs, scale, mean) * weight for scale, mean, weight in parts)  # type: ignore[return-value]


def _mixture_tables(
    self: GaussianMixtureConditional, scales: Tensor, means: Tensor, weights: Tensor, channels: list[int], abs_max: int
) -> tuple[Tensor, Tensor, Tensor]:
    """CDFs of the elements of these channels, their lengths and offsets; one table for each element."""
    cdf = self._build_cdf(*self.reshape_entropy_parameters(scales, means, weights, channels), abs_max)
    return cdf, torch.full((len(cdf),), cdf.size(1)), torch.zeros(len(cdf), dtype=torch.int32)


def mixture_compress(
    self: GaussianMixtureConditional, y: Tensor, scales: Tensor, means: Tensor, weights: Tensor
) -> tuple[tuple[bytes, int, Tensor], Tensor]:
    abs_max = max(1, int(y.max().abs()) + 1, int(y.min().abs()) + 1)
    y_quantized = torch.round(y)
    zero_bitmap = torch.where(y_quantized.abs().sum((3, 2)).squeeze(0) == 0, 0, 1)
    channels = torch.nonzero(zero_bitmap).flatten().tolist()
    symbols = (y_quantized[:, channels] + abs_max).reshape(1, -1).int()
    tables = _mixture_tables(self, scales, means, weights, channels, abs_max)
    indexes = torch.arange(symbols.numel(), dtype=torch.int32)[None]
    return (cdf_encode(symbols, indexes, *tables)[0], abs_max, zero_bitmap), y_quantized


def mixture_decompress(
    self: GaussianMixtureConditional,
    strings: bytes,
    abs_max: int,
    zero_bitmap: Tensor,
    scales: Tensor,
    means: Tensor,
    weights: Tensor,
) -> Tensor:
    channels = torch.nonzero(zero_bitmap).flatten().tolist()
    tables = _mixture_tables(self, scales, means, weights, channels, abs_max)
    symbols = cdf_decode([strings], torch.arange(len(tables[0]), dtype=torch.int32)[None], *tables) - abs_max
    size = scales.shape[2:]
    y_hat = torch.zeros(scales.size(0), zero_bitmap.size(0), *size)
    y_hat[:, channels] = symbols.reshape(scales.size(0), -1, *size).float()
    return y_hat
