"""Weights files: round trips, search by name and hash, and one-line errors."""

import hashlib
import json
import math
import os
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dkic import shipped_weights
from dkic.entropy.arithmetic import Arithmetic
from dkic.entropy.tables import gaussian_tables
from dkic.errors import DkicError
from dkic.hub import find_weights
from dkic.models import DKIC, PRESETS
from dkic.models import weights_file as module
from dkic.models.weights_file import load_weights, save_weights
from dkic.shipped_weights import DEFAULT_MODEL, file_hash, find_by_hash, shipped_models


@pytest.fixture(scope="module")
def model() -> DKIC:
    torch.manual_seed(0)
    return DKIC(PRESETS["tiny"])


@pytest.fixture
def path(model, tmp_path):
    save_weights(tmp_path / "new-q4.safetensors", model, 4, {"steps": 7})
    return tmp_path / "new-q4.safetensors"


def test_saved_weights_are_loaded(model, path):
    weights = load_weights(path)
    assert (weights.path, weights.quality, weights.about) == (path, 4, {"steps": 7})
    assert weights.model.config == model.config and not weights.model.training
    saved, loaded = model.state_dict(), weights.model.state_dict()
    for name in saved:
        if not name.startswith("prior."):
            assert torch.equal(saved[name].half().double(), loaded[name].double()), name
    assert {p.dtype for p in weights.model.g_a.parameters()} == {torch.float32}
    assert {p.dtype for p in [*weights.model.h_s.parameters(), *weights.model.context.parameters()]} == {torch.float64}
    assert not any(p.requires_grad for p in weights.model.parameters())
    tables = gaussian_tables().concat(model.prior.tables())
    assert np.array_equal(weights.tables.frequencies, tables.frequencies)
    assert np.array_equal(weights.tables.offset, tables.offset)
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file is left


def test_size_and_permissions_of_a_file(path):
    assert path.stat().st_size <= 8_000_000
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_the_hash_is_that_of_the_file(path):
    digest = hashlib.sha256(path.read_bytes()).digest()[:8]
    assert load_weights(path).hash == file_hash(path) == digest


def test_weights_that_float16_can_not_hold_are_not_written(tmp_path):
    model = DKIC(PRESETS["tiny"])
    for value in (math.nan, math.inf, 1e6):
        torch.nn.init.constant_(model.g_s[0][0].bias, value)
        with pytest.raises(DkicError, match=r"g_s\.0\.0\.bias"):
            save_weights(tmp_path / "w.safetensors", model, 1, {})
    assert not list(tmp_path.iterdir())


def refusal(path) -> str:
    with pytest.raises(DkicError) as caught:
        load_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


def test_a_damaged_file_is_refused(path):
    data = path.read_bytes()
    for bad in (b"", b"hello", data[:7], data[:1000], data[:-1], data + b"x", b"\xff" * 100):
        path.write_bytes(bad)
        refusal(path)
    path.unlink()
    refusal(path)
    path.mkdir()
    refusal(path)


def rewritten(path, head: object = None, **tensors: torch.Tensor | None):
    """The file with another head, or with tensors changed or (None) left out."""
    contents = load_file(path) | tensors
    with open(path, "rb") as file:
        old = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]["dkic"]
    save_file({k: v for k, v in contents.items() if v is not None}, path, {"dkic": old if head is None else json.dumps(head)})
    return json.loads(old)


def test_other_contents_are_refused(path):
    head = rewritten(path)
    original = path.read_bytes()
    load_weights(path)
    config = head["config"]
    qualities = (math.inf, math.nan, 0, -1, 256, 2.7, "3", True, None, 10**100)
    heads = [
        5,
        {},
        *(head | {"format": number} for number in (0, 2, 3, 4, "1", None)),
        head | {"config": 3},
        head | {"config": config | {"depth": 1}},
        head | {"config": config | {"hyper_channels": 32}},
        head | {"config": config | {"groups": [1, 3, 0]}},
        head | {"config": config | {"slices": [[8, 4]]}},
        head | {"config": [1, 2]},
        head | {"config": config | {"slices": "ab"}},
        *(head | {"quality": quality} for quality in qualities),
        {k: v for k, v in head.items() if k != "quality"},
        {k: v for k, v in head.items() if k != "config"},
        head | {"about": 3},
    ]
    for bad in heads:
        rewritten(path, bad)
        refusal(path)
        path.write_bytes(original)
    name, table = "g_a.0.weight", "tables.frequencies"
    wrong = load_file(path)[table]
    for tensors in ({name: None}, {"extra": torch.zeros(1)}, {name: torch.zeros(2)}, {table: None}, {table: wrong + 1}):
        rewritten(path, **tensors)
        refusal(path)
        path.write_bytes(original)


