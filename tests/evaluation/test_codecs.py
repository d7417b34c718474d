"""Every codec that can run: real files, odd sizes, increasing rates; and the reasons of those that cannot."""

import stat
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai.models import Cheng2020Anchor
from photographs import crop
from trained_weights import THREE_QUALITIES

from dkic.coding.container import unpack
from dkic.errors import DkicError
from dkic.evaluation import by_ffmpeg, classical
from dkic.evaluation.codecs import NAMES, ImageCodec, Unavailable, expand, make_codec
from dkic.evaluation.metrics import batch, psnr

BEGINNING = {  # of their files
    "jpeg": b"\xff\xd8\xff",
    "jpeg2000": b"\xff\x4f\xff\x51",
    "webp": b"RIFF",
    "avif": b"\0\0\0",
    "jxl": b"\xff\x0a",
    "hevc444": b"\0\0\0\1\x40",
    "vvc": b"\0\0",
    "dkic:small": b"DKIC",
}


def made(name: str, **more: list[Path]) -> ImageCodec:
    try:
        return make_codec(name, **more)
    except Unavailable as error:
        pytest.skip(str(error))


def fidelity(codec: ImageCodec, pixels: np.ndarray, quality: int) -> tuple[int, float]:
    """Bytes of a file, and PSNR of the decoded image."""
    data = codec.encode(pixels, quality)
    decoded = codec.decode(data)
    assert decoded.shape == pixels.shape and decoded.dtype == np.uint8
    return len(data), psnr(batch(pixels), batch(decoded)).item()


@pytest.mark.parametrize("name", BEGINNING)
def test_files_have_the_format_of_their_codec(name):
    codec, pixels = made(name), crop(64, 96)
    data = codec.encode(pixels, codec.qualities[-1])
    assert data.startswith(BEGINNING[name])
    assert codec.name == name and codec.about and codec.suffix.startswith(".")
    assert data == codec.encode(pixels, codec.qualities[-1])


