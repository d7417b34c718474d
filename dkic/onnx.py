"""ONNX export of models with dkic's ops: what `torch.onnx.export` translates them to.

    import dkic.onnx

    torch.onnx.export(model, (x,), "model.onnx", dynamo=True, custom_translation_table=dkic.onnx.translation_table())

Needs the extra `onnx`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import dkic.ops  # noqa: F401  (registers the ops)
from dkic.errors import install

Sizes = Sequence[int]


def translation_table() -> dict[Callable, Callable]:
    """Translations of `dkic.ops.deform_conv2d` and `dkic.ops.ldcn`, for `custom_translation_table` of `torch.onnx.export`.

    Both become ONNX's DeformConv, which exists from opset 19 on; ldcn becomes a depthwise DeformConv with weights of 1. Batch,
    height and width may be dynamic; with a dynamic number of channels the export fails. float64 is computed in
    float64, other dtypes in float32, as in dkic's kernels, and the result has the input's dtype.

    Raises:
        ImportError: onnxscript is not installed.
    """
    try:
        from onnxscript import ir
        from onnxscript import opset19 as op
    except ImportError as error:
        raise ImportError(f"dkic.onnx: onnxscript is not installed; {install('onnx')}") from error

    def channels_of(name: str, t: Any) -> int:
        if not isinstance(t.shape[1], int):
            raise ValueError(f"dkic.onnx: {name} has a dynamic number of channels ({t.shape[1]}); export it as static")
        return t.shape[1]

    def deform_conv(
        x: Any,
        offset: Any,
        weight: Any,
        bias: Any,
        mask: Any,
        group: int,
        kernel_size: Sizes,
        stride: Sizes,
        padding: Sizes,
        dilation: Sizes,
    ) -> Any:
        computed = ir.DataType.DOUBLE if x.dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
        tensors = (t if t is None or t.dtype == computed else op.Cast(t, to=computed) for t in (x, weight, offset, bias, mask))
        y = op.DeformConv(
            *tensors,
            dilations=list(dilation),
            group=group,
            kernel_shape=list(kernel_size),
            offset_group=channels_of("offset", offset) // (2 * kernel_size[0] * kernel_size[1]),
            pads=[*padding, *padding],
            strides=list(stride),
        )
        return y if x.dtype == computed else op.Cast(y, to=x.dtype)

    def deform_conv2d(
        input: Any, offset: Any, weight: Any, bias: Any, mask: Any, stride: Sizes, padding: Sizes, dilation: Sizes
    ) -> Any:
        group = channels_of("input", input) // weight.shape[1]
        return deform_conv(input, offset, weight, bias, mask, group, weight.shape[2:], stride, padding, dilation)

    def ldcn(x: Any, offset: Any, mask: Any, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> Any:
        channels = channels_of("x", x)
        ones: Any = ir.tensor(np.ones((channels, 1, *kernel_size), np.float32))
        ones = op.Constant(value=ones)
        return deform_conv(x, offset, ones, None, mask, channels, kernel_size, stride, padding, dilation)

    return {torch.ops.dkic.deform_conv2d.default: deform_conv2d, torch.ops.dkic.ldcn.default: ldcn}
