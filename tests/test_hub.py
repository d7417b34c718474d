"""Weights in local folders and in repositories of the hub, without network access."""

import inspect
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import dkic as dkic_command
from PIL import Image
from trained_weights import THREE_QUALITIES

import dkic
from dkic import hub
from dkic.errors import DkicError

huggingface_hub = pytest.importorskip("huggingface_hub")
errors = pytest.importorskip("huggingface_hub.errors")
IMAGE = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty working folder, and a hub that fails if it is accessed, unless a test replaces it."""

    def asked(*arguments, **named):
        raise AssertionError("the hub was asked")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", asked)
    monkeypatch.setattr(huggingface_hub, "HfApi", asked)


@pytest.fixture(scope="module")
def codec():
    return dkic.load(THREE_QUALITIES / "tiny-q1-r3.safetensors")


def test_a_saved_folder_is_loaded(codec, tmp_path):
    folder = tmp_path / "owner" / "name"
    codec.save_pretrained(folder)
    assert (folder / "tiny-q1-r3.safetensors").read_bytes() == (THREE_QUALITIES / "tiny-q1-r3.safetensors").read_bytes()
    assert codec.model_hash(1).hex() in (folder / "README.md").read_text()
    data = codec.compress(IMAGE)
    for other in (dkic.load(folder), dkic.Codec.from_pretrained(folder), dkic.load("owner/name")):
        assert other.qualities == [1] and other.compress(IMAGE) == data


def test_saving_again_keeps_the_readme(codec, tmp_path):
    codec.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    codec.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_saving_into_a_folder_of_other_weights_is_refused(codec, tmp_path):
    (tmp_path / "other.safetensors").touch()
    with pytest.raises(DkicError, match=r"has other weights files \(other.safetensors\)"):
        codec.save_pretrained(tmp_path)
    assert not (tmp_path / "tiny-q1-r3.safetensors").exists()


def test_weights_that_have_changed_are_not_saved(tmp_path):
    path = shutil.copy(THREE_QUALITIES / "tiny-q1-r3.safetensors", tmp_path / "mine.safetensors")
    codec = dkic.load(path)
    with open(path, "ab") as file:
        file.write(b"\0")
    with pytest.raises(DkicError, match="mine.safetensors: has changed since it was loaded"):
        codec.save_pretrained(tmp_path / "copy")


def test_a_folder_that_cant_be_made(codec, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DkicError, match="file: can't be written"):
        codec.save_pretrained(tmp_path / "file")


@pytest.mark.parametrize("how", [dkic.load, lambda name: dkic.Codec.from_pretrained(name, revision="v1", local_files_only=True)])
def test_a_repository_is_downloaded(codec, how, tmp_path, monkeypatch):
    calls = []

    def snapshot_download(repository, **named):
        calls.append((repository, named))
        codec.save_pretrained(tmp_path / "cache")
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert how("owner/name").qualities == [1]
    ((repository, named),) = calls
    assert repository == "owner/name" and named["allow_patterns"] == ["*.safetensors"]
    assert (named["revision"], named["local_files_only"]) in [(None, False), ("v1", True)]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("info", "--model", "owner/name"), "tiny-q1-r3.safetensors, quality 1, hash"),
        (("compress", "in.png", "-o", "new.dkic", "--model", "owner/name"), "new.dkic: "),
        (("decompress", "in.dkic", "-o", "new.png", "--model", "owner/name"), "new.png: "),
        (("measure", "in.png", "-o", "new.csv", "--model", "owner/name", "--distortion", "mse"), "new.csv"),
        (("export-onnx", "--quality", 99, "-o", "onnx", "--model", "owner/name"), "model owner/name does not have 99; use 1, 3"),
        (("quantize", "owner/name", ".", "-o", "new.safetensors"), "owner/name: has 2 qualities"),
        (("train", ".", "-o", "run", "--start-from", "owner/name", "--quality", 99), "owner/name: it has the qualities 1, 3"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_every_command_takes_a_repository(codec, command, said, tmp_path, monkeypatch):
    calls = []

    def snapshot_download(repository, **named):
        calls.append(repository)
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setenv("DKIC_CACHE", str(tmp_path / "measurements"))
    (tmp_path / "cache").mkdir()
    for name in ("tiny-q1-r3.safetensors", "tiny-q3-r5.safetensors"):
        shutil.copy(THREE_QUALITIES / name, tmp_path / "cache")
    Image.fromarray(IMAGE).save("in.png")
    Path("in.dkic").write_bytes(codec.compress(IMAGE))
    result = dkic_command(*command)
    assert calls == ["owner/name"], result
    assert said in result.out + result.err


@pytest.mark.parametrize("model", ["small", "weights/missing.safetensors", "/no/folder", "./owner/name", "a/b/c", "no model"])
def test_names_that_are_not_repositories(model):
    assert not hub.is_repository(model) and not hub.is_repository(Path("owner/name"))


def test_without_huggingface_hub(monkeypatch, codec):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for ask in (lambda: dkic.load("owner/name"), lambda: codec.push_to_hub("owner/name")):
        with pytest.raises(
            DkicError, match=r"^owner/name: .*needs huggingface_hub, which is not installed; pip install .*\[hub\]"
        ):
            ask()


@pytest.mark.parametrize(
    "error",
    [
        errors.LocalEntryNotFoundError("no snapshot is cached.\nSecond line"),
        ConnectionError("unreachable"),
        errors.HFValidationError("a bad name"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_hub_that_cant_be_read(error, monkeypatch):
    def snapshot_download(repository, **named):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(
        DkicError, match="^owner/name: there is no such file or folder, and the hub's repository can't be read"
    ) as raised:
        dkic.load("owner/name")
    assert len(str(raised.value).splitlines()) == 1 and str(error).splitlines()[0].rstrip(".") in str(raised.value)


def test_a_repository_without_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *arguments, **named: str(tmp_path))
    with pytest.raises(DkicError, match="owner/name: the hub's repository has no"):
        dkic.load("owner/name")


class Api:
    """A hub that records uploads."""

    def __init__(self, has_readme: bool = False, error: Exception | None = None):
        self.has_readme, self.error, self.files, self.named = has_readme, error, None, {}

    def __call__(self, **named):
        return self

    def create_repo(self, repository, **named):
        if self.error:
            raise self.error
        return SimpleNamespace(repo_id=repository)

    def file_exists(self, repository, name, revision):
        return self.has_readme

    def upload_folder(self, *, repo_id, folder_path, **named):
        self.files, self.named = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}, named
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


@pytest.mark.parametrize("has_readme", [False, True])
def test_uploading(codec, monkeypatch, has_readme):
    api = Api(has_readme)
    monkeypatch.setattr(huggingface_hub, "HfApi", api)
    assert codec.push_to_hub("owner/name", branch="main") == "https://hub/owner/name/commit/1"
    assert set(api.files) == {"tiny-q1-r3.safetensors"} | (set() if has_readme else {"README.md"})
    assert api.files["tiny-q1-r3.safetensors"] == (THREE_QUALITIES / "tiny-q1-r3.safetensors").read_bytes()
    assert api.named["revision"] == "main" and api.named["delete_patterns"] == ["*.safetensors"]


def test_a_hub_that_cant_be_written(codec, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Api(error=ConnectionError("unreachable")))
    with pytest.raises(DkicError, match=r"^owner/name: the hub's repository can't be written \(unreachable\)"):
        codec.push_to_hub("owner/name")


def test_the_arguments_of_the_mixin(codec):
    """The three methods take those of huggingface_hub's ModelHubMixin."""
    mixin = huggingface_hub.ModelHubMixin
    for method, also in (("save_pretrained", hub.push), ("from_pretrained", hub.download), ("push_to_hub", hub.push)):
        known = {*inspect.signature(getattr(dkic.Codec, method)).parameters, *inspect.signature(also).parameters}
        wanted = {n for n, p in inspect.signature(getattr(mixin, method)).parameters.items() if p.kind is not p.VAR_KEYWORD}
        assert wanted <= known, wanted - known


