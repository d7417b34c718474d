"""Lite DCN aggregation: every output pixel is a weighted sum of bilinear samples at learned positions, channel by channel."""

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

    offset and mask may have another floating dtype than x. Positions and sums are float32 (float64 where x is float64). Under
    autocast a float32 x is cast, offset and mask are not. Results on the CPU do not depend on the number of threads.

    Outside the image x is 0. A sample at or beyond -1 or H (W) is 0 as a whole, and so are its gradients. At exactly -1
    `dkic.ops.deform_conv2d` and torchvision give offset the gradient of the inner side instead.

    `torch.vmap` folds its dimension into the batch. Forward-mode and second derivatives raise NotImplementedError.
    `torch.jit.script` compiles calls of this function; in them, wrong arguments are a RuntimeError of the native code.

    On CUDA the gradient of x is summed by atomics, and its last bits vary from run to run. Under
    `torch.use_deterministic_algorithms(True)` the sums are of 64-bit integers (for float64, two for each number), which are
    the same in whatever order they are made: so is every result, to the bit.

    Returns:
        y `[N, C, Ho, Wo]` in the dtype and memory format of x; gradients have that of their tensor.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it. Both are RuntimeErrors too.
        RuntimeError: the kernels for x's device are not built; the message says what to do.
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
    # offset and mask keep their dtype: bfloat16 positions would move in steps of whole pixels beyond 256.
    if x.dtype == torch.float32:
        x = x.to(torch.get_autocast_dtype(device))
    return torch.ops.dkic.ldcn(x, offset, mask, kernel_size, stride, padding, dilation)


autocast.register("ldcn", _autocast)

# Ops must be registered before they are first traced; a missing library is reported when it is used.
backends.load_cpu()
if _without_cuda := backends.load_cuda():
    # A compiled program gets here without the checks above.
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
