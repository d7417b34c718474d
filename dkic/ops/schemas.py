"""Schemas of the native ops. Native code implements `<op>` and `<op>_backward`; fakes, autograd and autocast are in Python.

The build compiles these definitions into `libdkic_cpu.so` (setup.py), so that C++ programs that load it have the ops.
"""

import torch

from dkic.ops import backends


class _Library(torch.library.Library):
    """Defines the ops that `libdkic_cpu.so` does not define: all ops if it is not built, which the first call reports."""

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
# need_*: which gradients to compute, in the order of the results; the others are empty.
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

# At most one of rounded, noise and seed (an int64 tensor with one element). y_hat is empty if it equals y. bits is [N] if sum. If
# likelihood, bits holds likelihoods, max(2^-bits, likelihood_min). by_v and by_scale: derivatives of the bits, or of the
# likelihood before the bound; empty if not needed.
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
# The number of edges (sorted) below each scale: uint8 for up to 255 edges, else int32.
library.define("gaussian_indexes(Tensor scale, float[] edges) -> Tensor")

# total holds integers in float32; bias and multiplier are per channel. See dkic.ops.requantize.
library.define("requantize(Tensor total, Tensor? bias, Tensor multiplier, int low, int high) -> Tensor")

# x holds integers in float32; weight is packed by dkic.ops.quantized_conv2d.packed. The result is requantized.
library.define(
    "quantized_conv2d(Tensor x, Tensor weight, Tensor bias, Tensor multiplier, int stride, int padding, int low, int high) "
    "-> Tensor"
)

# Symbols and indexes are [streams, symbols per stream]. data: the concatenated streams; size: bytes of each stream.
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

# Coding with a context model in raster order: see dkic.ops.raster_context. weights and biases: of the 1x1 convolutions; slopes:
# of the LeakyReLUs between them, one fewer.
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

# parameters: [C, parameters per channel], packed by dkic.ops.factorized_likelihood. likelihood: the result of the forward.
library.define("factorized_likelihood(Tensor x, Tensor parameters, float likelihood_min) -> Tensor")
library.define(
    "factorized_likelihood_backward(Tensor grad, Tensor x, Tensor parameters, Tensor likelihood, float likelihood_min) "
    "-> (Tensor grad_x, Tensor grad_parameters)"
)