@pytest.mark.parametrize("method", ["save_pretrained", "from_pretrained", "push_to_hub"])
def test_an_unknown_argument_is_refused(codec, tmp_path, method):
    codec.save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=f"^{method}/foo: there is no such argument; give one of "):
        getattr(codec, method)(str(tmp_path), foo=1)


def test_arguments_without_a_meaning_are_refused(codec, tmp_path):
    for options, token in (
        ({"config": {}}, "config"),
        ({"model_card_kwargs": {}}, "model_card_kwargs"),
        ({"private": True}, "private"),
    ):
        with pytest.raises(ValueError, match=f"^save_pretrained/{token}: "):
            codec.save_pretrained(tmp_path / "new", **options)
    with pytest.raises(ValueError, match="^push_to_hub/config: "):
        codec.push_to_hub("owner/name", config={})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("repository", [None, "owner/other"])
def test_saving_and_uploading_at_once(codec, tmp_path, monkeypatch, repository):
    api = Api()
    monkeypatch.setattr(huggingface_hub, "HfApi", api)
    address = codec.save_pretrained(
        tmp_path / "mine", push_to_hub=True, repo_id=repository, ignore_patterns="*.md", delete_patterns="old*", create_pr=True
    )
    assert address == f"https://hub/{repository or 'mine'}/commit/1"
    assert (tmp_path / "mine" / "tiny-q1-r3.safetensors").exists()
    assert api.named["ignore_patterns"] == "*.md" and api.named["create_pr"] is True
    assert api.named["delete_patterns"] == ["*.safetensors", "old*"]


def test_loading_a_local_model_does_not_import_huggingface_hub():
    code = "import sys, dkic; dkic.load('small'); print('huggingface_hub' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "False\n", run.stderr
