"""Functions of other packages that dkic is compared with, called so that they compute the same results."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch
from compressai.entropy_models import GaussianConditional
from constriction import stream
from highspy import Highs, HighsLp, HighsVarType, MatrixFormat, SolutionStatus
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csc_array
from torch import Tensor
from torchvision.ops import deform_conv2d

from dkic.nn.tap_order import TapOrder


def torchvision_ldcn(x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, **geometry) -> Tensor:
    """`dkic.ops.ldcn` by torchvision: a deformable convolution with one weight group per channel.

    Args:
        weight: ones `[C, 1, kh, kw]`, which torchvision requires.
        geometry: kernel_size (which follows from weight) and stride, padding, dilation.
    """
    geometry.pop("kernel_size", None)
    return deform_conv2d(x, offset, weight, mask=mask, **geometry)


def dcnv4_order(groups: int, kernel_size: tuple[int, int]) -> TapOrder:
    """The order of DCNv4's channels of offsets and masks, at its dilation of 1."""
    return TapOrder("DCNv4", groups, kernel_size, (1, 1), offset_scale=1.0, remove_center=False, packed=True)


def dcnv4_inputs(x: Tensor, offset: Tensor, mask: Tensor, order: TapOrder) -> tuple[Tensor, Tensor]:
    """`dkic.ops.ldcn`'s tensors as DCNv4 takes them: value `[N, H, W, C]`, and offsets and masks `[N, Ho, Wo, P]` of one dtype.

    P is G * K * 3, rounded up to a multiple of 8.
    """
    channels = order.offset_channels + order.mask_channels
    packed = x.new_zeros(len(offset), *offset.shape[2:], -channels % 8 + channels)
    packed[..., order.offset_rows] = offset.permute(0, 2, 3, 1).to(x.dtype)
    packed[..., order.mask_rows] = mask.permute(0, 2, 3, 1).to(x.dtype)
    return x.permute(0, 2, 3, 1).contiguous(), packed


