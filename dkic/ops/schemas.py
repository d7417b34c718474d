"""Schemas of the native ops. Native code implements `<op>` and `<op>_backward`; fakes, autograd and autocast are in Python.

The build compiles the definitions below into `libdkic_cpu.so` (setup.py), so that the ops exist in a C++ program that loads it.
"""

import torch

from dkic.ops import backends


class _Library(torch.library.Library):
    """Defines what `libdkic_cpu.so` does not: everything where it is not built, whose absence is reported at the first call."""

    def define(self, schema: str) -> None:
        name = schema.partition("(")[0]
        if not hasattr(torch.ops.dkic, name):
            super().define(schema)
        elif getattr(torch.ops.dkic, name).default._schema != torch._C.parse_schema(f"dkic::{schema}"):
            raise ImportError(f"dkic.ops.{name}: dkic's CPU kernels were built from other sources; {backends.REBUILD}")


backends.load_cpu()
library = _Library("dkic", "FRAGMENT")

library.define(
    "ldcn(Tensor x, Tensor offset, Tensor? mask, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation) -> Tensor"
)
# need_*: gradients wanted; the others come back empty. The order is that of the results.
library.define(
    "ldcn_backward(Tensor grad_y, Tensor x, Tensor offset, Tensor? mask, int[2] kernel_size, int[2] stride, int[2] padding, "
    "int[2] dilation, bool need_x, bool need_offset, bool need_mask, bool deterministic) -> (Tensor, Tensor, Tensor)"
)

library.define(
    "deform_conv2d(Tensor input, Tensor offset, Tensor weight, Tensor? bias, Tensor? mask, int[2] stride, int[2] padding, "
    "int[2] dilation) -> Tensor"
)
library.define(
    "deform_conv2d_backward(Tensor grad_y, Tensor input, Tensor offset, Tensor weight, Tensor? mask, int[2] stride, "
    "int[2] padding, int[2] dilation, bool need_input, bool need_offset, bool need_weight, bool need_bias, bool need_mask, "
    "bool deterministic) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)

# Either rounded, or a noise that is given, or one drawn from seed (one int64 number), or none of them. y_hat is empty where it
# would be y itself; bits are [N] where sum. likelihood: bits are the likelihoods, max(2^-bits, likelihood_min). by_v and by_scale
# are derivatives, of the bits or of the likelihood before its bound, and empty where not needed.
library.define(
    "gaussian_likelihood(Tensor y, Tensor scale, Tensor? mean, Tensor? noise, Tensor? seed, bool rounded, float scale_min, "
    "bool sum, bool need_v, bool need_scale, bool likelihood=False, float likelihood_min=0.) "
    "-> (Tensor y_hat, Tensor bits, Tensor by_v, Tensor by_scale)"
)
library.define(
    "gaussian_likelihood_backward(Tensor? grad_y_hat, Tensor grad_bits, Tensor by_v, Tensor by_scale, Tensor scale, "
    "float scale_min, bool need_y, bool need_scale, bool need_mean, Tensor? likelihood=None, float likelihood_min=0.) "
    "-> (Tensor grad_y, Tensor grad_scale, Tensor grad_mean)"
)
library.define(
    "gaussian_symbols(Tensor y, Tensor scale, Tensor? mean, float scale_first, float scale_last, int scale_count) "
    "-> (Tensor symbols, Tensor index)"
)
# How many of the edges, which are sorted, lie below each scale: uint8 for 255 edges or less, else int32.
library.define("gaussian_indexes(Tensor scale, float[] edges) -> Tensor")

# Of integers in float32, with a bias and a multiplier for each channel: see dkic.ops.requantize.
library.define("requantize(Tensor total, Tensor? bias, Tensor multiplier, int low, int high) -> Tensor")

# Of integers in float32, then requantised; weight as dkic.ops.quantized_conv2d.packed lays it out.
library.define(
    "quantized_conv2d(Tensor x, Tensor weight, Tensor bias, Tensor multiplier, int stride, int padding, int low, int high) "
    "-> Tensor"
)

# Symbols and indexes are [streams, symbols of each]; data holds the streams one after the other, size the bytes of each.
library.define(
    "cdf_encode(Tensor symbols, Tensor indexes, Tensor cdf, Tensor cdf_length, Tensor offset) -> (Tensor data, Tensor size)"
)
library.define(
    "cdf_decode(Tensor data, Tensor size, Tensor indexes, Tensor cdf, Tensor cdf_length, Tensor offset) "
    "-> (Tensor symbols, Tensor intact)"
)
library.define(
    "cdf_decode_part(Tensor data, Tensor(a!) state, Tensor indexes, Tensor cdf, Tensor cdf_length, Tensor offset) -> Tensor"
)

# A latent whose scales and means depend on the elements before it in raster order: see dkic.ops.raster_context. weights and
# biases are those of 1x1 convolutions; slopes, of the LeakyReLU between them, are one fewer.
library.define(
    "raster_encode(Tensor y, Tensor params, Tensor context_weight, Tensor context_bias, Tensor[] weights, Tensor[] biases, "
    "float[] slopes, float[] edges, float scale_min, Tensor cdf, Tensor cdf_length, Tensor offset) "
    "-> (Tensor y_hat, Tensor data, Tensor size)"
)
library.define(
    "raster_decode(Tensor data, Tensor size, Tensor params, Tensor context_weight, Tensor context_bias, Tensor[] weights, "
    "Tensor[] biases, float[] slopes, float[] edges, float scale_min, Tensor cdf, Tensor cdf_length, Tensor offset) "
    "-> (Tensor y_hat, Tensor intact)"
)

# parameters: [C, FACTORIZED_PARAMETERS], see dkic.ops.factorized_likelihood. likelihood: forward's.
library.define("factorized_likelihood(Tensor x, Tensor parameters, float likelihood_min) -> Tensor")
library.define(
    "factorized_likelihood_backward(Tensor grad, Tensor x, Tensor parameters, Tensor likelihood, float likelihood_min) "
    "-> (Tensor grad_x, Tensor grad_parameters)"
)