@pytest.mark.parametrize("name", BEGINNING)
def test_qualities_rise_in_rate_and_fidelity(name):
    codec, pixels = made(name), crop(128, 192)
    few = codec.qualities[:: -(len(codec.qualities) // 3)][::-1]
    sizes, psnrs = zip(*(fidelity(codec, pixels, quality) for quality in few), strict=True)
    assert len(few) > 2 and list(sizes) == sorted(set(sizes)) and list(psnrs) == sorted(set(psnrs))
    assert psnrs[-1] > 24  # swapped channels or a wrong matrix would stay far below


def test_settings_are_operating_points():
    codec, pixels = made(f"dkic:{THREE_QUALITIES}"), crop(64, 64)
    assert list(codec.qualities) == sorted(codec.qualities) and {8, 9, 10, 11, 28, 31, 51} <= set(codec.qualities)
    for setting, quality, qstep in ((8, 1, 2), (10, 1, 0), (29, 3, 1), (31, 3, -1)):
        header = unpack(codec.encode(pixels, setting)).header
        assert (header.quality, header.qstep) == (quality, qstep)


@pytest.mark.parametrize("name", BEGINNING)
def test_odd_sizes(name):
    codec, pixels = made(name), crop(83, 117)
    if name == "vvc":
        with pytest.raises(DkicError, match="even, not 117x83"):
            codec.encode(pixels, 40)
        pixels = pixels[:82, :116].copy()
    size, db = fidelity(codec, pixels, codec.qualities[-1])
    assert size > 200 and db > 19


def test_colors_are_preserved():
    """Every corner of RGB, each 32x32, to within what subsampled chroma and quantization leave of it."""
    corners = np.array([[r, g, b] for r in (20, 235) for g in (20, 235) for b in (20, 235)], np.uint8)
    pixels = np.repeat(np.repeat(corners.reshape(2, 4, 3), 32, 0), 32, 1)
    for name in BEGINNING:
        codec = made(name)
        decoded = codec.decode(codec.encode(pixels, codec.qualities[-1]))
        inner = [decoded[16 + 32 * i, 16 + 32 * j].astype(int) for i in range(2) for j in range(4)]
        assert np.abs(np.array(inner) - corners).max() < 25, name


def test_names():
    assert expand(["jpeg", "cheng2020", "dkic:small", "jpeg"]) == [
        "jpeg",
        "cheng2020-anchor",
        "cheng2020-attn",
        "dkic:small",
    ]
    assert set(BEGINNING) - {"dkic:small"} <= set(NAMES)
    for unknown in ("jpg", "dkic:"):
        with pytest.raises(DkicError, match="there is no such codec; give names, separated by spaces: dkic:MODEL"):
            expand([unknown])
    with pytest.raises(DkicError, match="neither"):
        make_codec("dkic:neither")


# BPG's programs are not in any package. These replacements write PNG files with BPG's options.
BPGENC = """#!{python}
import sys
from PIL import Image
assert sys.argv[1:8] == ["-m", "9", "-f", "444", "-b", "8", "-q"] and sys.argv[9] == "-o", sys.argv
if sys.argv[8] == "13":
    sys.exit("bpgenc: no such quantizer")
Image.open(sys.argv[11]).quantize(100 - int(sys.argv[8])).convert("RGB").save(sys.argv[10], "PNG")
"""
BPGDEC = """#!{python}
import sys
from PIL import Image
assert sys.argv[1] == "-o", sys.argv
Image.open(sys.argv[3]).save(sys.argv[2])
"""


def test_bpg_by_its_programs(tmp_path, monkeypatch):
    for name, text in (("bpgenc", BPGENC), ("bpgdec", BPGDEC)):
        program = tmp_path / name
        program.write_text(text.format(python=sys.executable))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    codec, pixels = make_codec("bpg444"), crop(40, 60)
    size, db = fidelity(codec, pixels, 51)
    assert size > 200 and db > 25
    with pytest.raises(DkicError, match="bpgenc failed: bpgenc: no such quantizer"):
        codec.encode(pixels, 13)


def test_bpg_without_its_programs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="bpgenc: not found on PATH; build libbpg"):
        make_codec("bpg444")


@pytest.fixture(scope="module")
def cheng_weights(tmp_path_factory) -> Path:
    """Small ones, untrained, in a file as CompressAI has it."""
    torch.manual_seed(0)
    model = Cheng2020Anchor(N=16)
    model.update(force=True)
    path = tmp_path_factory.mktemp("zoo") / "cheng2020-anchor-2-0a1b2c3d.pth.tar"
    torch.save(model.state_dict(), path)
    return path


def test_cheng2020_from_a_file(cheng_weights):
    codec, pixels = make_codec("cheng2020-anchor", [cheng_weights]), crop(83, 117)
    assert codec.qualities == (2,)
    data = codec.encode(pixels, 2)
    decoded = codec.decode(data)
    assert decoded.shape == pixels.shape and data == codec.encode(pixels, 2)
    with torch.inference_mode():  # the network's result without a file
        x = torch.nn.functional.pad(batch(pixels).float() / 255, (0, 11, 0, 45), mode="replicate")
        strings = codec.network(2).compress(x)["strings"]
        x_hat = codec.network(2).decompress(strings, (2, 2))["x_hat"]
    assert np.array_equal(decoded, (x_hat[0, :, :83, :117].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
    assert len(data) == 16 + sum(len(string) for (string,) in strings)


def test_cheng2020_without_weights_is_unavailable(cheng_weights, tmp_path, monkeypatch):
    def unreachable(*_args, **_options):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    with pytest.raises(Unavailable, match="can't be downloaded .*no route.*--weights"):
        make_codec("cheng2020-attn", [cheng_weights])
    both = [cheng_weights, cheng_weights.with_name("cheng2020_anchor-mse-2-00000000.pth.tar")]
    with pytest.raises(DkicError, match="are both quality 2 of cheng2020-anchor"):
        make_codec("cheng2020-anchor", both)
    other = tmp_path / "mine.pth"
    other.write_bytes(b"x")
    with pytest.raises(DkicError, match="mine.pth: must have CompressAI's name"):
        make_codec("cheng2020-attn", [other])
    damaged = tmp_path / "cheng2020-attn-1-00000000.pth.tar"
    damaged.write_bytes(b"x")
    with pytest.raises(DkicError, match="not a readable weights file"):
        make_codec("cheng2020-attn", [damaged])
    damaged.write_bytes(cheng_weights.read_bytes())
    with pytest.raises(DkicError, match="not weights of cheng2020-attn"):
        make_codec("cheng2020-attn", [damaged])


def test_missing_dependencies_are_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setattr(classical.features, "check", lambda _feature: False)
    with pytest.raises(Unavailable, match="pip install pillow-jxl-plugin"):
        classical.by_pillow("jxl")
    with pytest.raises(Unavailable, match="pip install imageio-ffmpeg"):
        by_ffmpeg.by_ffmpeg("hevc444")
    with pytest.raises(Unavailable, match="built without avif; pip install -U pillow"):
        classical.by_pillow("avif")
