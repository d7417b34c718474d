"""The Python examples of the documentation and the scripts in examples/ run unchanged."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dkic.demo import PHOTO

ROOT = Path(__file__).resolve().parents[2]
DOCS, SCRIPTS = ROOT / "docs", ROOT / "examples"
# tests/ops/test_aotinductor.py runs cpp.md's example, which takes minutes to compile; compressai.md's downloads weights.
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if "```python" in path.read_text())
for elsewhere in ("cpp.md", "compressai.md"):
    PAGES.remove(elsewhere)


@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page, tmp_path, monkeypatch):
    """The examples of a page, in order, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    assert examples
    names = {"__name__": page}
    for example in examples:
        exec(compile(example, page, "exec"), names)


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of three crops of a photograph, 192x128."""
    folder = tmp_path / "photos"
    folder.mkdir()
    with Image.open(PHOTO) as photo:
        for i in range(3):
            photo.crop((150 * i, 100 * i, 150 * i + 192, 100 * i + 128)).save(folder / f"{i}.png")
    return folder


def run(script: str, *arguments: object) -> str:
    """Standard output of a script that succeeds."""
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return child.stdout


def test_ldcn_codec():
    lines = run("ldcn_codec.py", "--steps", 30).splitlines()
    assert lines[0].startswith("step 30:") and lines[-1].startswith("whole image")
    bpp, psnr = map(float, re.findall(r"[\d.]+(?= bpp| dB)", lines[-1]))
    assert 0 < bpp < 24 and psnr > 10


def test_replace_deform_conv2d():
    assert "results agree" in run("replace_deform_conv2d.py", "--channels", 16, "--side", 16)


@pytest.mark.parametrize(
    ("model", "last"),
    [
        ("mbt2018-mean", r"bit-exact: \d+ bytes become \d+"),
        ("mbt2018", "JointAutoregressiveHierarchicalPriors has no bit-exact form"),
    ],
)
def test_compressai_model(photos, model, last):
    pytest.importorskip("compressai")
    lines = run("compressai_model.py", photos / "0.png", "--model", model, "--quality", 1, "--untrained").splitlines()
    assert lines[2].startswith("streams equal") and re.search(last, lines[3])


def test_pillow_plugin(photos, tmp_path):
    out = tmp_path / "out.dkic"
    lines = run("pillow_plugin.py", photos / "0.png", out, "--quality", 2).splitlines()
    assert lines[0] == "DKIC, 192x128, RGB, quality 2" and re.search(r"[\d.]+ bpp, [\d.]+ dB", lines[1])
    run("pillow_plugin.py", photos / "0.png", out, "--target-bpp", 0.5)
    assert out.stat().st_size * 8 <= 0.5 * 192 * 128


def test_hub_weights(tmp_path):
    folder = tmp_path / "weights"
    lines = run("hub_weights.py", folder).splitlines()
    assert "README.md" in lines[0] and lines[1].endswith("the files are equal")
    assert list(folder.glob("*.safetensors"))


def test_train_on_folder(photos, tmp_path):
    lines = run("train_on_folder.py", photos, tmp_path / "run", "--steps", 2, "--batch", 1).splitlines()
    assert re.search(r"[\d.]+ bpp", lines[-1])
    with Image.open(tmp_path / "run" / "decoded.png") as decoded:
        assert decoded.size == (192, 128)
    with (tmp_path / "run" / "log.csv").open() as log:
        assert len(list(csv.reader(log))) == 3  # a header and two steps


def test_compress_to_rate(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("DKIC_CACHE", str(tmp_path / "cache"))
    run("compress_to_rate.py", photos, tmp_path / "out", "--target-bpp", 0.3, 0.6, "--no-qsteps")
    for target in (0.3, 0.6):
        files = list((tmp_path / "out" / f"{target}bpp").glob("*.dkic"))
        assert len(files) == 3
        assert sum(path.stat().st_size for path in files) * 8 <= target * 3 * 192 * 128
    with Image.open(tmp_path / "out" / "rate_distortion.png") as plot:
        assert np.ptp(np.asarray(plot.convert("L"))) > 0


def test_allocate_table(tmp_path):
    table = tmp_path / "table.csv"
    options = [("a", 1, 100, 0.5), ("a", 2, 200, 0.1), ("b", 1, 100, 0.5), ("b", 2, 200, 0.4)]
    table.write_text("image,quality,bytes,pixels,lpips\n" + "".join(f"{i},{q},{b},1600,{d}\n" for i, q, b, d in options))
    output = run("allocate_table.py", table, "--target-bpp", 0.75)
    assert "a: quality 2" in output and "b: quality 1" in output
    assert "mean LPIPS 0.3000" in output
