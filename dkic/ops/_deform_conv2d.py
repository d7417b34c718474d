"""Deformable convolution, with or without a modulation mask: a drop-in replacement for torchvision's function."""

import torch
from torch import Tensor

from dkic.ops import autocast, autograd, backends
from dkic.ops.accepted_calls import accept, call_of, was_accepted
from dkic.ops.deform_arguments import ArgumentTypeError, ArgumentValueError, Pair, check_samples, check_tensor, list_of, pair_of
from dkic.ops.memory_format import empty_like_format, gradient_like
from dkic.ops.schemas import library


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Modulated deformable convolution (DCNv2, arXiv 1811.11168).

    A drop-in replacement for `torchvision.ops.deform_conv2d`:

        y[n, o, p] = bias[o] + sum_{c, k} weight[o, c, k] * mask[n, g, k, p]
                               * bilinear(input[n, c], p*stride - padding + k*dilation + offset[n, g, k, p])

    summed over the channels c of the weight group of o; g is the offset group of c.

    Args:
        input: `[N, C, H, W]`, float32, float64, float16 or bfloat16. channels_last is fastest.
        offset: `[N, G*K*2, Ho, Wo]`, displacements in pixels, (dy, dx) interleaved per tap; K = kernel height * width. The
            number of offset groups G is inferred from the shape and must divide C.
        weight: `[O, C/groups, kernel height, kernel width]`, same dtype as input. The number of weight groups is inferred from
            the shape and must divide C and O.
        bias: `[O]`, same dtype as input; None means zeros.
        stride, padding, dilation: an int or (height, width).
        mask: `[N, G*K, Ho, Wo]`, the weight of each tap; None means ones.

    The input is zero-padded. A sample with a coordinate <= -1 or >= H (W) is 0, and so are its gradients, with one exception: at
    a coordinate of exactly -1, the gradient of offset is the one-sided derivative from inside the image, as in torchvision.
    (`dkic.ops.ldcn` returns 0.) Zero offsets with padding sample at exactly -1. Positions and sums are float32 (float64 if input
    is float64).

    Under autocast, the op computes in float32 and returns input's dtype, as torchvision does on CUDA; float64 stays float64.

    Differences from torchvision:

    * NaN positions produce NaN and infinite positions produce 0; torchvision 0.29 can crash the process. For a sample outside
      the image, a NaN or infinite mask has no effect.
    * offset and mask can have a different floating-point dtype than input. With half-precision inputs, positions and sums are
      float32. bfloat16 is also supported on the CPU.
    * A channels_last input gives a channels_last y. Gradients have the memory format of their tensors. torchvision's results are
      contiguous.
    * Invalid arguments raise ValueError or TypeError, with different messages; both are also RuntimeErrors. Sizes,
      strides, paddings and dilations must be below 2^24, and input must have at least one channel.
    * CPU and CUDA are supported (torchvision also supports MPS).
    * `torch.func.grad` is supported, and `torch.vmap` has a batching rule instead of a loop.

    On a GPU, half-precision samples are rounded once and multiplied on the tensor cores with float32 accumulation. float32
    samples are multiplied by PyTorch's GEMM, in TF32 if `torch.backends.cuda.matmul` allows it, as in torchvision. The gradient
    of input is accumulated with atomics in a nondeterministic order; under `torch.use_deterministic_algorithms(True)` it is
    accumulated in 64-bit integers and reproducible bit by bit. All other results are as reproducible as PyTorch's matrix
    product. Results on the CPU do not depend on the number of threads. `dkic.ops.explain` names the kernels of a call.

    `torch.vmap` folds the vmapped dimension into the batch. If weight or bias is vmapped, or if their gradients are requested
    per sample, it is folded into the groups. Forward-mode and second derivatives raise NotImplementedError. `torch.jit.script`
    supports this function; there, invalid arguments raise a RuntimeError from the native code.

    Additional memory on the CPU, forward and backward: up to 32 MB for any image size, and a copy of weight. In half precision,
    or if input is not channels_last, the gradient of input is also held in float32 (float64). An input that is not channels_last
    is copied if it has up to 16 MB; a larger input is read with its strides, which is slower.

    Additional memory on a GPU: a copy of weight; channels_last copies of input, of y's gradient and of results that have another
    memory format; partial sums of weight's gradient, in total the size of weight or the tiles of 1024 programs; the gradient of
    input in float32 (64-bit integers if deterministic); for float32 and float64, up to 40 MB of samples.

    Returns:
        y `[N, O, Ho, Wo]` in the dtype and memory format of input.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it. Both are also RuntimeErrors.
        RuntimeError: the kernels for input's device are not available; the message explains how to fix it.
    """
    if not torch.jit.is_scripting():
        stride, padding = pair_of("deform_conv2d", "stride", stride), pair_of("deform_conv2d", "padding", padding)
        dilation = pair_of("deform_conv2d", "dilation", dilation)
        _check(input, offset, weight, bias, stride, padding, dilation, mask)
        backends.check_runs("deform_conv2d", input.device)
        if autograd.is_plain_call(input, offset, weight, bias, mask):
            with torch._C._AutoDispatchBelowAutograd():
                return torch.ops.dkic.deform_conv2d(input, offset, weight, bias, mask, stride, padding, dilation)
    return torch.ops.dkic.deform_conv2d(input, offset, weight, bias, mask, list_of(stride), list_of(padding), list_of(dilation))


def _check(input, offset, weight, bias, stride, padding, dilation, mask) -> None:
    with_autocast = torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")
    call = call_of("deform_conv2d", input, offset, weight, bias, mask, stride, padding, dilation, with_autocast)
    if was_accepted(call):
        return
    image = ("input", input)
    check_tensor("deform_conv2d", *image, image)
    check_tensor("deform_conv2d", "weight", weight, image)
    check_samples("deform_conv2d", image, offset, mask, tuple(weight.shape[2:]), stride, padding, dilation)
    (o, depth, kh, kw), c = weight.shape, input.shape[1]
    if depth == 0 or c % depth or o % (c // depth):
        raise ArgumentValueError(
            f"deform_conv2d/weight: must have shape [O, {c}/groups, {kh}, {kw}], with groups dividing both input's {c} channels "
            f"and O, and has {list(weight.shape)}"
        )
    for name, t in (("weight", weight), ("bias", bias)):
        if t is None:
            continue
        check_tensor("deform_conv2d", name, t, image, dimensions=4 if t is weight else 1)
        if t.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
            message = f"deform_conv2d/{name}: must have input's dtype {str(input.dtype)[6:]}, and is {str(t.dtype)[6:]}"
            raise ArgumentTypeError(message)
    if bias is not None and bias.shape[0] != o:
        raise ArgumentValueError(f"deform_conv2d/bias: must have shape {[o]}, and has {list(bias.shape)}")
    accept(call)


@torch.library.register_fake("dkic::deform_conv2d", lib=library)
def _deform_conv2d_fake(input, offset, weight, bias, mask, stride, padding, dilation):
    return empty_like_format(input, (input.shape[0], weight.shape[0], offset.shape[2], offset.shape[3]))


@torch.library.register_fake("dkic::deform_conv2d_backward", lib=library)
def _deform_conv2d_backward_fake(
    grad_y,
    input,
    offset,
    weight,
    mask,
    stride,
    padding,
    dilation,
    need_input,
    need_offset,
    need_weight,
    need_bias,
    need_mask,
    deterministic,
):
    return (
        gradient_like(input, need_input),
        gradient_like(offset, need_offset),
        weight.new_empty(weight.shape if need_weight else (0,)),
        weight.new_empty((weight.shape[0] if need_bias else 0,)),
        gradient_like(offset if mask is None else mask, need_mask and mask is not None),
    )


@torch.library.impl("dkic::deform_conv2d", "CUDA", lib=library)
def _cuda(*arguments):
    return backends.triton_kernels("deform_conv2d").forward(*arguments)


@torch.library.impl("dkic::deform_conv2d_backward", "CUDA", lib=library)
def _backward_cuda(*arguments):
    return backends.triton_kernels("deform_conv2d").backward(*arguments)


def _setup_context(ctx, inputs, output) -> None:
    input, offset, weight, _, mask, *ctx.geometry = inputs
    ctx.save_for_backward(input, offset, weight, mask)


def _backward(ctx, grad_y):
    input, offset, weight, mask = ctx.saved_tensors
    needed = ctx.needs_input_grad[:5]
    gradients = torch.ops.dkic.deform_conv2d_backward(
        grad_y, input, offset, weight, mask, *ctx.geometry, *needed, torch.are_deterministic_algorithms_enabled()
    )
    return *(gradient if need else None for gradient, need in zip(gradients, needed, strict=True)), None, None, None


autograd.register("deform_conv2d", _backward, _setup_context)


def _autocast(_device, input, offset, weight, bias, mask, stride, padding, dilation):
    # As torchvision on CUDA: compute in float32, return input's dtype. offset and mask need no cast; kernels convert on load.
    def cast(t):
        return t if t is None or t.dtype == torch.float64 else t.float()

    y = torch.ops.dkic.deform_conv2d(cast(input), offset, cast(weight), cast(bias), mask, stride, padding, dilation)
    return y.to(input.dtype)


autocast.register("deform_conv2d", _autocast)

backends.load_cpu()  # ops must be registered before tracing; the first call reports a missing library
