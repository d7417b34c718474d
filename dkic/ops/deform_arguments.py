"""Argument checks and error messages of the deformable ops."""

import operator
from collections.abc import Iterable

import torch
from torch import Tensor

from dkic.ops.accepted_calls import accept, call_of, was_accepted

Sizes = tuple[int, int]
Pair = int | Sizes
SIZE_LIMIT = 2**24  # positions are float32, which is exact for integers up to this limit
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class ArgumentTypeError(TypeError, RuntimeError):
    """An argument has an invalid type. Also a RuntimeError, like the errors of PyTorch's and torchvision's ops."""


class ArgumentValueError(ValueError, RuntimeError):
    """An argument has an invalid value or shape. Also a RuntimeError, like the errors of PyTorch's and torchvision's ops."""


def pair_of(op: str, name: str, value: Pair) -> Sizes:
    """Converts an integer or a pair of integers to a pair (height, width). Raises ArgumentTypeError.

    Integers are objects with `__index__`: int, bool, NumPy integers, integer tensors with one element. A SymInt stays symbolic.
    """
    if type(value) is int:  # fast path of the common case
        return value, value
    try:
        values = (value, value) if not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0 else tuple(value)
        height, width = (v if isinstance(v, torch.SymInt) else int(operator.index(v)) for v in values)
    except (TypeError, ValueError):
        message = f"{op}/{name}: must be an int or a pair (height, width) of ints, and is {value!r}"
        raise ArgumentTypeError(message) from None
    return height, width


def list_of(pair: Pair) -> list[int]:
    """Converts an int or a pair of ints to the list [height, width]; scriptable."""
    if isinstance(pair, int):
        return [pair, pair]
    return [pair[0], pair[1]]


def check_tensor(op: str, name: str, t: Tensor, image: tuple[str, Tensor], dimensions: int = 4) -> None:
    """Checks type, dtype, number of dimensions and device of an argument. image: name and tensor of the image."""
    if not isinstance(t, Tensor):
        raise ArgumentTypeError(f"{op}/{name}: must be a tensor, and is a {type(t).__name__}")
    if t.dtype not in _FLOATS:
        raise ArgumentTypeError(f"{op}/{name}: must be float32, float64, float16 or bfloat16, and is {str(t.dtype)[6:]}")
    if t.dim() != dimensions:
        message = f"{op}/{name}: must have {dimensions} dimension{'s'[: dimensions > 1]}, and has shape {list(t.shape)}"
        raise ArgumentValueError(message)
    if t.device != image[1].device:
        raise ArgumentValueError(f"{op}/{name}: must be on {image[0]}'s device {image[1].device}, and is on {t.device}")


def check_samples(
    op: str,
    image: tuple[str, Tensor],
    offset: Tensor,
    mask: Tensor | None,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
) -> None:
    """Checks that the shapes of image, offset and mask match the geometry. image: its name and tensor."""
    what, x = image
    call = call_of(op, what, x, offset, mask, kernel, stride, padding, dilation)
    if was_accepted(call):
        return
    check_tensor(op, what, x, image)
    check_tensor(op, "offset", offset, image)
    if mask is not None:
        check_tensor(op, "mask", mask, image)
    for name, values, least in (
        ("kernel_size", kernel, 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
        ("dilation", dilation, 1),
    ):
        if min(values) < least:
            raise ArgumentValueError(f"{op}/{name}: must be at least {least}, and is {values}")
        if max(values) >= SIZE_LIMIT:
            raise ArgumentValueError(f"{op}/{name}: must be below 2^24, and is {values}")
    n, c, h, w = x.shape
    if max(h, w) >= SIZE_LIMIT:
        raise ArgumentValueError(f"{op}/{what}: must be below 2^24 pixels high and wide, and is {h}x{w}")
    k = kernel[0] * kernel[1]
    size = [out_size(*along) for along in zip((h, w), kernel, stride, padding, dilation, strict=True)]
    if h < 1 or w < 1 or min(size) < 1:
        raise ArgumentValueError(
            f"{op}/{what}: must be at least as large as the dilated kernel, and is {h}x{w} with padding {padding}"
        )
    groups = offset.shape[1] // (2 * k)
    if groups == 0 or offset.shape[1] != groups * k * 2 or c % groups or c == 0:
        raise ArgumentValueError(
            f"{op}/offset: must have G*{k}*2 channels for a {kernel[0]}x{kernel[1]} kernel, with G dividing {what}'s {c} "
            f"channels, and has {offset.shape[1]}"
        )
    shaped: list[tuple[str, Tensor | None, int]] = [("offset", offset, groups * k * 2), ("mask", mask, groups * k)]
    for name, given, channels in shaped:
        if given is not None and any(have != want for have, want in zip(given.shape, (n, channels, *size), strict=True)):
            raise ArgumentValueError(f"{op}/{name}: must have shape {[n, channels, *size]}, and has {list(given.shape)}")
    accept(call)


def out_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Output height or width of a convolution."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