def test_metadata_nested_too_deeply_is_refused(tmp_path):
    for text in ("[" * 200_000, '{"format": 1, "about": ' + '{"a":' * 200_000, "9" * 20_000):
        save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors", {"dkic": text})
        refusal(tmp_path / "a.safetensors")


def test_absurd_sizes_are_refused_before_memory_is_allocated(path, monkeypatch):
    head = rewritten(path)
    original = path.read_bytes()
    config = head["config"]
    made: list[DKIC] = []
    monkeypatch.setattr(module, "network_of", lambda config: made.append(DKIC(config)) or made[-1])
    largest = {"widths": [1024] * 3, "groups": [1] * 3, "bottlenecks": [16] * 3, "hyper_features": 1024, "context_channels": 1024}
    cases = [
        ({"widths": [3000] * 3}, "widths"),
        ({"bottlenecks": [10**9] * 3}, "bottlenecks"),
        ({"hyper_channels": 193}, "hyper_channels"),
        ({"slices": config["slices"] * 100_000}, "slices"),
        (largest, "names and shapes of the config"),
    ]
    for change, why in cases:
        rewritten(path, head | {"config": config | change})
        assert why in refusal(path)
        path.write_bytes(original)
    assert len(made) == 1  # the largest there may be
    assert all(p.is_meta for name, p in made[0].named_parameters() if not name.startswith("prior."))


def test_weights_that_are_not_finite_are_refused(path):
    for value in (math.nan, math.inf, -math.inf):
        rewritten(path, **{"context.features.0.0.bias": torch.full((96,), value)})
        assert "context.features.0.0.bias" in refusal(path)


def test_no_tensor_stays_on_the_meta_device(path):
    model = load_weights(path).model
    assert not any(t.is_meta for t in model.state_dict().values())
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in model.g_s.parameters() if p.ndim == 4)
    with torch.no_grad():
        assert model.float()(torch.zeros(1, 3, 64, 64)).bits.isfinite()


@pytest.mark.parametrize("quality", [0, 256, 2.5, True])
def test_a_quality_out_of_range_is_not_written(model, tmp_path, quality):
    with pytest.raises(DkicError, match="1 to 255"):
        save_weights(tmp_path / "w.safetensors", model, quality, {})
    assert not list(tmp_path.iterdir())


def test_saving_overwrites_and_a_missing_folder_is_named(model, path):
    save_weights(path, model, 5, {})
    assert load_weights(path).quality == 5
    with pytest.raises(DkicError, match="does not exist"):
        save_weights(path.parent / "none" / "w.safetensors", model, 5, {})


def test_other_safetensors_are_not_dkic_weights(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    assert "format: must be" in refusal(tmp_path / "a.safetensors")


def test_models_are_found_by_name_file_and_folder(path, monkeypatch):
    assert find_weights(path) == find_weights(path.parent) == find_weights(str(path)) == [path]
    monkeypatch.setattr(shipped_weights, "SHIPPED", path.parent)
    assert find_weights("new") == [path]
    assert shipped_models() == ["new"]
    assert find_by_hash(file_hash(path)) == path
    with pytest.raises(DkicError, match=re.escape("(new)")):
        find_weights("old")
    with pytest.raises(DkicError, match="0102030405060708.*--model"):
        find_by_hash(bytes(range(1, 9)))


def test_the_latest_revision_of_each_quality_is_found(path, monkeypatch):
    folder = path.parent / "revisions"
    folder.mkdir()
    for name in ("a-q1", "a-q1-r2", "a-q1-r10", "a-q3", "a-q12-r2", "a-b-q1", "b-q2-r7"):
        (folder / f"{name}.safetensors").touch()
    monkeypatch.setattr(shipped_weights, "SHIPPED", folder)
    assert [path.stem for path in find_weights("a")] == ["a-q1-r10", "a-q3", "a-q12-r2"]
    assert [path.stem for path in find_weights("a-b")] == ["a-b-q1"] and shipped_models() == ["a", "a-b", "b"]


def test_older_revisions_still_decode(path, monkeypatch):
    older, newer = path.parent / "a-q1.safetensors", path.parent / "a-q1-r2.safetensors"
    older.write_bytes(path.read_bytes())
    newer.write_bytes(b"another")
    monkeypatch.setattr(shipped_weights, "SHIPPED", path.parent)
    assert find_weights("a") == [newer] and find_by_hash(file_hash(older)) == older


def test_all_shipped_weights_load():
    assert shipped_models() == ["small"] and DEFAULT_MODEL in shipped_models()
    for name in shipped_models():
        for path in find_weights(name):
            weights = load_weights(path)
            of_a_quality = "" if weights.model.variable_rate else rf"-q{weights.quality}"
            assert re.fullmatch(rf"{name}{of_a_quality}-r\d+", path.stem) and find_by_hash(weights.hash) == path
            assert weights.arithmetic == Arithmetic.EXACT
            assert path.stat().st_size <= 8_000_000
