"""Global memory traffic of ldcn's CUDA kernels, counted by the emulator in 32-byte sectors per warp request.

For the aggregation of the codec (192 channels, 8 or 12 groups, 3x3 taps, offsets of 2 pixels' standard deviation), on a crop of
its 128x128. Pixels of 768 or 384 bytes start at the same place in a sector wherever they lie and however long the rows are, and
all tiles but those at the border are alike; so only the border's share, where samples fall outside and ask for nothing, depends
on the size.

    pytest tests/simt/test_ldcn_traffic.py -rP -k times

prints how many times as much a plain kernel in NCHW asks for (plain_nchw.h).
"""

from functools import cache
from pathlib import Path

import pytest
import torch
from ops.layouts import channels_last
from ops.ldcn_parity import assert_close, of_reference
from ops.op_cases import PLAIN, LdcnCase
from simt.compilers import SIMT, compile_cpp, compile_once, needs_emulator
from simt.ldcn_program import count, run_plain
from simt.traffic_counts import SECTOR, Counts
from torch import Tensor

pytestmark = needs_emulator

HEIGHT, WIDTH = 16, 32
GROUPS = [8, 12]
DTYPES = [torch.float32, torch.float16]  # of x; offset and mask are float32, as under autocast
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}  # of offset and mask
Traffic = dict[tuple[str, str, str], Counts]
SAMPLING = ["ldcn_forward", "ldcn_backward_samples"]
KERNELS = [*SAMPLING, "ldcn_backward_x"]
# Kernels that run if offset and mask are in NHWC.
WARP_KERNELS = {"ldcn_forward": "ldcn_warp_forward", "ldcn_backward_samples": "ldcn_warp_samples"}
IN_NHWC = {**WARP_KERNELS, "ldcn_backward_x": "ldcn_window_scatter"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return compile_cpp(SIMT / "plain_main.cpp", tmp_path_factory.mktemp("traffic") / "plain")


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    return compile_once(tmp_path_factory, SIMT / "ldcn_main.cpp")


@pytest.fixture(scope="module")
def traffic(program):
    """`traffic(groups, dtype, layout)`: the counts."""

    @cache
    def of(groups: int, dtype: torch.dtype, layout: str) -> Traffic:
        x, offset, mask, grad_y = problem(groups, dtype)
        offset, mask = (t.contiguous(memory_format=LAYOUTS[layout]) for t in (offset, mask))
        return count(program, case_of(groups), (channels_last(x), offset, mask), channels_last(grad_y))

    return of


def case_of(groups: int) -> LdcnCase:
    return LdcnCase(f"crop G={groups}", batch=1, groups=groups, depth=192 // groups, height=HEIGHT, width=WIDTH)


def problem(groups: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    case = case_of(groups)
    x, offset, mask = case.tensors(dtype, position_dtype=torch.float32)
    return x, offset, mask, case.grad_y(dtype)


def corners_inside(groups: int, dtype: torch.dtype) -> int:
    """The number of corners inside x, over all taps and groups."""
    offset = problem(groups, dtype)[1].view(groups, 3, 3, 2, HEIGHT, WIDTH)
    tap = torch.arange(3) - 1
    y = (torch.arange(HEIGHT).view(HEIGHT, 1) + tap.view(3, 1, 1, 1) + offset[:, :, :, 0]).floor()
    x = (torch.arange(WIDTH) + tap.view(3, 1, 1) + offset[:, :, :, 1]).floor()
    rows, columns = (sum(((at + i >= 0) & (at + i < size)).int() for i in (0, 1)) for at, size in ((y, HEIGHT), (x, WIDTH)))
    return int((rows * columns).sum())


def sectors_of_slices(groups: int, of_group: int) -> int:
    """The sectors of a group's adjacent bytes, summed over groups and pixels."""
    starts = (g * of_group % SECTOR for g in range(groups))
    return HEIGHT * WIDTH * sum(-(-(start + of_group) // SECTOR) for start in starts)


@pytest.mark.parametrize("kernel", SAMPLING)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("groups", GROUPS)
def test_values(traffic, groups, dtype, kernel):
    """At least 90 % of the transferred bytes are used; 75 % with float16 in 8 groups: the 24 channels of a group are 48 bytes in
    two sectors, and the other groups of the pixel are sampled elsewhere."""
    x = traffic(groups, dtype, "NCHW")[kernel, "x", "load"]
    of_group = 192 // groups * dtype.itemsize
    assert x.bytes == corners_inside(groups, dtype) * of_group
    best = of_group / (SECTOR * -(-of_group // SECTOR))
    assert best == (0.75 if (groups, dtype) == (8, torch.float16) else 1)
    assert x.efficiency >= (0.9 if best == 1 else best)
    # The tile of a block is compact: at most a sixth of the requested sectors are distinct.
    assert x.block_sectors < x.sectors / 6


def inside(offset: Tensor) -> Tensor:
    """The offsets, clamped so that all corners are inside x."""
    groups = offset.shape[1] // 18
    offset = offset.view(groups, 3, 3, 2, HEIGHT, WIDTH).clone()
    tap = torch.arange(3) - 1
    y, x = torch.arange(HEIGHT).view(HEIGHT, 1) + tap.view(3, 1, 1, 1), torch.arange(WIDTH) + tap.view(3, 1, 1)
    for axis, at, size in ((0, y, HEIGHT), (1, x, WIDTH)):
        offset[:, :, :, axis] = (offset[:, :, :, axis] + at).clamp(0, size - 1.01) - at
    return offset.view(1, groups * 18, HEIGHT, WIDTH)


@pytest.mark.parametrize("kernel", WARP_KERNELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("groups", GROUPS)
def test_values_of_warp_kernels(program, traffic, groups, dtype, kernel):
    """If all samples are inside, warp kernels request as many sectors as the general kernels, within 5 %: 4 positions of 1 to 4
    groups per request instead of 4 to 16 positions of one group. They also load for samples outside."""
    x, offset, mask, grad_y = problem(groups, dtype)
    warp, general = (
        count(program, case_of(groups), (channels_last(x), *positions), channels_last(grad_y))
        for positions in ((channels_last(inside(offset)), channels_last(mask)), (inside(offset), mask))
    )
    ours, theirs = warp[WARP_KERNELS[kernel], "x", "load"], general[kernel, "x", "load"]
    assert ours.sectors <= 1.05 * theirs.sectors
    assert ours.block_sectors < ours.sectors / 6
    with_border = traffic(groups, dtype, "NHWC")[WARP_KERNELS[kernel], "x", "load"]
    assert with_border.requests == ours.requests and with_border.sectors <= 1.02 * ours.sectors


@pytest.mark.parametrize("groups", [4, 8])
def test_values_of_128_channels(program, groups):
    """The shapes of DCNv4's benchmark in float16, on the same crop, with all samples inside. A warp kernel requests as many
    sectors as the general kernel, within 5 %; the window kernel adds a tenth."""
    case = LdcnCase("DCNv4's", batch=1, groups=groups, depth=128 // groups, height=HEIGHT, width=WIDTH)
    x, offset, mask = case.tensors(torch.float16)
    x, offset, grad_y = channels_last(x), inside(offset), channels_last(case.grad_y(torch.float16))
    general = count(program, case, (x, offset, mask), grad_y)
    warp = count(program, case, (x, channels_last(offset), channels_last(mask)), grad_y)
    for kernel, name in WARP_KERNELS.items():
        theirs, ours = general[kernel, "x", "load"], warp[name, "x", "load"]
        print(f"G={groups}, {name}: {ours.sectors:,} sectors, the general kernel {theirs.sectors:,}")
        assert ours.sectors <= 1.05 * theirs.sectors
    theirs, ours = general["ldcn_backward_x", "sums", "atomic"], warp["ldcn_window_scatter", "sums", "atomic"]
    print(f"G={groups}, ldcn_window_scatter: {ours.sectors:,} sectors, the general kernel {theirs.sectors:,}")
    assert ours.sectors <= theirs.sectors / 10


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("groups", GROUPS)
def test_gradients_of_values(traffic, groups, dtype):
    """float32 atomics with one channel per lane: always whole sectors."""
    sums = "grad_x" if dtype == torch.float32 else "sums"
    atomics = traffic(groups, dtype, "NCHW")["ldcn_backward_x", sums, "atomic"]
    assert atomics.bytes == corners_inside(groups, dtype) * 192 // groups * 4
    assert atomics.efficiency >= 0.999


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("groups", GROUPS)
def test_gradients_of_values_in_a_window(traffic, groups, dtype):
    """A tenth of the general kernel's sectors."""
    sums = "grad_x" if dtype == torch.float32 else "sums"
    general = traffic(groups, dtype, "NCHW")["ldcn_backward_x", sums, "atomic"]
    window = traffic(groups, dtype, "NHWC")["ldcn_window_scatter", sums, "atomic"]
    print(f"G={groups}, {dtype}: {window.sectors:,} sectors, the general kernel {general.sectors:,}")
    assert window.sectors <= general.sectors / 10


@pytest.mark.parametrize("groups", GROUPS)
def test_vector_atomics(program, traffic, groups):
    """With vector atomics, less than half as many instructions update the same sectors."""
    x, offset, mask, grad_y = map(channels_last, problem(groups, torch.float32))
    key = "ldcn_window_scatter", "grad_x", "atomic"
    single = count(program, case_of(groups), (x, offset, mask), grad_y, vector_atomics=False)[key]
    vector = traffic(groups, torch.float32, "NHWC")[key]
    for name, counts in ("four numbers", vector), ("one number", single):
        print(f"G={groups}, {name} to an atomic: {counts.requests:,} requests, {counts.sectors:,} sectors")
    assert vector.requests < single.requests / 2
    assert vector.sectors <= 1.01 * single.sectors


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("groups", GROUPS)
def test_all_else_is_read_and_written_once(traffic, groups, dtype, layout):
    """Every kernel requests each element of offset, mask and grad_y once, and writes each result once.

    In NCHW, every request consists of whole sectors. In NHWC, the elements of a group of a pixel end within a sector; an
    adjacent block requests the rest at the same time. Behind the cache of a block, the traffic is exactly these sectors.
    """
    x, offset, mask, grad_y = problem(groups, dtype)
    counts = traffic(groups, dtype, layout)
    depth = 192 // groups
    read = {"offset": (offset, 9 * 2), "mask": (mask, 9)}
    written = {"ldcn_forward": {"y": (x, depth)}, "ldcn_backward_x": {}}
    written["ldcn_backward_samples"] = {"grad_offset": (offset, 9 * 2), "grad_mask": (mask, 9)}
    for kernel in KERNELS:
        is_warp = layout == "NHWC" and kernel in WARP_KERNELS
        name_of_kernel = IN_NHWC[kernel] if layout == "NHWC" else kernel
        # A block of a warp kernel has as many groups as eight lanes hold, with `lanes` lanes per group.
        lanes = {6: 8, 4: 4, 3: 4, 2: 2}[depth * x.itemsize // 16] if is_warp else 8
        together = 8 // lanes
        inputs = read if kernel == "ldcn_forward" else {**read, "grad_y": (grad_y, depth)}
        for kind, tensors in {"load": inputs, "store": written[kernel]}.items():
            for name, (tensor, of_group) in tensors.items():
                found, what = counts[name_of_kernel, name, kind], (name_of_kernel, name)
                # All lanes of a group request its last tap together.
                times = (8 + lanes) / 9 if name_of_kernel == "ldcn_warp_samples" and name in read else 1
                # Taps outside the window, a few, are read again.
                most = 1.01 if name_of_kernel == "ldcn_window_scatter" else 1
                assert tensor.nbytes * times <= found.bytes <= tensor.nbytes * times * most, what
                assert found.all_sectors * SECTOR == tensor.nbytes, what
                if layout == "NCHW" and name in read:
                    assert found.sectors * SECTOR == tensor.nbytes, what
                else:
                    slices = sectors_of_slices(groups // together, of_group * together * tensor.itemsize)
                    assert found.block_sectors == slices, what


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("groups", GROUPS)
def test_nothing_is_kept_between_stages(traffic, groups, dtype):
    """Kernels access only arguments and results, and for half types the float32 accumulators of the gradient of x: accumulation
    in half precision would lose accuracy."""
    tensors: dict[str, set[tuple[str, str]]] = {}
    for kernel, tensor, kind in traffic(groups, dtype, "NHWC"):
        tensors.setdefault(tensor, set()).add((kernel, kind))
    backward = {("ldcn_warp_samples", "load"), ("ldcn_window_scatter", "load")}
    sampled = {("ldcn_warp_forward", "load"), *backward}
    expected = {
        "x": {("ldcn_warp_forward", "load"), ("ldcn_warp_samples", "load")},
        "offset": sampled,
        "mask": sampled,
        "grad_y": backward,
        "y": {("ldcn_warp_forward", "store")},
        "grad_offset": {("ldcn_warp_samples", "store")},
        "grad_mask": {("ldcn_warp_samples", "store")},
    }
    if dtype == torch.float32:
        expected["grad_x"] = {("ldcn_window_scatter", "atomic")}
    else:
        expected |= {"sums": {("ldcn_window_scatter", "atomic"), ("ldcn_round", "load")}, "grad_x": {("ldcn_round", "store")}}
    assert tensors == expected


def test_the_plain_kernel_is_right(plain):
    tensors, grad_y = PLAIN.tensors(torch.float32), PLAIN.grad_y(torch.float32)
    assert_close(run_plain(plain, PLAIN, tensors, grad_y), of_reference(PLAIN, tensors, grad_y))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("groups", GROUPS)
def test_times_less_than_a_plain_kernel(traffic, plain, groups, dtype):
    x, offset, mask, grad_y = problem(groups, dtype)
    theirs = count(plain, case_of(groups), (x, offset, mask), grad_y)
    # In NHWC, the warp kernel of the forward also loads for samples outside, a sixth of the sectors of this crop.
    for work, layouts in {"forward": {"NCHW": 5, "NHWC": 4.5}, "backward": {"NCHW": 4, "NHWC": 7}}.items():
        for layout, least in layouts.items():
            ours = traffic(groups, dtype, layout)
            plain_sectors, sectors = (
                sum(c.sectors for (kernel, _, _), c in counts.items() if ("forward" in kernel) == (work == "forward"))
                for counts in (theirs, ours)
            )
            ratio = plain_sectors / sectors
            name = f"{work}, G={groups}, {dtype}, offset in {layout}"
            print(f"{name}: {sectors:,} sectors, a plain kernel {ratio:.1f} times as many")
            assert ratio >= least
