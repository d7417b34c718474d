"""Weights in 8 bits, and format 3 of weights files, which stores large weights of the transforms in 8 bits."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from trained_weights import THREE_QUALITIES

from dkic.entropy.arithmetic import Arithmetic
from dkic.errors import DkicError
from dkic.hub import find_weights
from dkic.models.int8_weights import from_int8, is_large, round_large, to_int8
from dkic.models.weights_file import load_weights, save_weights
from dkic.shipped_weights import file_hash

NAME = "g_a.6.weight"  # [128, 96, 3, 3]
SCALE = "scales." + NAME


@pytest.fixture(scope="module")
def format_2(tmp_path_factory):
    """A trained network as a file of format 2: its large weights in float16, and between the multiples of their scales."""
    path = find_weights(THREE_QUALITIES)[1]
    contents, generator = load_file(path), torch.Generator().manual_seed(3)
    for name in [name for name in contents if name.startswith("steps.")]:
        scale, weight = contents.pop(name), contents[name.removeprefix("steps.")]
        between = weight + 0.6 * (torch.rand(weight.shape, generator=generator) - 0.5)
        contents[name.removeprefix("steps.")] = (between * scale.float().view(-1, 1, 1, 1)).half()
    old = tmp_path_factory.mktemp("format 2") / path.name
    save_file(contents, old, {"dkic": json.dumps(head_of(path) | {"format": 2})})
    return load_weights(old)


@pytest.fixture(scope="module")
def saved(format_2, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "tiny-q3.safetensors"
    save_weights(path, format_2.model, 3, format_2.about, format_2.tables)
    return path


@pytest.fixture
def path(saved, tmp_path):
    return tmp_path / "w.safetensors"


def head_of(path) -> dict:
    with open(path, "rb") as file:
        return json.loads(json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]["dkic"])


def refusal(path, contents, head) -> str:
    save_file({k: v.clone() for k, v in contents.items() if v is not None}, path, {"dkic": json.dumps(head)})
    with pytest.raises(DkicError) as caught:
        load_weights(path)
    assert str(caught.value).startswith(f"{path}: weights: damaged (") and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 30.0])
def test_the_error_is_at_most_half_a_scale_and_that_of_the_scale(scale):
    weight = scale * torch.randn(16, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    integers, scales = to_int8(weight)
    assert (integers.dtype, integers.shape, scales.dtype, scales.shape) == (torch.int8, weight.shape, torch.float16, (16,))
    assert (integers.abs().amax((1, 2, 3)) == 127).all() and integers.min() == -127
    error = (from_int8(integers, scales) - weight).abs().amax((1, 2, 3)) / scales.float()
    assert (error <= 0.5 + 127 * 2.0**-11).all()


def test_quantizing_again_changes_nothing():
    weight = torch.randn(200, 3, 1, 1, generator=torch.Generator().manual_seed(1)) * torch.logspace(-2, 3, 200).view(-1, 1, 1, 1)
    once = to_int8(weight)
    assert all(torch.equal(a, b) for a, b in zip(to_int8(from_int8(*once)), once, strict=True))


def test_channels_of_zeros_and_of_values_that_are_not_finite():
    weight = torch.zeros(5, 2, 1, 1)
    weight[1:, 1, 0, 0] = torch.tensor([1e-30, math.nan, math.inf, 1e7])
    integers, scales = to_int8(weight)
    assert (scales[:2] == 2**-24).all() and not scales[2:].isfinite().any() and not integers[:2].any()
    assert torch.equal(from_int8(integers, scales)[:2], torch.zeros(2, 2, 1, 1))


def test_only_large_weights_of_a_module_are_rounded():
    module = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3), torch.nn.Conv2d(64, 32, 3))
    large, small = (layer.weight.detach().clone() for layer in module)
    assert is_large(large) and not is_large(small) and not is_large(large.flatten())
    round_large(module)
    assert torch.equal(module[0].weight, from_int8(*to_int8(large))) and not torch.equal(module[0].weight, large)
    assert torch.equal(module[1].weight, small)


def test_size_of_a_tiny_weights_file(saved):
    """A weights file may take 3.3 MB; 60 KB of it are for the facts on training."""
    assert saved.stat().st_size < 3_240_000


def test_large_weights_are_int8_and_other_tensors_are_unchanged(format_2, saved):
    assert head_of(saved)["format"] == 3 and head_of(format_2.path)["format"] == 2
    old, new = load_file(format_2.path), load_file(saved)
    scales = {name for name in new if name.startswith("scales.")}
    assert new.keys() - scales == old.keys() and len(scales) == 10
    for name, t in old.items():
        if "scales." + name in scales:
            assert name[:4] in ("g_a.", "g_s.", "h_a.") and t.numel() >= 2**15 and new[name].dtype == torch.int8
        else:
            assert torch.equal(t, new[name]) and t.dtype == new[name].dtype


def test_saving_loaded_weights_gives_the_same_file(format_2, saved, path):
    weights = load_weights(saved)
    assert weights.arithmetic == Arithmetic.EXACT and weights.about == format_2.about
    before, after = format_2.model.state_dict(), weights.model.state_dict()
    for name, t in after.items():
        if not name.startswith("prior."):
            rounded = "h_s" not in name and "context" not in name and is_large(t)
            assert torch.equal(t, from_int8(*to_int8(before[name])) if rounded else before[name]), name
    assert {p.dtype for p in weights.model.g_s.parameters()} == {torch.float32}
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights.model.g_s.parameters() if p.ndim == 4)
    save_weights(path, weights.model, 3, weights.about, weights.tables)
    assert file_hash(path) == file_hash(saved)


def test_a_weight_is_its_integer_times_the_scale_of_its_channel(saved, path):
    """The documented format, independent of `save_weights`: any weight of the transforms may be int8, also a small one."""
    small = "h_a.2.weight"
    contents, scales = load_file(saved), torch.arange(1, 65) * 2.0**-10
    integers = torch.randint(-127, 128, (64, 64, 3, 3), dtype=torch.int8, generator=torch.Generator().manual_seed(2))
    save_file(contents | {small: integers, "scales." + small: scales.half()}, path, {"dkic": json.dumps(head_of(saved))})
    loaded = load_weights(path).model.get_parameter(small)
    assert torch.equal(loaded, integers.float() * scales.view(-1, 1, 1, 1))


@pytest.mark.parametrize("value", [0.0, -0.01, math.nan, math.inf])
def test_invalid_scales_are_refused(saved, path, value):
    contents = load_file(saved)
    contents[SCALE][5] = value
    why = refusal(path, contents, head_of(saved))
    assert NAME in why and ("above 0" in why or "finite" in why)


def test_other_types_and_shapes_are_refused(saved, path):
    contents, head = load_file(saved), head_of(saved)
    for change, why in (
        ({NAME: contents[NAME].half()}, f"{NAME}: must be of type int8, not float16"),
        ({NAME: contents[NAME].int()}, f"{NAME}: must be of type int8, not int32"),
        ({SCALE: contents[SCALE].to(torch.int8)}, f"{SCALE}: must be of type float32, not int8"),
        ({SCALE: None}, f"{NAME}: must be of type float32, not int8"),
        ({SCALE: contents[SCALE][:-1]}, "names and shapes of the config"),
        ({SCALE: contents[SCALE][None]}, "names and shapes of the config"),
        ({"scales.none": contents[SCALE]}, "names and shapes of the config"),
        ({"scales.g_a.6.bias": contents[SCALE]}, "g_a.6.bias: must be a weight of the transforms"),
        ({"scales.context.features.0.0.weight": torch.ones(96)}, "must be a weight of the transforms"),
    ):
        assert why in refusal(path, contents | change, head)


def test_the_older_prefix_of_scales_is_read(saved, path):
    contents = load_file(saved)
    older = {"steps." + n.removeprefix("scales.") if n.startswith("scales.") else n: t for n, t in contents.items()}
    save_file(older, path, {"dkic": json.dumps(head_of(saved))})
    assert "steps." + NAME in older
    ours, theirs = (load_weights(file).model.state_dict() for file in (path, saved))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(t, theirs[n]) for n, t in ours.items() if not n.startswith("prior."))  # which no file stores
    assert "names and shapes" in refusal(path, contents | {"steps." + NAME: contents[SCALE]}, head_of(saved))


def test_older_formats_have_no_scales(saved, path):
    for number in (1, 2):
        refusal(path, load_file(saved), head_of(saved) | {"format": number})


def test_weights_that_are_not_finite_are_not_written(format_2, path):
    weight = format_2.model.get_parameter(NAME)
    kept = weight[0, 0, 0, 0].clone()
    try:
        for value in (math.nan, math.inf, 1e7):
            weight[0, 0, 0, 0] = value
            with pytest.raises(DkicError, match=f"{NAME} holds values beyond float16"):
                save_weights(path, format_2.model, 3, {}, format_2.tables)
    finally:
        weight[0, 0, 0, 0] = kept
    assert not path.exists()
