"""`dkic export-onnx`: the codec's networks in ONNX Runtime beside the codec; test_entropy_onnx.py has the quantized ones."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from photographs import crop
from PIL import Image
from trained_weights import THREE_QUALITIES

import dkic
from dkic.cli import cli
from dkic.codec_onnx import export_codec
from dkic.coding.container import unpack
from dkic.coding.latent import decode_latent
from dkic.coding.transforms import analyze
from dkic.errors import DkicError
from dkic.hub import find_weights
from dkic.models.presets import PRESETS, network_of
from dkic.models.quality_table import QualityScale
from dkic.models.weights_file import load_weights, save_weights

QUALITY = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "networks"
    result = CliRunner().invoke(
        cli, ["export-onnx", "--model", str(THREE_QUALITIES), "--quality", str(QUALITY), "-o", str(folder)]
    )
    assert result.exit_code == 0, result.output
    names = [path.removeprefix(f"{folder}/") for path in result.output.splitlines()]
    assert names[:4] == ["analysis.onnx", "hyper_analysis.onnx", "synthesis.onnx", "hyper_synthesis.onnx"]
    assert len([name for name in names if re.fullmatch(r"slice_\d_pass_\d.onnx", name)]) == 13
    assert sorted(names) == sorted(path.name for path in folder.iterdir())
    return folder


@pytest.fixture(scope="module")
def weights():
    return next(w for w in map(load_weights, find_weights(THREE_QUALITIES)) if QUALITY in w.qualities)


def run(path, t: torch.Tensor) -> torch.Tensor:
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path)
    (source,) = session.get_inputs()
    return torch.from_numpy(session.run(None, {source.name: t.contiguous().numpy()})[0])


def test_encoder_agrees(folder, weights):
    for height, width in ((128, 192), (64, 320)):
        x = torch.from_numpy(crop(height, width)).permute(2, 0, 1).unsqueeze(0)
        with torch.inference_mode():
            y, z_hat = analyze(x, weights, tile=0)
        actual = run(folder / "analysis.onnx", x.float() / 255)
        torch.testing.assert_close(actual, y.contiguous(), rtol=1e-4, atol=1e-4 * y.abs().max().item())
        off = (run(folder / "hyper_analysis.onnx", y) - z_hat).abs()
        assert off.max() <= 1 and off.mean() < 0.01  # a z near a half may be rounded to the other side


def test_decodes_a_files_latent_to_within_a_gray_level(folder, weights):
    codec = dkic.load(THREE_QUALITIES)
    data = codec.compress(crop(100, 150), QUALITY)
    with torch.inference_mode():
        y_hat = decode_latent(unpack(data), weights).float()
    image = run(folder / "synthesis.onnx", y_hat)[0, :, :100, :150].permute(1, 2, 0)
    levels = (image * 255).round().numpy().astype(int)
    assert np.abs(levels - codec.decompress(data, "numpy")).max() <= 1


def decoded_by_the_example(data: bytes, networks: Path, tmp_path: Path, *options: Any) -> subprocess.CompletedProcess:
    (tmp_path / "a.dkic").write_bytes(data)
    script = Path(__file__).resolve().parents[1] / "examples" / "decode_with_onnx.py"
    command = [sys.executable, str(script), str(tmp_path / "a.dkic"), str(networks), str(tmp_path / "a.png"), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("qstep", [0, 3])
def test_example_decodes_a_file(folder, tmp_path, qstep):
    """The symbols of a file with ONNX Runtime's means and scale indexes; one wrong number would leave other symbols."""
    codec = dkic.load(THREE_QUALITIES)
    data = codec.compress(crop(100, 150), QUALITY, qstep=qstep)
    child = decoded_by_the_example(data, folder, tmp_path, "--weights", codec.weights_of(QUALITY).path)
    assert child.returncode == 0, child.stderr
    pixels = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    assert np.abs(pixels - codec.decompress(data, "numpy")).max() <= 1


def test_example_decodes_a_variable_rate_file(tmp_path):
    codec, quality = dkic.load("small"), 30
    export_codec(codec.weights_of(quality), quality, tmp_path / "networks")
    data = codec.compress(crop(100, 150), quality)
    child = decoded_by_the_example(data, tmp_path / "networks", tmp_path)
    assert child.returncode == 0, child.stderr
    pixels = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    assert np.abs(pixels - codec.decompress(data, "numpy")).max() <= 1
    child = decoded_by_the_example(codec.compress(crop(100, 150), quality, qstep=1), tmp_path / "networks", tmp_path)
    assert child.returncode == 2 and "was compressed to a target rate" in child.stderr


def test_readme_names_model_and_tensors(folder, weights):
    text = (folder / "README.md").read_text()
    assert weights.hash.hex() in text and f"quality {QUALITY}" in text
    for path in folder.glob("*.onnx"):
        model = onnx.load(path)
        tensors = [t.name for t in (*model.graph.input, *model.graph.output)]
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{path.name}`")]
        assert all(f"`{tensor}`" in row for tensor in tensors)


def test_refused(folder, weights, tmp_path, monkeypatch):
    with pytest.raises(DkicError, match="this model has no quality 99"):
        export_codec(weights, 99, tmp_path)
    result = CliRunner().invoke(cli, ["export-onnx", "--model", str(THREE_QUALITIES), "--quality", "99", "-o", str(tmp_path)])
    assert result.exit_code == 1 and f"--quality: model {THREE_QUALITIES} does not have 99; use 1, 3" in result.output
    (tmp_path / "a_file").write_bytes(b"")
    with pytest.raises(DkicError, match="a_file: can't be made"):
        export_codec(weights, QUALITY, tmp_path / "a_file")
    (tmp_path / "a_file").unlink()
    there = tmp_path / "there"
    there.mkdir()
    (there / "README.md").write_text("mine")
    with pytest.raises(DkicError, match="README.md: the file exists"):
        export_codec(weights, QUALITY, there)
    assert [path.name for path in there.iterdir()] == ["README.md"]  # nothing is written where not all can be
    (there / "README.md").unlink()
    there.rmdir()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(DkicError, match=r"\.\[onnx\]"):
        export_codec(weights, QUALITY, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_variable_rate_model(tmp_path):
    """Its quality is that of the export, and it has no hyper-prior. Float entropy networks are left out."""
    torch.manual_seed(0)
    model = network_of(PRESETS["small"])
    for module in model.g_s.modules():
        if isinstance(module, QualityScale):
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
    save_weights(tmp_path / "small.safetensors", model, 50, {})
    weights = load_weights(tmp_path / "small.safetensors")
    files = export_codec(weights, 30, tmp_path / "onnx")
    assert [path.name for path in files] == ["analysis.onnx", "synthesis.onnx", "README.md"]
    assert "is not quantized" in files[-1].read_text()
    y_hat = torch.randn(1, weights.model.config.latent_channels, 4, 6)
    with torch.no_grad():
        expected, other = (weights.model.synthesize(y_hat, weights.quality_at(q, 0)).clamp(0, 1) for q in (30, 90))
    assert (other - expected).abs().max() > 0.01
    actual = run(tmp_path / "onnx" / "synthesis.onnx", y_hat)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
