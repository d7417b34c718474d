"""Selection of kernels and tiles for a call of deform_conv2d on a GPU, and autotuning; no GPU is needed."""

import json

import pytest
import torch
from torch import Tensor

from dkic.errors import DkicError
from dkic.ops import explain

pytest.importorskip("triton")

from triton.runtime.errors import OutOfResources  # noqa: E402

from dkic.ops.triton import deform_conv2d as deform_conv2d_triton  # noqa: E402
from dkic.ops.triton import tiles  # noqa: E402
from dkic.ops.triton.deform_problem import Problem, problem  # noqa: E402
from dkic.ops.triton.tiles import CANDIDATES, choose, output_blocks, tune, tuned  # noqa: E402

GEOMETRY = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DKIC_CACHE", str(tmp_path))
    tuned.cache_clear()
    yield tmp_path
    tuned.cache_clear()


def arguments(
    dtype: torch.dtype, channels: int = 48, outputs: int = 192, weight_groups: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """input, offset and weight: two offset groups, 3x3 taps, 8x8 pixels."""
    shapes = (1, channels, 8, 8), (1, 36, 8, 8), (outputs, channels // weight_groups, 3, 3)
    x, offset, weight = (torch.zeros(shape, dtype=dtype) for shape in shapes)
    return x, offset.float(), weight


def problem_of(dtype: torch.dtype) -> Problem:
    return problem(*arguments(dtype), None, *GEOMETRY.values())


@pytest.mark.parametrize(
    ("outputs", "most", "blocks"),
    [
        (192, 192, (128, 64)),
        (192, 128, (64, 32)),
        (64, 192, (64, 0)),
        (33, 192, (32, 16)),
        (240, 256, (256, 0)),
        (3, 192, (16, 0)),
    ],
)
def test_outputs_are_hardly_padded(outputs, most, blocks):
    assert output_blocks(outputs, most) == blocks


@pytest.mark.parametrize(
    ("dtype", "shape", "way"),
    [
        (torch.float16, {}, "fused"),
        (torch.bfloat16, {}, "fused"),
        (torch.float32, {}, "columns"),
        (torch.float64, {}, "columns"),
        (torch.float16, {"channels": 46}, "columns"),  # 23 channels share an offset: no vectors
        (torch.float16, {"outputs": 8}, "columns"),
        (torch.float16, {"outputs": 48, "weight_groups": 48}, "columns"),  # depthwise
    ],
)
def test_explains_which_kernels_serve_a_call(dtype, shape, way):
    way_line, *kernels = deform_conv2d_triton.explain(*arguments(dtype, **shape), **GEOMETRY).splitlines()
    assert way_line.startswith(f"{way}: ")
    named = ("forward", "samples", "weight") if way == "fused" else ("columns", "column samples")
    assert tuple(line.partition(":")[0] for line in kernels) == named
    assert all(line.endswith("(default)") for line in kernels)


def test_explains_the_backend_of_any_op():
    x, offset, weight = arguments(torch.float32)
    assert explain("deform_conv2d", x, offset, weight, padding=1) == "deform_conv2d: cpu backend"
    assert explain("ldcn", x, offset, kernel_size=3) == "ldcn: cpu backend"
    with pytest.raises(ValueError, match="^explain/op: must be one of"):
        explain("conv2d", x)
    latent = torch.ones(1, 2, 3, 4)
    c = 2
    shapes = [(c, 3, 1), *[(c, 3, 3)] * 3, (c, 1, 3)], [*[(c, 3, 1)] * 4, (c, 1, 1)], [(c, 3, 1)] * 4
    parameters = [[torch.ones(shape) for shape in kind] for kind in shapes]
    for op, *others in (
        ("factorized_likelihood", *parameters),
        ("gaussian_indexes",),
        ("gaussian_symbols", latent, None),
    ):
        assert explain(op, latent, *others) == f"{op}: cpu backend"
    assert explain("gaussian_likelihood", latent, latent, quantize="noise") == "gaussian_likelihood: cpu backend"
    tables = torch.tensor([1.0, 2.0])
    assert explain("gaussian_symbols", latent, latent, scales=tables) == "gaussian_symbols: cpu backend"


def test_explain_refuses_what_the_call_refuses():
    x, offset, _ = arguments(torch.float32)
    latent = torch.ones(1, 2, 3, 4)
    for call, options, exception, token in (
        (("ldcn", 3), {}, TypeError, "^explain/arguments: .*offset"),
        (("ldcn", x, *range(9)), {}, TypeError, "^explain/arguments: "),
        (("ldcn", x, 1), {}, TypeError, "^ldcn/offset: must be a tensor"),
        (("ldcn", x, offset), {"kernel_size": 9}, ValueError, "^ldcn/offset: "),
        (("ldcn", x, offset), {"kernel_size": "3x3"}, TypeError, "^ldcn/kernel_size: "),
        (("ldcn", x, offset.to("meta")), {}, ValueError, "^ldcn/offset: .*meta"),
        (("gaussian_indexes", latent, torch.ones(2, 2)), {}, ValueError, "^gaussian_indexes/scales: "),
        (("gaussian_likelihood", latent, latent), {"quantize": "floor"}, ValueError, "^gaussian_likelihood/quantize: "),
        (("factorized_likelihood", latent, [1], [], []), {}, TypeError, "^factorized_likelihood/matrices: "),
    ):
        with pytest.raises(exception, match=token):
            explain(*call, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_the_fastest_tiles_are_stored_and_used(dtype, cache_folder):
    p, (kernel, *_) = problem_of(dtype), deform_conv2d_triton.kernels_of(problem_of(dtype))
    wanted, refused = CANDIDATES[kernel][1], CANDIDATES[kernel][0]

    def seconds(named: str) -> float:
        assert named == kernel
        if choose(kernel, p).tiles == refused:
            raise OutOfResources(1, 0, "shared memory")
        return 0.5 if choose(kernel, p).tiles == wanted else 1.0

    assert tune(p, (kernel,), seconds) == {kernel: wanted}
    tuned.cache_clear()  # as in another process
    assert choose(kernel, p) == tiles.Choice(wanted, "tuned")
    assert len(json.loads((cache_folder / "deform_conv2d_tiles.json").read_text())) == 1
    other = problem(*arguments(dtype, outputs=64), None, *GEOMETRY.values())
    assert choose(kernel, other).origin == "default"


@pytest.mark.parametrize("text", ["{", "[]", '{"a": {"pixels": 3}}', '{"a": 3}'])
def test_a_damaged_file_is_an_error(text, cache_folder):
    (cache_folder / "deform_conv2d_tiles.json").write_text(text)
    with pytest.raises(DkicError, match="deform_conv2d_tiles.json: .*; delete it"):
        choose("forward", problem_of(torch.float16))


@pytest.mark.parametrize(("capability", "channels"), [((8, 0), 16), ((8, 6), 16), ((9, 0), 32), ((12, 0), 32)])
def test_defaults_by_compute_capability(capability, channels, monkeypatch):
    monkeypatch.setattr(tiles, "capability", lambda device: capability)
    assert choose("forward", problem_of(torch.float16)).tiles.channels == channels
