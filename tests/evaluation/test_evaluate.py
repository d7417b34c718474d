"""`dkic evaluate` on small images: every number in the report can be recomputed from its files."""

import csv
import json
import re

import numpy as np
import pytest
from awkward_names import AWKWARD
from command_line import dkic
from lpips_weights import need_backbone
from photographs import crop
from PIL import Image
from pyarrow import parquet

from dkic.cli.evaluate import evaluate
from dkic.errors import DkicError
from dkic.evaluation.classical import by_pillow
from dkic.evaluation.codecs import Unavailable, make_codec
from dkic.evaluation.measured_files import find_images, measure_files
from dkic.evaluation.metric_registry import ALWAYS, load_metrics
from dkic.evaluation.metrics import batch, ms_ssim, psnr, ssimulacra2
from dkic.table_file import name_of


def test_the_table_has_a_line_for_each_codec(report):
    out, done = report.out, report.done
    text = (out / "table.md").read_text()
    assert "| jpeg |" in text and "| dkic:small |" in text
    assert "bpg444: left out: bpgenc: not found on PATH" in done.out and "bpg444 was left out: bpgenc: not found" in text
    assert "LPIPS alone does not reward realism" in text and "34 operating points of quality 1 to 100" in text
    in_loss = "DISTS, LPIPS (VGG), LPIPS, PSNR (as MSE), MS-SSIM (as SSIM at four scales)"
    assert f"training loss of dkic:small contains {in_loss}, no other metric here" in text
    assert (out / "table.tex").read_text().startswith(r"\begin{tabular}")
    assert (out / "bd_rate.md").read_text().startswith("| BD-rate against jpeg, % | SSIMULACRA2 | LPIPS | PSNR | MS-SSIM |")
    assert len((out / "table.csv").read_text().splitlines()) == 1 + 2 * 2


def test_figures_are_written(report):
    out = report.out
    names = {path.name for path in (out / "figures").iterdir()}
    assert names == {f"{target}-bpp-{image}.png" for target in ("0.4", "1.2") for image in report.sizes}
    width, height = Image.open(out / "figures" / "1.2-bpp-upright.png").size
    assert width == 1620 and height > 500


def test_curves_are_written(report):
    out = report.out
    assert sorted(path.name for path in out.glob("rate_distortion_*")) == sorted(
        f"rate_distortion_{metric}.{suffix}" for metric in ("ssimulacra2", *ALWAYS) for suffix in ("png", "svg")
    )
    assert Image.open(out / "rate_distortion_psnr.png").size == (980, 700)


def test_every_number_comes_from_the_files(report):
    out = report.out
    rows = parquet.read_table(out / "measurements.parquet").to_pylist()
    codecs = {name: make_codec(name) for name in ("jpeg", "dkic:small")}
    assert len(rows) == 2 * sum(len(codec.qualities) for codec in codecs.values())
    for row in rows[::5] + rows[-2:]:
        file = out / "files" / row["file"]
        x = np.array(Image.open(report.folder / f"{row['image']}.png"))
        x_hat = codecs[row["codec"]].decode(file.read_bytes())
        assert (row["height"], row["width"]) == report.sizes[row["image"]]
        assert row["bytes"] == file.stat().st_size and row["bpp"] == row["bytes"] * 8 / (row["width"] * row["height"])
        assert row["psnr"] == pytest.approx(psnr(batch(x), batch(x_hat)).item(), abs=1e-4)
        assert row["ms_ssim"] == pytest.approx(ms_ssim(batch(x), batch(x_hat)).item(), abs=1e-5)
        assert row["ssimulacra2"] == pytest.approx(ssimulacra2(batch(x), batch(x_hat)).item(), abs=1e-4)
        assert 0 < row["lpips"] < 1 and row["encode_seconds"] > 0 and row["decode_seconds"] > 0
    chosen = parquet.read_table(out / "chosen.parquet").to_pylist()
    assert all(np.isnan(row["dists"]) for row in rows) and all(np.isnan(row["lpips_vgg"]) for row in rows + chosen)
    dists = load_metrics(["dists"])["dists"]
    for row in chosen[::3]:
        x = np.array(Image.open(report.folder / f"{row['image']}.png"))
        x_hat = codecs[row["codec"]].decode((out / "files" / row["file"]).read_bytes())
        assert row["dists"] == pytest.approx(dists(batch(x), batch(x_hat)).item(), abs=1e-4)
    for target in (0.4, 1.2):
        own = [row for row in chosen if row["codec"] == "jpeg" and row["target_bpp"] == target]
        assert [row["image"] for row in own] == list(report.sizes) and np.mean([row["bpp"] for row in own]) <= target


