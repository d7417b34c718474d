"""Deformable convolution, modulated or not: a drop-in for torchvision's function."""

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
    """Convolution whose taps sample the input at learned positions, with learned weights (DCNv2, arXiv 1811.11168).

    A drop-in for `torchvision.ops.deform_conv2d`:

        y[n, o, p] = bias[o] + sum_{c, k} weight[o, c, k] * mask[n, g, k, p]
                               * bilinear(input[n, c], p*stride - padding + k*dilation + offset[n, g, k, p])

    over the channels c of o's weight group; g is c's offset group.

    Args:
        input: `[N, C, H, W]`, float32, float64, float16 or bfloat16. channels_last is the fast path.
        offset: `[N, G*K*2, Ho, Wo]`, displacements in pixels, (dy, dx) interleaved per tap; K = kernel height * width, the
            number of offset groups G follows from the shape and divides C.
        weight: `[O, C/groups, kernel height, kernel width]`, input's dtype; the number of weight groups, which divides O too,
            follows from the shape.
        bias: `[O]`, input's dtype; None means zeros.
        stride, padding, dilation: an int or (height, width).
        mask: `[N, G*K, Ho, Wo]`, the taps' weights; None means ones.

    Outside the image the input is 0. A sample at or beyond -1 or H (W) is 0 as a whole, and so are its gradients, but that of
    offset at exactly -1: there it is that of the inner side, as in torchvision. (`dkic.ops.ldcn` gives 0.) Zero offsets with
    padding put samples there. Positions and sums are float32 (float64 where input is float64).

    Under autocast everything is computed in float32 and returned in input's dtype, as torchvision does on CUDA; float64 stays.

    Differences from torchvision:

    * NaN positions give NaN, and infinite ones 0, where torchvision 0.29 may end the process. Where a sample is 0 as a whole, a
      NaN or infinite mask does not matter.
    * offset and mask may have another floating dtype than input; half-precision positions and sums are float32. bfloat16 works
      on the CPU too.
    * A channels_last input gives a channels_last y, and gradients have the memory format of their tensors; torchvision's results
      are contiguous.
    * Wrong arguments are a ValueError or TypeError with another message; both are RuntimeErrors too. Sizes, strides, paddings and
      dilations from 2^24 on are refused, and an input without channels.
    * There are kernels for the CPU and for CUDA (torchvision: MPS too).
    * `torch.func.grad` works, and `torch.vmap` is not a loop.

    On a GPU, half precision rounds samples to it once, to multiply them on the tensor cores, which sum in float32. float32 is
    multiplied by torch, and so as TF32 where torch.backends.cuda.matmul allows it, as in torchvision. The gradient of input is
    summed by atomics, in any order; under `torch.use_deterministic_algorithms(True)` it is summed in 64-bit integers, the same
    in every run. All else is the same in every run, as torch's matrix product is. The result on the CPU does not depend on the
    number of threads. `dkic.ops.explain` names the kernels that serve a call.

    `torch.vmap` folds its dimension into the batch; into groups where it is one of weight or bias, or where gradients of these
    are wanted per sample. Forward-mode and second derivatives raise NotImplementedError. `torch.jit.script` compiles calls of
    this function; in them, wrong arguments are a RuntimeError of the native code.

    Memory beside arguments and results on the CPU, forward as well as backward: up to 32 MB whatever the image's size, a copy of
    the weight and, in half precision or where input is not channels_last, the gradient of input once more in float32 (float64).
    An input that is not channels_last is copied up to 16 MB; a larger one is read as it lies, slower. On a GPU: copies of the
    weight, of input and y's gradient where they are not channels_last, and of results that are not; parts of the weight's
    gradient, in all as large as the weight or at most 1024 programs' tiles; and the gradient of input in float32 or,
    deterministic, in 64-bit integers; in float32 and float64, up to 40 MB of samples.

    Returns:
        y `[N, O, Ho, Wo]` in the dtype and memory format of input.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it. Both are RuntimeErrors too.
        RuntimeError: the kernels for input's device are not built; the message says what to do.
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
    # As torchvision on CUDA: computed in float32, returned in input's dtype. (offset and mask are read as they are.)
    def cast(t):
        return t if t is None or t.dtype == torch.float64 else t.float()

    y = torch.ops.dkic.deform_conv2d(cast(input), offset, cast(weight), cast(bias), mask, stride, padding, dilation)
    return y.to(input.dtype)


autocast.register("deform_conv2d", _autocast)

backends.load_cpu()  # ops must be registered before they are first traced; a missing library is reported when it is used
