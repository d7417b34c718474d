"""The problems that the ops are tested on, and timed on: shapes and geometry by name, and tensors made from them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

Pair = tuple[int, int]


@dataclass(frozen=True)
class LdcnCase:
    """One call of `dkic.ops.ldcn`: x is `[batch, groups * depth, height, width]`."""

    name: str
    batch: int = 2
    groups: int = 2
    depth: int = 3
    height: int = 7
    width: int = 9
    kernel_size: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    masked: bool = True

    def __str__(self) -> str:
        return self.name

    @property
    def channels(self) -> int:
        return self.groups * self.depth

    @property
    def taps(self) -> int:
        return self.kernel_size[0] * self.kernel_size[1]

    @property
    def out_size(self) -> Pair:
        """(Ho, Wo), as of any convolution."""
        along = zip(
            (self.height, self.width), self.kernel_size, self.stride, self.padding, self.dilation, strict=True
        )
        ho, wo = ((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in along)
        return ho, wo

    @property
    def geometry(self) -> dict[str, Pair]:
        """The keyword arguments of `ldcn`."""
        return {
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
        }

    def tensors(
        self, dtype: torch.dtype = torch.float64, *, spread: float = 2.0, position_dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """x, offset and mask, the same at every call; offsets are normal with standard deviation `spread` pixels."""
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        x = normal(self.batch, self.channels, self.height, self.width).to(dtype)
        offset = normal(self.batch, self.groups * self.taps * 2, *self.out_size).mul(spread)
        mask = normal(self.batch, self.groups * self.taps, *self.out_size) if self.masked else None
        position_dtype = position_dtype or dtype
        return x, offset.to(position_dtype), mask if mask is None else mask.to(position_dtype)

    def grad_y(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """A gradient of y, the same at every call."""
        generator = torch.Generator().manual_seed(1)
        shape = (self.batch, self.channels, *self.out_size)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


PLAIN = LdcnCase("plain")

# The odd cases, each a way in which some kernel of this kind has been wrong.
LDCN_CASES = [
    PLAIN,
    LdcnCase("no mask", masked=False),
    # kernels; 13x13 has more taps than the kernel's buffer is made for
    LdcnCase("kernel 1x1", kernel_size=(1, 1), padding=(0, 0)),
    LdcnCase("kernel 3x2", kernel_size=(3, 2)),
    LdcnCase("kernel 5x5", kernel_size=(5, 5), padding=(2, 2)),
    LdcnCase("kernel 7x7", kernel_size=(7, 7), padding=(3, 3)),
    LdcnCase("kernel 13x13", kernel_size=(13, 13), padding=(6, 6)),
    LdcnCase("kernel as large as x", kernel_size=(7, 9), padding=(0, 0)),
    # geometry
    LdcnCase("stride 2x1", stride=(2, 1)),
    LdcnCase("stride beyond x", stride=(50, 60)),
    LdcnCase("padding 1x0", padding=(1, 0)),
    LdcnCase("padding beyond the kernel", padding=(4, 6)),
    LdcnCase("dilation 2x1", dilation=(2, 1)),
    LdcnCase("all of it", kernel_size=(3, 2), stride=(2, 1), padding=(1, 0), dilation=(2, 1), groups=3, depth=2),
    # sizes
    LdcnCase("batch 0", batch=0),
    LdcnCase("batch 1", batch=1),
    LdcnCase("batch 33", batch=33, height=5, width=4),
    LdcnCase("image 1x1", height=1, width=1),
    LdcnCase("image 1x1, kernel 1x1", height=1, width=1, kernel_size=(1, 1), padding=(0, 0)),
    LdcnCase("image 1x17", height=1, width=17),
    LdcnCase("image 17x1", height=17, width=1),
    LdcnCase("row longer than a tile", batch=1, height=3, width=50),
    # channels per group: every vector width of every instruction set, whole and with a rest
    *(LdcnCase(f"D {d}", depth=d, batch=1, height=5, width=6) for d in (1, 2, 5, 7, 12, 16, 24, 25, 33, 64, 127)),
    # groups; with few of them the gradient of x is cut into blocks of channels
    *(LdcnCase(f"G {g}", groups=g, batch=1, height=5, width=6) for g in (1, 3, 8)),
    LdcnCase("one channel", groups=1, depth=1),
    LdcnCase("G 1, D 100", groups=1, depth=100, batch=1, height=5, width=6),
]  # fmt: skip

# A few that take different paths through the kernel, for what is too slow to do with all.
LDCN_FEW = [case for case in LDCN_CASES if case.name in ("plain", "no mask", "all of it", "D 33", "G 1, D 100")]

# Enough numbers for statistics of the rounding.
LDCN_STATISTICS = LdcnCase("statistics", batch=2, groups=2, depth=24, height=14, width=16)


def with_batch(case: LdcnCase, batch: int) -> LdcnCase:
    """The same case with another batch size."""
    return replace(case, batch=batch)