def test_a_report_is_not_overwritten_without_force(report):
    out = report.out
    done = dkic("evaluate", report.folder, "--codec", "jpeg", "-o", out)
    assert done.status == 1 and "--force" in done.err and len(done.err.splitlines()) == 1


def test_any_file_name_is_preserved(tmp_path):
    need_backbone("alex")
    (tmp_path / "images").mkdir()
    for name in AWKWARD:
        Image.fromarray(crop(32, 32)).save(tmp_path / "images" / name)
    done = dkic("evaluate", tmp_path / "images", "--codec", "jpeg", "-t", "9", "-o", tmp_path / "r", "--page-images", "20")
    assert done.status == 0, done.err
    stems = [name.removesuffix(".png") for name in sorted(AWKWARD)]
    rows = parquet.read_table(tmp_path / "r/chosen.parquet").to_pylist()
    assert [name_of(row["image"]) for row in rows] == stems
    assert all((tmp_path / "r/files" / name_of(row["file"])).stat().st_size == row["bytes"] for row in rows)
    lines = csv_lines(tmp_path / "r/table.csv")
    assert len(lines) == 2 and lines[1][-1].startswith(f"no MS-SSIM: {stems[0]} has a side below 161")
    data = re.search(r'id="data">(.*)</script>', (tmp_path / "r/index.html").read_text())[1]
    assert list(json.loads(data)["images"]) == stems


def csv_lines(path) -> list[list[str]]:
    with open(path, newline="", errors="surrogateescape") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--codec", "jpg"], "there is no such codec"),
        (["--codec", "jpeg", "dkic:nothing"], "nothing"),
        (["--codec", "jpeg", "--anchor", "webp"], "--anchor webp: must be one of the codecs jpeg"),
        (["--codec", "bpg444"], "none of these codecs could run: bpg444: bpgenc: not found"),
    ],
)
def test_invalid_options_are_refused(arguments, said, report, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    done = dkic("evaluate", report.folder, *arguments, "-o", tmp_path / "r")
    assert done.status == 1 and said in done.err and len(done.err.splitlines()) == 1


def test_several_values_follow_one_option():
    def parsed(*args: str) -> dict:
        return evaluate.make_context("evaluate", list(args)).params

    got = parsed("DIR", "--codec", "jpeg", "webp", "--target-bpp", "0.1", "0.2", "-o", "R", "--force")
    assert got["codecs"] == ("jpeg", "webp") and got["targets"] == (0.1, 0.2) and got["force"]
    assert parsed("-o", "R", "--codec", "jpeg", "--codec", "webp", "--force", "DIR") | {"targets": (0.1, 0.2)} == got
    assert parsed("DIR", "-o", "R")["targets"] == (0.075, 0.15, 0.3)


def test_folders_of_images(report, tmp_path):
    assert list(find_images(report.folder)) == list(report.sizes)
    with pytest.raises(DkicError, match="there are no images"):
        find_images(tmp_path)
    with pytest.raises(DkicError, match="no such folder"):
        find_images(tmp_path / "x")
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(DkicError, match="only in its suffix; rename one of them"):
        find_images(tmp_path)


def test_a_codec_that_fails_or_changes_the_size_is_skipped(report, tmp_path, monkeypatch):
    jpeg = by_pillow("jpeg")
    images = find_images(report.folder)
    monkeypatch.setattr(type(jpeg), "decode", lambda self, data: np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(Unavailable, match=r"decodes to uint8 \[4, 4, 3\], not \[176, 192, 3\]"):
        measure_files(jpeg, images, tmp_path, {})
    monkeypatch.setattr(type(jpeg), "encode", lambda self, pixels, quality: (_ for _ in ()).throw(OSError("broken")))
    with pytest.raises(Unavailable, match="png: jpeg failed: broken"):
        measure_files(jpeg, images, tmp_path, {})
