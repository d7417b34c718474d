"""Integer convolution with fused requantization, for dkic.quantized on the CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dkic.ops import autograd, backends
from dkic.ops.schemas import library

_GROUP = 16  # adjacent output channels in the packed weight


def packed(weight: Tensor) -> Tensor:
    """Packs integers `[out, in, k, k]` for the native code: int16 `[out / 16, k, k, in / 2, 16, 2]`, padded with zeros."""
    out, channels, k, _ = weight.shape
    padded = F.pad(weight.to(torch.int16), (0, 0, 0, 0, 0, channels % 2, 0, -out % _GROUP))
    return padded.view(-1, _GROUP, (channels + 1) // 2, 2, k, k).permute(0, 4, 5, 2, 1, 3).contiguous()


def runs_on(x: Tensor) -> bool:
    """Whether `quantized_conv2d` supports x: float32 on the CPU, with the native code available."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and backends.cpu_runs()


def quantized_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor, multiplier: Tensor, stride: int, padding: int, low: int, high: int
) -> Tensor:
    """clamp(round((conv2d(x, weight) + bias) * multiplier), low, high), rounded half to even, with int32 accumulation.

    The accumulated sum plus bias is converted to float32 and multiplied in float32: equal to `dkic.ops.requantize` of the sum.

    Args:
        x: float32 `[N, C, H, W]`, integers within 16 bits, such that no sum exceeds int32.
        weight: see `packed`. bias: int32 `[out]`. multiplier: float32 `[out]`.

    Returns:
        float32 `[N, out, Ho, Wo]`, channels_last.

    Raises:
        RuntimeError: a dtype, device or shape is invalid, or the kernel is larger than the padded x.
        NotImplementedError: forward-mode differentiation.
    """
    if autograd.has_tangent(x, multiplier):
        raise autograd.no_forward_mode("quantized_conv2d")
    return torch.ops.dkic.quantized_conv2d(x, weight, bias, multiplier, stride, padding, low, high)


@torch.library.register_fake("dkic::quantized_conv2d", lib=library)
def _fake(x, weight, bias, multiplier, stride, padding, low, high):
    k = weight.shape[1]
    height, width = ((side + 2 * padding - k) // stride + 1 for side in x.shape[2:])
    return x.new_empty((x.shape[0], bias.shape[0], height, width)).contiguous(memory_format=torch.channels_last)
