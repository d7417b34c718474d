"""LDCN block: a residual layer whose kernel is predicted from its input."""

from typing import Literal, get_args

from torch import Tensor, nn

from dkic.errors import DkicError
from dkic.ops import ldcn

Mask = Literal["sigmoid", "softmax", "linear", "none"]
MASKS: tuple[Mask, ...] = get_args(Mask)


def plus_branch(x: Tensor, branch: Tensor) -> Tensor:
    """x + branch. It overwrites branch, a tensor of no other use: for a large image, making another one costs more than adding.

    Not where autocast has made branch of a lower precision than x, and so than the sum.
    """
    return branch.add_(x) if branch.dtype == x.dtype else x + branch


class LDCNBlock(nn.Module):
    """x + project(ldcn(value(x), offset(x), mask(x))): a dynamic kernel with weights shared by all taps.

    value and project are 1x1 convolutions; offset and mask come from a depthwise 3x3 and a 1x1 convolution (offset_mask) whose
    weights are zero at the start, so that training begins from a kernel on the plain 3x3 grid that is the same everywhere.

    Args:
        channels: C of x `[N, C, H, W]` and of the result.
        groups: LDCN groups; must divide channels.
        kernel_size: taps along each side; odd.
        mask: how taps are weighted: "linear" (not bounded, as in DCNv4), "sigmoid", "softmax" over the taps, or "none" (ones).
            "linear" starts from a random kernel of each group, uniform in +-1/kernel_size (the bound of a depthwise convolution
            of this size); the others start from equal weights, which is a box filter and learns slower.
        residual: add x to the result.
        relu: apply a ReLU between the aggregation and project, which are one linear map without it.

    Raises:
        DkicError: an argument is not as above.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        kernel_size: int = 3,
        mask: Mask = "linear",
        residual: bool = True,
        relu: bool = True,
    ) -> None:
        super().__init__()
        if groups < 1 or channels % groups or kernel_size % 2 == 0 or mask not in MASKS:
            raise DkicError(
                f"LDCNBlock needs groups that divide channels, an odd kernel_size and a mask of {', '.join(MASKS)}; "
                f"not {channels} channels, {groups} groups, kernel_size {kernel_size}, mask {mask!r}"
            )
        self.groups, self.kernel_size, self.mask, self.residual, self.relu = groups, kernel_size, mask, residual, relu
        self.taps = groups * kernel_size**2
        self.value, self.depthwise, self.offset_mask, self.project = self._convolutions(channels)
        for parameter in self.offset_mask.parameters():
            nn.init.zeros_(parameter)
        if mask == "linear":
            assert self.offset_mask.bias is not None
            nn.init.uniform_(self.offset_mask.bias[self.taps * 2 :], -1 / kernel_size, 1 / kernel_size)

    def _convolutions(self, channels: int) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d, nn.Conv2d]:
        return (
            nn.Conv2d(channels, channels, 1),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.Conv2d(channels, self.taps * (2 if self.mask == "none" else 3), 1),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.aggregate(x)
        y = self.project(y.relu_() if self.relu else y)
        return plus_branch(x, y) if self.residual else y

    def aggregate(self, x: Tensor) -> Tensor:
        """The dynamic kernel alone: ldcn(value(x), offset(x), mask(x))."""
        offset_mask = self.offset_mask(self.depthwise(x))
        offset, mask = offset_mask[:, : self.taps * 2], offset_mask[:, self.taps * 2 :]
        if self.mask == "none":
            mask = None
        elif self.mask == "sigmoid":
            mask = mask.sigmoid()
        elif self.mask == "softmax":
            mask = mask.unflatten(1, (self.groups, -1)).softmax(2).flatten(1, 2)
        pad = self.kernel_size // 2
        return ldcn(self.value(x), offset, mask, kernel_size=self.kernel_size, padding=pad)

    def extra_repr(self) -> str:
        return f"groups={self.groups}, kernel_size={self.kernel_size}, mask={self.mask!r}, relu={self.relu}"