def dcnv4_ldcn(value: Tensor, packed: Tensor, groups: int, kernel_size: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """`dkic.ops.ldcn` by the package DCNv4, y `[N, Ho, Wo, C]`; needs a GPU. value, packed: see `dcnv4_inputs`."""
    from DCNv4.functions import DCNv4Function

    stride = dilation = (1, 1)
    depth, images_at_once = value.shape[3] // groups, 256
    sizes = (*kernel_size, *stride, *padding, *dilation)
    return DCNv4Function.apply(value, packed, *sizes, groups, depth, 1.0, images_at_once, False)


def gaussian_conditional(scales: np.ndarray) -> GaussianConditional:
    """CompressAI's tables for zero-mean Gaussians of these scales, created as in its models."""
    model = GaussianConditional(None)
    model.update_scale_table(torch.from_numpy(scales).float())
    return model


def compressai_gaussian(symbols: Tensor, indexes: Tensor, scales: np.ndarray) -> tuple[Callable, Callable, Callable]:
    """(encode, decode, bytes_of) by CompressAI's interface: float32 `[1, n]` and int32 indexes, which it converts to lists."""
    model, y, index = gaussian_conditional(scales), symbols.float().unsqueeze(0), indexes.int().unsqueeze(0)
    return lambda: model.compress(y, index), lambda strings: model.decompress(strings, index), lambda strings: len(strings[0])


def compressai_lists(symbols: Tensor, indexes: Tensor, scales: np.ndarray) -> tuple[Callable, Callable, Callable]:
    """(encode, decode, bytes_of) by CompressAI's internal C++ coder, given lists."""
    model, y, index = gaussian_conditional(scales), symbols.tolist(), indexes.tolist()
    tables = model._quantized_cdf.tolist(), model._cdf_length.tolist(), model._offset.tolist()
    coder = model.entropy_coder
    return (
        lambda: coder.encode_with_indexes(y, index, *tables),
        lambda string: coder.decode_with_indexes(string, index, *tables),
        len,
    )


def constriction_coder(symbols: Tensor, indexes: Tensor, scales: np.ndarray) -> tuple[Callable, Callable, Callable]:
    """(encode, decode, bytes_of) by an ANS coder that integrates the Gaussian for every symbol."""
    y, scale, mean = symbols.numpy(), scales[indexes.numpy()], np.zeros(len(symbols))
    bound = int(np.abs(y).max())
    model = stream.model.QuantizedGaussian(-bound, bound)

    def encode() -> np.ndarray:
        coder = stream.stack.AnsCoder()
        coder.encode_reverse(y, model, mean, scale)
        return coder.get_compressed()

    return encode, lambda words: stream.stack.AnsCoder(words).decode(model, mean, scale), lambda words: words.nbytes


def compressai_likelihood() -> Callable[[Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor]]:
    """(y, scale, mean, noise) -> (y_hat, bits) by CompressAI's entropy model, with noise or rounded."""
    model = GaussianConditional(None)

    def call(y: Tensor, scale: Tensor, mean: Tensor, noise: bool) -> tuple[Tensor, Tensor]:
        y_hat, likelihood = model.to(y.device)(y, scale, mean, training=noise)
        return y_hat, -torch.log2(likelihood)

    return call


@contextmanager
def peer_ops() -> Iterator[None]:
    """Context manager: dkic's models use torchvision's deformable convolution and CompressAI's likelihood inside."""
    likelihood = compressai_likelihood()

    def ldcn(x: Tensor, offset: Tensor, mask: Tensor | None = None, *, kernel_size: int, **geometry: int) -> Tensor:
        weight = x.new_ones(x.shape[1], 1, kernel_size, kernel_size)
        return torchvision_ldcn(x, offset, mask, weight, **geometry)

    def gaussian_likelihood(y: Tensor, scale: Tensor, *, quantize: str, reduction: str, **_: object) -> tuple[Tensor, Tensor]:
        assert reduction == "sum"
        y_hat, bits = likelihood(y, scale, torch.zeros_like(y), quantize == "noise")
        return y_hat, bits.flatten(1).sum(1)

    theirs = mock.patch("dkic.models.codec_network.gaussian_likelihood", gaussian_likelihood)
    with mock.patch("dkic.nn.ldcn_block.ldcn", ldcn), theirs:
        yield


def plain_gaussian(y: Tensor, scale: Tensor, mean: Tensor, noise: bool) -> tuple[Tensor, Tensor]:
    """The same formula in few torch operations, for torch.compile."""
    if noise:
        y_hat = y + (torch.rand_like(y) - 0.5)
    else:
        y_hat = y + ((y - mean).round() + mean - y).detach()
    v, s = (y_hat - mean).abs(), scale.clamp_min(0.11)
    upper, lower = (torch.special.erfc((edge + v) * 0.5**0.5 / s) for edge in (-0.5, 0.5))
    return y_hat, -torch.log2((0.5 * (upper - lower)).clamp_min(1e-9))


def allocation_matrix(rate: np.ndarray) -> csc_array:
    """The rows of the paper's Eq 6 for bpp `[N, M]`: each image's options, then all rates; a column for each option."""
    n, m = rate.shape
    rows = np.stack([np.repeat(np.arange(n), m), np.full(n * m, n)], axis=1)
    values = np.stack([np.ones(n * m), rate.ravel()], axis=1)
    return csc_array((values.ravel(), rows.ravel(), np.arange(0, 2 * n * m + 1, 2)), shape=(n + 1, n * m))


def highspy_allocation(rate: np.ndarray, distortion: np.ndarray, mean: float, gap: float, seconds: float) -> np.ndarray | None:
    """The choice `[N]` of HiGHS's MIP solver, given all options; None if it finds none in time."""
    n, m = rate.shape
    matrix = allocation_matrix(rate)
    lp = HighsLp()
    lp.num_col_, lp.num_row_ = n * m, n + 1
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = distortion.ravel(), np.zeros(n * m), np.ones(n * m)
    lp.row_lower_, lp.row_upper_ = np.append(np.ones(n), -np.inf), np.append(np.ones(n), mean * n)
    lp.integrality_ = [HighsVarType.kInteger] * (n * m)
    lp.a_matrix_.format_ = MatrixFormat.kColwise
    lp.a_matrix_.num_col_, lp.a_matrix_.num_row_ = n * m, n + 1
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
    solver = Highs()
    for name, value in {"output_flag": False, "mip_rel_gap": gap, "mip_abs_gap": 0.0, "time_limit": seconds}.items():
        solver.setOptionValue(name, value)
    solver.passModel(lp)
    solver.run()
    if solver.getInfo().primal_solution_status != SolutionStatus.kSolutionStatusFeasible:
        return None
    return np.reshape(solver.getSolution().col_value, (n, m)).argmax(axis=1)


def scipy_allocation(rate: np.ndarray, distortion: np.ndarray, mean: float, gap: float, seconds: float) -> np.ndarray | None:
    """The same by scipy.optimize.milp, which has an older HiGHS inside."""
    n, m = rate.shape
    limits = LinearConstraint(allocation_matrix(rate), np.append(np.ones(n), -np.inf), np.append(np.ones(n), mean * n))
    options = {"mip_rel_gap": gap, "time_limit": seconds}
    found = milp(distortion.ravel(), integrality=np.ones(n * m), bounds=Bounds(0, 1), constraints=limits, options=options)
    return None if found.x is None else found.x.reshape(n, m).argmax(axis=1)
