"""The aggregation of DCNv3 and DCNv4 on `dkic.ops.ldcn`: NHWC tensors, (x, y) offsets, taps along w first.

from dkic.nn.functional import dcnv3, dcnv4
"""

from torch import Tensor

from dkic.nn.tap_order import TapOrder
from dkic.ops import ldcn
from dkic.ops.deform_arguments import ArgumentValueError, Pair, check_tensor, pair_of


def dcnv3(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size: Pair = 3,
    stride: Pair = 1,
    pad: Pair = 1,
    dilation: Pair = 1,
    group: int = 4,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> Tensor:
    """DCNv3's aggregation of modulated samples (InternImage, arXiv 2211.05778, equation 2).

    Equals `DCNv3Function` and `dcnv3_core_pytorch` of InternImage, with no limit on channels or kernel size.

    Args:
        input: `[N, H, W, C]`, contiguous for speed; float32, float64, float16 or bfloat16.
        offset: `[N, Ho, Wo, G*P*2]`, displacements in pixels, (x, y) interleaved per tap, taps along w first; P = kernel height *
            width, minus 1 if remove_center is set.
        mask: `[N, Ho, Wo, G*P]`, the taps' weights, after any softmax.
        kernel_size, stride, pad, dilation: an int or (height, width).
        group: number of groups G; must divide C.
        offset_scale: scales the distance of every sample from the kernel's center.
        remove_center: the center tap has neither offset nor mask, and is not sampled.

    Gradients, autocast and memory formats are those of `dkic.ops.ldcn`. offset and mask are copied to reorder them; the module
    `dkic.nn.DCNv3` reorders its weights instead.

    Returns:
        `[N, Ho, Wo, C]` in input's dtype.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it. Both are RuntimeErrors too.
        RuntimeError: the kernels for input's device are not built; the message says what to do.
    """
    kernel_size, dilation = pair_of("dcnv3", "kernel_size", kernel_size), pair_of("dcnv3", "dilation", dilation)
    order = TapOrder("dcnv3", group, kernel_size, dilation, offset_scale, remove_center, packed=False, device=input.device)
    _check("dcnv3", input, offset=offset, mask=mask)
    for name, t, channels in (("offset", offset, order.offset_channels), ("mask", mask, order.mask_channels)):
        if t.shape[-1] != channels:
            raise ArgumentValueError(f"dcnv3/{name}: has {t.shape[-1]} channels; give {channels}")
    return aggregate(input, order.offsets(offset), order.masks(mask), kernel_size, stride, pad, dilation)


def dcnv4(
    input: Tensor,
    offset_mask: Tensor,
    kernel_size: Pair = 3,
    stride: Pair = 1,
    pad: Pair = 1,
    dilation: Pair = 1,
    group: int = 4,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> Tensor:
    """DCNv4's aggregation of modulated samples (arXiv 2401.06197), with offsets and masks packed in one tensor.

    Equals `DCNv4Function` of FlashInternImage, with no limit on channels or kernel size; it also runs on the CPU.

    Args:
        input: `[N, H, W, C]`, contiguous for speed; float32, float64, float16 or bfloat16.
        offset_mask: `[N, Ho, Wo, Q]`. Each group has P*2 offsets, as in `dcnv3`, followed by P masks. Q is at least G*P*3;
            channels beyond are ignored (DCNv4 pads to a multiple of 8).
        kernel_size, stride, pad, dilation, group, offset_scale, remove_center: as in `dcnv3`.

    offset_mask is copied to reorder it; the module `dkic.nn.DCNv4` reorders its weight instead.

    Returns:
        `[N, Ho, Wo, C]` in input's dtype.

    Raises:
        TypeError, ValueError: as for `dcnv3`.
    """
    kernel_size, dilation = pair_of("dcnv4", "kernel_size", kernel_size), pair_of("dcnv4", "dilation", dilation)
    order = TapOrder("dcnv4", group, kernel_size, dilation, offset_scale, remove_center, packed=True, device=input.device)
    _check("dcnv4", input, offset_mask=offset_mask)
    least = order.offset_channels + order.mask_channels
    if offset_mask.shape[-1] < least:
        raise ArgumentValueError(f"dcnv4/offset_mask: has {offset_mask.shape[-1]} channels; give at least {least}")
    return aggregate(input, order.offsets(offset_mask), order.masks(offset_mask), kernel_size, stride, pad, dilation)


def aggregate(input: Tensor, offset: Tensor, mask: Tensor, kernel_size: Pair, stride: Pair, pad: Pair, dilation: Pair) -> Tensor:
    """`dkic.ops.ldcn` on NHWC tensors, without copies."""
    x, offset, mask = (t.permute(0, 3, 1, 2) for t in (input, offset, mask))
    return ldcn(x, offset, mask, kernel_size, stride, pad, dilation).permute(0, 2, 3, 1)


def _check(op: str, input: Tensor, **others: Tensor) -> None:
    for name, t in {"input": input, **others}.items():
        check_tensor(op, name, t, ("input", input))
