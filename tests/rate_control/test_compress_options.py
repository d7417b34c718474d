"""`dkic compress --target-bpp` of one image, its usage errors, ICC profiles and transparency."""

import math
from pathlib import Path

import pytest
from command_line import dkic
from PIL import Image
from rate_control.image_set_cases import compress
from rate_control.rate_control_cases import SIZES

import dkic as package
from dkic.coding.codec import Codec
from dkic.coding.color_profile import SRGB_PRIMARIES, Curve, make_profile
from dkic.coding.container import icc_section_bytes, unpack
from dkic.coding.operating_points import OperatingPoint
from dkic.errors import DkicError
from dkic.models.weights_file import load_weights


def test_one_image_gets_a_quality_and_a_qstep(model, images, tmp_path, decoded):
    codec, pixels = package.load(model), math.prod(SIZES["a.png"][:2])
    points = codec.points.all()
    sizes = {point: len(codec.compress(images / "a.png", point.quality, qstep=point.qstep)) for point in points}
    qsteps = set()
    for size in sorted(sizes.values()):
        target = size * 8 / pixels
        result = compress(model, images / "a.png", "-o", tmp_path / "a.dkic", "--target-bpp", repr(target), "--force")
        data = (tmp_path / "a.dkic").read_bytes()
        header = unpack(data).header
        assert (result.status, result.err) == (0, "") and len(data) * 8 / pixels <= target
        assert len(data) == sizes[header.quality, header.qstep]
        qstep = f" qstep {header.qstep:+}" if header.qstep else ""
        said = f"{len(data)} bytes, {len(data) * 8 / pixels:.3f} bpp, quality {header.quality}{qstep}, encoded and verified in "
        assert said in result.out
        info = dkic("info", tmp_path / "a.dkic").out
        assert f"quality {header.quality}, qstep {header.qstep:+}" in info if header.qstep else ", qstep" not in info
        qsteps.add(header.qstep)
    assert len(qsteps) > 2 and decoded == []  # nothing was measured
    least = min(sizes.values()) * 8 / pixels
    result = compress(model, images / "a.png", "-o", tmp_path / "b.dkic", "--target-bpp", least * 0.99)
    assert (result.status, result.out) == (1, "") and not (tmp_path / "b.dkic").exists()
    assert f"no operating point is within {least * 0.99:g}" in result.err and "the least possible" in result.err


def test_qualities_out_of_order(images, monkeypatch):
    """The golden files' quality 2 takes fewer bytes than quality 1."""
    codec = Codec([load_weights(path) for path in (Path(__file__).parents[1] / "golden").glob("small-q*.safetensors")])
    points = [OperatingPoint(1, 0), OperatingPoint(2, 0)]
    monkeypatch.setattr(codec.points, "all", lambda: points)
    first, second = (len(codec.compress(images / "a.png", quality)) for quality in (1, 2))
    assert second < first
    assert len(codec.compress(images / "a.png", target_bpp=(first - 1) * 8 / 48 / 64)) == second
    with pytest.raises(DkicError, match=f"the least possible for this image is {second * 8 / 48 / 64:.6g}"):
        codec.compress(images / "a.png", target_bpp=(second - 1) * 8 / 48 / 64)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--target-bpp", "0.3", "--quality", "1"], "--quality: can't be combined with --target-bpp"),
        (["--mean"], "--mean: needs --target-bpp"),
        (["--distortion", "mse"], "--distortion: needs --target-bpp"),
        (["--no-qsteps"], "--no-qsteps: needs --target-bpp"),
        (["--target-bpp", "0"], "--target-bpp"),
        (["--target-bpp", "low"], "--target-bpp"),
        (["--target-bpp", "nan"], "--target-bpp: must be a finite number, not nan"),
        (["--target-bpp", "inf"], "--target-bpp: must be a finite number, not inf"),
        (["--target-bpp", "0.3", "--distortion", "psnr"], "--distortion"),
    ],
)
def test_wrong_usage(model, images, tmp_path, options, said):
    result = compress(model, images / "a.png", "-o", tmp_path / "a.dkic", *options)
    assert (result.status, result.out) == (2, "") and said in result.err.splitlines()[-1]
    assert not (tmp_path / "a.dkic").exists()


def test_a_folder_without_images(model, tmp_path):
    result = compress(model, tmp_path, "-o", tmp_path / "out", "--target-bpp", 0.3)
    assert (result.status, result.out) == (2, "") and f"{tmp_path}: there are no images" in result.err


def test_the_error_of_an_unreachable_target_names_icc_profiles(model, images, tmp_path):
    profile, folder = make_profile(Curve(2.2), SRGB_PRIMARIES), tmp_path / "profiles"
    folder.mkdir()
    for path in images.iterdir():
        with Image.open(path) as image:
            image.save(folder / path.name, icc_profile=profile)
    arguments = (folder, "-o", tmp_path / "out", "--target-bpp", 0.001, "--distortion", "mse")
    result = compress(model, *arguments)
    count, size = len(SIZES), icc_section_bytes(profile)
    assert result.status == 1
    assert f"; ICC profiles of {count} images take {count * size:,} bytes, which --icc drop leaves out" in result.err
    assert "ICC" not in compress(model, *arguments, "--icc", "drop").err
    kept = compress(model, folder, "-o", tmp_path / "kept", "--target-bpp", 9, "--distortion", "mse", "--no-qsteps")
    assert kept.out.count(f" bytes, ICC profile {size} bytes, ") == count
    dropped = compress(
        model, folder, "-o", tmp_path / "dropped", "--target-bpp", 9, "--distortion", "mse", "--no-qsteps", "--icc", "drop"
    )
    assert dropped.status == 0 and "ICC" not in dropped.out
    for path in (tmp_path / "kept").iterdir():
        assert unpack(path.read_bytes()).icc == profile
        assert unpack((tmp_path / "dropped" / path.name).read_bytes()).icc is None


def test_transparency_onto_a_background(model, images, tmp_path):
    with Image.open(images / "a.png") as image:
        image.putalpha(100)
        image.save(tmp_path / "clear.png")
    arguments = (images / "b.png", tmp_path / "clear.png", "-o", tmp_path / "out", "--target-bpp", 9, "--distortion", "mse")
    result = compress(model, *arguments)
    assert result.status == 1 and "clear.png: it has transparency; give the color behind it" in result.err
    assert compress(model, *arguments, "--background", "white", "--force").status == 0
    assert (tmp_path / "out" / "clear.dkic").is_file()
