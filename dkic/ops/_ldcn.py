"""Lite DCN aggregation: each output pixel is a weighted sum of bilinear samples at learned positions, per channel."""

import torch
from torch import Tensor

from dkic.ops import autocast, autograd, backends
from dkic.ops.deform_arguments import Pair, check_samples, list_of, pair_of
from dkic.ops.memory_format import empty_like_format, gradient_like
from dkic.ops.schemas import library


def ldcn(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None = None,
    kernel_size: Pair = 3,
    stride: Pair = 1,
    padding: Pair = 1,
    dilation: Pair = 1,
) -> Tensor:
    """Sum of modulated bilinear samples of x over the taps of a kernel.

        y[n, g*D + d, p] = sum_k mask[n, g, k, p] * bilinear(x[n, g*D + d], p*stride - padding + k*dilation + offset[n, g, k, p])

    Equals `torchvision.ops.deform_conv2d` with one weight group per channel and all weights 1 (the deformable aggregation of
    DCNv4). 1x1 convolutions around the op replace the weights of the convolution.

    Args:
        x: `[N, C, H, W]`, float32, float64, float16 or bfloat16. channels_last is fastest.
        offset: `[N, G*K*2, Ho, Wo]`, displacements in pixels, (dy, dx) interleaved per tap; K = kernel height * width. The
            number of groups G is inferred from the shape and must divide C.
        mask: `[N, G*K, Ho, Wo]`, the weight of each tap; None means ones.
        kernel_size, stride, padding, dilation: an int or (height, width).

    offset and mask can have a different floating-point dtype than x. Positions and sums are float32 (float64 if x is float64).
    Autocast casts a float32 x, but not offset and mask. Results on the CPU do not depend on the number of threads.

    x is zero-padded. A sample with a coordinate <= -1 or >= H (W) is 0, and so are its gradients. (At exactly -1,
    `dkic.ops.deform_conv2d` and torchvision instead return the one-sided derivative from inside the image for offset.)

    `torch.vmap` folds the vmapped dimension into the batch. Forward-mode and second derivatives raise NotImplementedError.
    `torch.jit.script` supports this function; there, invalid arguments raise a RuntimeError from the native code.

    On CUDA, the gradient of x is accumulated with atomics, so its last bits vary between runs. Under
    `torch.use_deterministic_algorithms(True)` it is accumulated in 64-bit integers (two per value for float64), and all results
    are reproducible bit by bit.

    Returns:
        y `[N, C, Ho, Wo]` in the dtype and memory format of x; gradients have those of their tensor.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it. Both are also RuntimeErrors.
        RuntimeError: the kernels for x's device are not available; the message explains how to fix it.
    """
    if not torch.jit.is_scripting():
        kernel_size, stride = pair_of("ldcn", "kernel_size", kernel_size), pair_of("ldcn", "stride", stride)
        padding, dilation = pair_of("ldcn", "padding", padding), pair_of("ldcn", "dilation", dilation)
        check_samples("ldcn", ("x", x), offset, mask, kernel_size, stride, padding, dilation)
        backends.check_runs("ldcn", x.device)
        if autograd.is_plain_call(x, offset, mask):
            with torch._C._AutoDispatchBelowAutograd():
                return torch.ops.dkic.ldcn(x, offset, mask, kernel_size, stride, padding, dilation)
    return torch.ops.dkic.ldcn(x, offset, mask, list_of(kernel_size), list_of(stride), list_of(padding), list_of(dilation))


@torch.library.register_fake("dkic::ldcn", lib=library)
def _ldcn_fake(x, offset, mask, kernel_size, stride, padding, dilation):
    return empty_like_format(x, (x.shape[0], x.shape[1], offset.shape[2], offset.shape[3]))


@torch.library.register_fake("dkic::ldcn_backward", lib=library)
def _ldcn_backward_fake(
    grad_y, x, offset, mask, kernel_size, stride, padding, dilation, need_x, need_offset, need_mask, deterministic
):
    of_mask = gradient_like(offset if mask is None else mask, need_mask and mask is not None)
    return gradient_like(x, need_x), gradient_like(offset, need_offset), of_mask


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
        None,
        None,
        None,
        None,
    )


autograd.register("ldcn", _backward, _setup_context)


def _autocast(device, x, offset, mask, kernel_size, stride, padding, dilation):
    # offset and mask keep their dtype: the resolution of bfloat16 beyond 256 is a whole pixel.
    if x.dtype == torch.float32:
        x = x.to(torch.get_autocast_dtype(device))
    return torch.ops.dkic.ldcn(x, offset, mask, kernel_size, stride, padding, dilation)


autocast.register("ldcn", _autocast)

# Ops must be registered before tracing; the first call reports a missing library.
backends.load_cpu()
if _without_cuda := backends.load_cuda():
    # Compiled code calls this without the checks of ldcn().
    def _triton_kernels():
        if backends.find_triton():
            raise RuntimeError(_without_cuda)
        return backends.triton_kernels("ldcn")

    @torch.library.impl(library, "ldcn", "CUDA")
    def _cuda(*arguments):
        return _triton_kernels().forward(*arguments)

    @torch.library.impl(library, "ldcn_backward", "CUDA")
    def _backward_cuda(*arguments):
        return _triton_kernels().backward(*arguments)
