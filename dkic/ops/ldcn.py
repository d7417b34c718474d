"""Lite DCN aggregation: every output pixel is a weighted sum of bilinear samples at learned positions, channel by channel."""

import torch
from torch import Tensor

from dkic.ops import backends
from dkic.ops.deform_arguments import check_samples, pair_of
from dkic.ops.reference import Pair
from dkic.ops.schemas import library


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
    the image x is 0; a sample at or beyond -1 or H (W) is 0 as a whole, and so are its gradients (at exactly -1 torchvision gives
    offset the gradient of the inner side). Results on the CPU do not depend on the number of threads.

    On CUDA the gradient of x is summed by atomics, and its last bits vary from run to run. Under
    `torch.use_deterministic_algorithms(True)` the sums are of 64-bit integers (for float64, two for each number), which are
    the same in whatever order they are made: so is every result, to the bit.

    Returns:
        y `[N, C, Ho, Wo]` in the dtype of x, channels_last.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        RuntimeError: the kernels for x's device are not built; the message says what to do.
    """
    kernel, strides = pair_of("ldcn", "kernel_size", kernel_size), pair_of("ldcn", "stride", stride)
    pads, dilations = pair_of("ldcn", "padding", padding), pair_of("ldcn", "dilation", dilation)
    check_samples("ldcn", ("x", x), offset, mask, kernel, strides, pads, dilations)
    if not torch.compiler.is_compiling() and (reason := backends.why_not("ldcn", x.device)):
        raise RuntimeError(reason)
    return torch.ops.dkic.ldcn(x, offset, mask, kernel, strides, pads, dilations)


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


def _register_autocast(device: str, key: str) -> None:
    @torch.library.impl(library, "ldcn", key)
    def _autocast(x, offset, mask, kernel_size, stride, padding, dilation):
        # offset and mask keep their dtype: bfloat16 positions would move in steps of whole pixels beyond 256.
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))):
            if x.dtype == torch.float32:
                x = x.to(torch.get_autocast_dtype(device))
            return torch.ops.dkic.ldcn(x, offset, mask, kernel_size, stride, padding, dilation)


_register_autocast("cpu", "AutocastCPU")
_register_autocast("cuda", "AutocastCUDA")

# Ops must be registered before they are first traced; a missing library is reported when it is used.
backends.load_cpu()
if _without_cuda := backends.load_cuda():
    # A compiled program gets here without the checks above.
    @torch.library.impl(library, "ldcn", "CUDA")
    def _no_cuda(*arguments):
        raise RuntimeError(_without_cuda)
