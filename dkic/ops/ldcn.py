"""Lite DCN aggregation: every output pixel is a weighted sum of bilinear samples at learned positions, channel by channel."""

import torch
from torch import Tensor

from dkic.ops import backends
from dkic.ops.reference import Pair
from dkic.ops.schemas import library

Sizes = tuple[int, int]
_SIZE_LIMIT = 2**24  # positions are float32, exact for integers up to here
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def ldcn(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None = None,
    *,
    kernel_size: Pair = 3,
    stride: Pair = 1,
    padding: Pair = 1,
    dilation: Pair = 1,
) -> Tensor:
    """Sum, over a kernel's taps, of modulated bilinear samples of x.

        y[n, g*D + d, p] = sum_k mask[n, g, k, p] * bilinear(x[n, g*D + d], p*stride - padding + k*dilation + offset[n, g, k, p])

    Equals `torchvision.ops.deform_conv2d` with one weight group per channel and all weights 1 (DCNv4 calls the same thing
    deformable aggregation); the convolution's weights are left to 1x1 layers around it, which is what makes it lite.

    Args:
        x: `[N, C, H, W]`, float32, float64, float16 or bfloat16. channels_last is the fast path.
        offset: `[N, G*K*2, Ho, Wo]`, displacements in pixels, (dy, dx) interleaved per tap; K = kernel height * width, the
            number of groups G follows from the shape and divides C.
        mask: `[N, G*K, Ho, Wo]`, the taps' weights; None means ones.
        kernel_size, stride, padding, dilation: an int or (height, width).

    offset and mask may have another floating dtype than x. Positions and sums are float32 (float64 where x is float64). Outside
    the image x is 0; a sample at or beyond -1 or H (W) is 0 as a whole. The result on the CPU does not depend on the
    number of threads.

    Returns:
        y `[N, C, Ho, Wo]` in the dtype of x, channels_last.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        RuntimeError: the kernels for x's device are not built; the message says what to do.
    """
    kernel, strides = _pair("kernel_size", kernel_size), _pair("stride", stride)
    pads, dilations = _pair("padding", padding), _pair("dilation", dilation)
    _check(x, offset, mask, kernel, strides, pads, dilations)
    if not torch.compiler.is_compiling() and (reason := backends.why_not(x.device)):
        raise RuntimeError(reason)
    return torch.ops.dkic.ldcn(x, offset, mask, kernel, strides, pads, dilations)


def _pair(name: str, value: Pair) -> tuple[int, int]:
    values = (value, value) if isinstance(value, int) else value
    if not isinstance(values, (tuple, list)) or len(values) != 2 or not all(isinstance(v, int) for v in values):
        raise TypeError(f"ldcn: {name} must be an int or a pair (height, width) of ints, and is {value!r}")
    return values[0], values[1]


def _out_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _check(
    x: Tensor, offset: Tensor, mask: Tensor | None, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> None:
    named = [("x", x), ("offset", offset)] + ([("mask", mask)] if mask is not None else [])
    for name, t in named:
        if not isinstance(t, Tensor):
            raise TypeError(f"ldcn: {name} must be a tensor, and is a {type(t).__name__}")
        if t.dtype not in _FLOATS:
            raise TypeError(f"ldcn: {name} must be float32, float64, float16 or bfloat16, and is {str(t.dtype)[6:]}")
        if t.dim() != 4:
            raise ValueError(f"ldcn: {name} must have 4 dimensions, and has shape {list(t.shape)}")
        if t.device != x.device:
            raise ValueError(f"ldcn: {name} must be on x's device {x.device}, and is on {t.device}")
    for name, values, least in (
        ("kernel_size", kernel, 1), ("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)
    ):  # fmt: skip
        if min(values) < least:
            raise ValueError(f"ldcn: {name} must be at least {least}, and is {values}")
        if max(values) >= _SIZE_LIMIT:
            raise ValueError(f"ldcn: {name} must be below 2^24, and is {values}")
    n, c, h, w = x.shape
    if max(h, w) >= _SIZE_LIMIT:
        raise ValueError(f"ldcn: x must be below 2^24 pixels high and wide, and is {h}x{w}")
    k = kernel[0] * kernel[1]
    size = [_out_size(*along) for along in zip((h, w), kernel, stride, padding, dilation, strict=True)]
    if h < 1 or w < 1 or min(size) < 1:
        raise ValueError(f"ldcn: x must be at least as large as the dilated kernel, and is {h}x{w} with padding {padding}")
    groups = offset.shape[1] // (2 * k)
    if groups == 0 or offset.shape[1] != groups * k * 2 or c % groups or c == 0:
        raise ValueError(
            f"ldcn: offset must have G*{k}*2 channels for a {kernel[0]}x{kernel[1]} kernel, with G dividing x's {c} channels, "
            f"and has {offset.shape[1]}"
        )
    for name, t, channels in (("offset", offset, groups * k * 2), ("mask", mask, groups * k)):
        if t is not None and (t.shape[0] != n or t.shape[1] != channels or t.shape[2] != size[0] or t.shape[3] != size[1]):
            raise ValueError(f"ldcn: {name} must have shape {[n, channels, *size]}, and has {list(t.shape)}")


@torch.library.register_fake("dkic::ldcn", lib=library)
def _ldcn_fake(x, offset, mask, kernel_size, stride, padding, dilation):
    shape = (x.shape[0], x.shape[1], offset.shape[2], offset.shape[3])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@torch.library.register_fake("dkic::ldcn_backward", lib=library)
def _ldcn_backward_fake(
    grad_y, x, offset, mask, kernel_size, stride, padding, dilation, need_x, need_offset, need_mask, deterministic
):
    def like(t, needed):
        return torch.empty_like(t, memory_format=torch.channels_last) if needed else t.new_empty((0,))

    return like(x, need_x), like(offset, need_offset), like(offset if mask is None else mask, need_mask and mask is not None)


def _setup_context(ctx, inputs, output) -> None:
    x, offset, mask, *ctx.geometry = inputs
    ctx.save_for_backward(x, offset, mask)


def _backward(ctx, grad_y):
    x, offset, mask = ctx.saved_tensors
    need_x, need_offset, need_mask = ctx.needs_input_grad[:3]
    grad_x, grad_offset, grad_mask = torch.ops.dkic.ldcn_backward(
        grad_y, x, offset, mask, *ctx.geometry, need_x, need_offset, need_mask, torch.are_deterministic_algorithms_enabled()
    )
    return (
        grad_x if need_x else None,
        grad_offset if need_offset else None,
        grad_mask if need_mask and mask is not None else None,
        None, None, None, None,
    )  # fmt: skip


def _no_double_backward(ctx, *grads):
    raise NotImplementedError("dkic.ops.ldcn has no second derivative: its backward can't be differentiated.")


torch.library.register_autograd("dkic::ldcn", _backward, setup_context=_setup_context, lib=library)
torch.library.register_autograd("dkic::ldcn_backward", _no_double_backward, lib=library)


@torch.library.impl(library, "ldcn", "AutocastCPU")
def _autocast_cpu(x, offset, mask, kernel_size, stride, padding, dilation):
    # offset and mask keep their dtype: bfloat16 positions would move in steps of whole pixels beyond 256.
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)):
        if x.dtype == torch.float32:
            x = x.to(torch.get_autocast_dtype("cpu"))
        return torch.ops.dkic.ldcn(x, offset, mask, kernel_size, stride, padding, dilation)


backends.load_cpu()  # ops must be registered before they are first traced; a missing library is reported when it is used
