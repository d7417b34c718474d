"""Test and benchmark cases of the ops: named shapes and geometries, and their tensors."""

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
        """(Ho, Wo) of a convolution."""
        along = zip((self.height, self.width), self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
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
]

# A few that take different paths through the kernel, for what is too slow to do with all.
LDCN_FEW = [case for case in LDCN_CASES if case.name in ("plain", "no mask", "all of it", "D 33", "G 1, D 100")]

# Where ldcn's warp kernels run on CUDA, in NHWC: 3x3 or 5x5 taps, and a group's channels whole vectors of 16 bytes in each dtype.
LDCN_WARP_CASES = [
    LdcnCase("the codec's", batch=1, groups=8, depth=24),
    LdcnCase("D 8", groups=8, depth=8),
    LdcnCase("D 16, four groups", groups=4, depth=16, height=9, width=17),
    LdcnCase("one group alone", groups=1, depth=16),
    LdcnCase("odd groups", groups=3, depth=24, height=4),
    LdcnCase("D 32, of a window", batch=1, groups=2, depth=32, height=9, width=17),
    LdcnCase("D 40, lanes without a vector", batch=1, groups=2, depth=40, height=3),
    LdcnCase("D 136, parts that differ", batch=1, groups=1, depth=136, height=4, width=5),
    LdcnCase("5x5", kernel_size=(5, 5), padding=(2, 2), groups=2, depth=24),
    LdcnCase("5x5, D 8", kernel_size=(5, 5), padding=(1, 2), groups=4, depth=8),
    LdcnCase("no mask", groups=2, depth=16, masked=False),
    LdcnCase("geometry", groups=2, depth=16, height=19, width=12, stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
    LdcnCase("image 1x17", groups=2, depth=16, height=1, width=17),
    LdcnCase("image 17x1", groups=2, depth=16, height=17, width=1),
    LdcnCase("image 2x2", groups=2, depth=16, height=2, width=2, padding=(2, 2)),
    LdcnCase("image 1x1", groups=2, depth=16, height=1, width=1),
    LdcnCase("batch 5", batch=5, groups=2, depth=16, height=5, width=4),
]

# Enough numbers for statistics of the rounding.
LDCN_STATISTICS = LdcnCase("statistics", batch=2, groups=2, depth=24, height=14, width=16)


@dataclass(frozen=True)
class DeformConv2dCase(LdcnCase):
    """One call of `dkic.ops.deform_conv2d`; `groups` are the offset's."""

    weight_groups: int = 1
    out_channels: int = 4
    biased: bool = True

    @property
    def geometry(self) -> dict[str, Pair]:
        """The keyword arguments of `deform_conv2d`."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}

    def tensors(
        self, dtype: torch.dtype = torch.float64, *, spread: float = 2.0, position_dtype: torch.dtype | None = None
    ) -> tuple[Tensor | None, ...]:
        """input, offset, weight, bias and mask, the same at every call. weight is scaled for a variance of y near 1."""
        x, offset, mask = super().tensors(dtype, spread=spread, position_dtype=position_dtype)
        generator = torch.Generator().manual_seed(2)
        shape = (self.out_channels, self.channels // self.weight_groups, *self.kernel_size)
        weight = torch.randn(shape, generator=generator, dtype=torch.float64) / (shape[1] * self.taps) ** 0.5
        bias = torch.randn(self.out_channels, generator=generator, dtype=torch.float64)
        return x, offset, weight.to(dtype), bias.to(dtype) if self.biased else None, mask

    def grad_y(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """A gradient of y, the same at every call."""
        generator = torch.Generator().manual_seed(1)
        shape = (self.batch, self.out_channels, *self.out_size)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


PLAIN_CONV = DeformConv2dCase("plain")
# torchvision's own test (test/test_ops.py, TestDeformConv), with all its options at once.
TORCHVISION_CONV = DeformConv2dCase(
    "torchvision's test",
    batch=33,
    groups=3,
    depth=2,
    height=5,
    width=4,
    weight_groups=2,
    out_channels=2,
    kernel_size=(3, 2),
    stride=(2, 1),
    padding=(1, 0),
    dilation=(2, 1),
)

DEFORM_CONV2D_CASES = [
    PLAIN_CONV,
    TORCHVISION_CONV,
    replace(TORCHVISION_CONV, name="torchvision's test, no mask", masked=False),
    replace(TORCHVISION_CONV, name="torchvision's test, no bias", biased=False),
    replace(TORCHVISION_CONV, name="torchvision's test, batch 1", batch=1),
    replace(TORCHVISION_CONV, name="torchvision's test, batch 0", batch=0),
    DeformConv2dCase("no mask, no bias", masked=False, biased=False),
    # kernels; 13x13 has more taps than the taps' buffer is made for
    DeformConv2dCase("kernel 1x1", kernel_size=(1, 1), padding=(0, 0)),
    DeformConv2dCase("kernel 5x5", kernel_size=(5, 5), padding=(2, 2)),
    DeformConv2dCase("kernel 13x13", kernel_size=(13, 13), padding=(6, 6)),
    DeformConv2dCase("kernel as large as x", kernel_size=(7, 9), padding=(0, 0)),
    # geometry
    DeformConv2dCase("stride beyond x", stride=(50, 60)),
    DeformConv2dCase("padding beyond the kernel", padding=(4, 6)),
    # sizes: strips of 16 columns, blocks of 32 pixels and more, over rows and images
    DeformConv2dCase("image 1x1", height=1, width=1),
    DeformConv2dCase("image 1x17", height=1, width=17),
    DeformConv2dCase("image 17x1", height=17, width=1),
    DeformConv2dCase("rows of three strips", batch=3, height=11, width=35),
    DeformConv2dCase("many blocks", batch=2, groups=1, depth=40, height=37, width=41, out_channels=3),
    # offset groups and weight groups: equal, one within the other, and neither; with few offset groups backward cuts channels
    DeformConv2dCase("one channel", groups=1, depth=1, out_channels=1),
    *(
        DeformConv2dCase(
            f"G {groups} D {depth}, {weight_groups} weight groups",
            batch=1,
            groups=groups,
            depth=depth,
            weight_groups=weight_groups,
            out_channels=out_channels,
            height=6,
            width=19,
        )
        for groups, depth, weight_groups, out_channels in (
            (1, 12, 1, 5),
            (1, 12, 12, 12),
            (1, 12, 12, 24),
            (12, 1, 1, 5),
            (12, 1, 12, 12),
            (4, 3, 3, 6),
            (3, 4, 6, 6),
            (2, 6, 6, 12),
            (1, 67, 1, 3),
            (1, 100, 1, 7),
            (1, 128, 1, 3),
            (1, 128, 4, 4),
            (2, 64, 1, 33),
            (8, 24, 1, 16),
            (8, 24, 2, 2),
        )
    ),
]

# A few that take different paths, for what is too slow to do with all.
DEFORM_CONV2D_FEW = [
    case
    for case in DEFORM_CONV2D_CASES
    if case.name in ("plain", "torchvision's test", "no mask, no bias", "many blocks", "G 1 D 128, 4 weight groups")
]

DEFORM_CONV2D_STATISTICS = DeformConv2dCase("statistics", batch=2, groups=2, depth=24, height=14, width=16, out_channels=20)


def with_batch(case: LdcnCase, batch: int) -> LdcnCase:
    """The same case with another batch size."""
    return replace(case, batch=batch)


@dataclass(frozen=True)
class LikelihoodCase:
    """One call of `dkic.ops.gaussian_likelihood`."""

    name: str
    shape: tuple[int, ...]
    has_mean: bool = True

    def __str__(self) -> str:
        return self.name

    def tensors(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor | None]:
        """y, scale and mean, the same at every call. Scales are 0.02 to 60, so some are below scale_min; some are 0 or below."""
        generator = torch.Generator().manual_seed(seed)

        def uniform(low: float, high: float) -> Tensor:
            return torch.rand(self.shape, generator=generator, dtype=torch.float64) * (high - low) + low

        scale = torch.exp(uniform(-4, 4.1))
        scale.view(-1)[3::17] *= -1
        scale.view(-1)[4::19] = 0
        mean = uniform(-3, 3)
        y = mean + scale.abs() * uniform(-4, 4) + uniform(-0.6, 0.6)
        return y.to(dtype), scale.to(dtype), mean.to(dtype) if self.has_mean else None

    def noise(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """A noise tensor, the same at every call."""
        generator = torch.Generator().manual_seed(2)
        return torch.rand(self.shape, generator=generator, dtype=torch.float64).sub(0.5).to(dtype)

    def gradients(self, reduction: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Gradients of y_hat and bits, of both signs, the same at every call."""
        generator = torch.Generator().manual_seed(1)
        shape = self.shape if reduction == "none" else self.shape[:1]
        grad_y_hat = torch.randn(self.shape, generator=generator, dtype=torch.float64)
        return grad_y_hat.to(dtype), torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


LATENT = LikelihoodCase("latent", (2, 6, 5, 7))

# Sizes beside those of a vector (up to 16), of a tile (512) and of a chunk (4096), and every rank.
LIKELIHOOD_CASES = [
    LATENT,
    LikelihoodCase("no mean", (2, 6, 5, 7), has_mean=False),
    LikelihoodCase("no sample", (0, 3, 2, 2)),
    LikelihoodCase("no channel", (2, 0, 3, 3)),
    LikelihoodCase("nothing in two ways", (0, 0)),
    LikelihoodCase("one number", (1,)),
    LikelihoodCase("one number, rank 4", (1, 1, 1, 1)),
    *(LikelihoodCase(f"row of {n}", (1, n)) for n in (1, 3, 8, 15, 16, 17, 63, 64, 65, 255, 256, 257, 4095, 4096, 4097, 8500)),
    LikelihoodCase("samples of one number", (70,)),
    LikelihoodCase("rank 2", (33, 29)),
    LikelihoodCase("rank 3", (3, 10, 41)),
    LikelihoodCase("rank 5", (2, 3, 4, 5, 6)),
    LikelihoodCase("rank 7", (2, 3, 1, 2, 4, 2, 3)),
    LikelihoodCase("pixels only", (2, 1, 20, 31)),
    LikelihoodCase("channels only", (2, 300, 1, 1)),
]
