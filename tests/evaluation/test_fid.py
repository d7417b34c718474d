"""FID and KID of patches, with an Inception of random weights, compared with torch-fidelity's command on folders of patches."""

import csv
import os
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from command_line import dkic
from lpips_weights import need_backbone
from photographs import crop
from PIL import Image
from torch_fidelity import FeatureExtractorInceptionV3, calculate_metrics

from dkic.errors import DkicError
from dkic.evaluation.codecs import Unavailable
from dkic.evaluation.fid import PatchMetrics, corners
from dkic.evaluation.inception import FILE_NAME, cached_weights, load_inception
from dkic.evaluation.metric_registry import METRICS

KEYS = ("frechet_inception_distance", "kernel_inception_distance_mean")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file as torch-fidelity's: a dict of tensors, without the counters of the batch norms."""
    module = "torch_fidelity.feature_extractor_inceptionv3"
    with (
        mock.patch(f"{module}.load_state_dict_from_url"),
        mock.patch(f"{module}.FeatureExtractorInceptionV3.load_state_dict"),
    ):
        state = FeatureExtractorInceptionV3("made", ["2048"]).state_dict()
    generator = torch.Generator().manual_seed(0)
    for value in state.values():
        if value.ndim == 4:  # keeps the scale of activations, so that patches still differ in the last layer
            torch.nn.init.kaiming_normal_(value, nonlinearity="relu", generator=generator)
    path = tmp_path_factory.mktemp("inception") / "some.pth"
    torch.save({name: value for name, value in state.items() if "num_batches" not in name}, path)
    return path


@pytest.fixture
def early_features(monkeypatch):
    """Features of an early layer, here and in torch-fidelity: the covariance of the real one takes 10 s to compare."""
    early = staticmethod(lambda metric: "192")
    monkeypatch.setattr(FeatureExtractorInceptionV3, "get_default_feature_layer_for_metric", early)


def expected(file: Path, decoded: Path, originals: Path, **more: int) -> dict[str, float]:
    return calculate_metrics(
        input1=str(decoded),
        input2=str(originals),
        fid=True,
        kid=True,
        feature_extractor_weights_path=file,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
        **more,
    )


def save_patches(folder: Path, images: list[np.ndarray]) -> int:
    """As PNG, named in order; cut by numpy here, from the image and from what is left of it 128 pixels further."""
    folder.mkdir()
    patches = []
    for image in images:
        for part in (image, image[128:, 128:]):
            rows, columns = part.shape[0] // 256, part.shape[1] // 256
            whole = part[: rows * 256, : columns * 256].reshape(rows, 256, columns, 256, 3)
            patches += list(whole.swapaxes(1, 2).reshape(-1, 256, 256, 3))
    for i, patch in enumerate(patches):
        Image.fromarray(patch).save(folder / f"{i:03}.png")
    return len(patches)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((255, 900), []),
        ((256, 256), [(0, 0)]),
        ((383, 511), [(0, 0)]),
        ((384, 384), [(0, 0), (128, 128)]),
        ((512, 768), [(t, s) for t in (0, 256) for s in (0, 256, 512)] + [(128, 128), (128, 384)]),
        ((256, 1000), [(0, 0), (0, 256), (0, 512)]),
    ],
)
def test_positions_of_patches(size, expected):
    assert corners(*size) == expected


def test_the_features_are_those_of_fid_and_kid(weights):
    network = load_inception(weights)
    assert {FeatureExtractorInceptionV3.get_default_feature_layer_for_metric(name) for name in ("fid", "kid")} == {"2048"}
    (found,) = network(torch.from_numpy(crop(256, 256)).permute(2, 0, 1)[None])
    assert found.shape == (1, 2048) and found.dtype == torch.float32 and 0.01 < found.std() < 100


def test_a_report_has_the_values_of_torch_fidelity(weights, early_features, tmp_path):
    need_backbone("alex")
    (tmp_path / "images").mkdir()
    images = {"big": crop(400, 520, 60, 100), "small": crop(200, 300), "square": crop(256, 256)}
    for name, pixels in images.items():
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
    out = tmp_path / "report"
    done = dkic(
        "evaluate",
        tmp_path / "images",
        "--codec",
        "webp",
        "--target-bpp",
        "0.01",
        "0.5",
        "--inception",
        weights,
        "-o",
        out,
        "--metrics",
        "none",
    )
    assert done.status == 0, done.err

    out_of_reach, row = csv.DictReader((out / "table.csv").read_text().splitlines())
    chosen = re.findall(r'"file": "(webp/[^"]+)"', (out / "index.html").read_text())
    decoded = [np.array(Image.open(out / "files" / file).convert("RGB")) for file in chosen]
    count = save_patches(tmp_path / "originals", list(images.values()))
    assert len(decoded) == 3 and save_patches(tmp_path / "decoded", decoded) == count == 4
    wanted = expected(weights, tmp_path / "decoded", tmp_path / "originals", kid_subset_size=count, kid_subsets=1)
    for name, key in zip(("fid", "kid"), KEYS, strict=True):
        assert float(row[name]) == pytest.approx(wanted[key], rel=1e-3) and out_of_reach[name] == ""
    assert list(row)[2:11] == ["bpp", *METRICS, "fid", "kid"]

    text, page, latex = ((out / f"{name}").read_text() for name in ("table.md", "index.html", "table.tex"))
    assert text.splitlines()[0].count("| FID | KID |") == 2 and f"| {float(row['fid']):.2f} | {float(row['kid']):.5f} |" in text
    assert r"\multicolumn{6}{c}{0.5 bpp}" in latex and "{lrrrrrrrrrrrrrr}" in latex and r"\cmidrule(lr){8-13}" in latex
    for said in (
        "compare 4 patches of 256x256 pixels",
        "KID uses all of them at once",
        "1 of the 3 images",
        "fewer than 2048",
        "prefer KID",
        "FID and KID do: they compare",
    ):
        assert said in text and said in page, said
    assert "compare 4 patches" in done.out and '"FID", "KID"' in page


def test_many_patches_in_subsets(weights, early_features, tmp_path, monkeypatch):
    monkeypatch.setattr("dkic.evaluation.fid._SUBSET", 3)
    monkeypatch.setattr("dkic.evaluation.fid._AT_ONCE", 3)
    originals, decoded = [crop(512, 512, 0, 0)], [crop(512, 512, 0, 0) // 32 * 32]
    metrics = PatchMetrics(load_inception(weights), originals)
    assert save_patches(tmp_path / "a", decoded) == save_patches(tmp_path / "b", originals) == metrics.patches == 5
    wanted = expected(weights, tmp_path / "a", tmp_path / "b", kid_subset_size=3)
    assert metrics(decoded) == pytest.approx([wanted[key] for key in KEYS], rel=1e-3)
    assert "100 subsets of 3, seed 2020" in metrics.about()[0]

    fid, kid = metrics(originals)
    assert abs(fid) < 1e-3 and kid < 0  # as the texts say of pairs
    with pytest.raises(ValueError, match="5 patches .* not 10"):
        metrics(decoded * 2)


def test_images_without_patches(weights):
    network = load_inception(weights)
    for images, count in (([crop(255, 400)], 0), ([crop(256, 256), crop(100, 100)], 1)):
        with pytest.raises(Unavailable, match=f"at least two patches of 256x256 pixels are needed, and the images have {count}"):
            PatchMetrics(network, images)


def test_weights_are_searched_locally_and_not_downloaded(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("DKIC_CACHE", str(tmp_path / "dkic"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    with pytest.raises(Unavailable, match=f"put https://.*/{FILE_NAME} into {tmp_path}/dkic, or name the file by --inception$"):
        load_inception()
    at = [tmp_path / "torch" / "hub" / "checkpoints" / FILE_NAME, tmp_path / "dkic" / FILE_NAME]
    assert cached_weights() == at
    for path in at:
        path.parent.mkdir(parents=True)
        path.symlink_to(weights)
        assert isinstance(load_inception(), FeatureExtractorInceptionV3)
        path.unlink()
    monkeypatch.setattr("dkic.evaluation.inception.find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="torch-fidelity is not installed"):
        load_inception()


def test_without_weights_the_report_states_the_reason(report):
    # Its images are too small where there are weights.
    why = "FID and KID were not computed: "
    text, page = (report.out / "table.md").read_text(), (report.out / "index.html").read_text()
    assert f"* {why}" in text and why in page and why in report.done.out
    assert "| FID" not in text and "fid" not in (report.out / "table.csv").read_text()


class Malign:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_files_of_other_contents_are_refused(weights, tmp_path):
    state = torch.load(weights)
    path = tmp_path / "weights.pth"
    trace = tmp_path / "trace"
    without = {name: value for name, value in state.items() if name != "fc.bias"}
    for content in (
        without,
        without | {"fc.bias": torch.zeros(1000)},
        state | {"fc.bias": torch.full((1008,), torch.nan)},
        [1, 2],
        state | {"x": Malign(trace)},
    ):
        torch.save(content, path)
        with pytest.raises(DkicError, match=f"weights.pth: does not hold the weights of torch-fidelity's Inception, {FILE_NAME}"):
            load_inception(path)
    assert not trace.exists()
    path.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DkicError, match="does not hold"):
        load_inception(path)


def test_the_command_fails_before_measuring(report, tmp_path):
    need_backbone("alex")
    (tmp_path / "text.pth").write_text("no weights")
    for name, said in (("none.pth", "No such file"), ("text.pth", "does not hold the weights")):
        done = dkic("evaluate", report.folder, "--codec", "jpeg", "--inception", tmp_path / name, "-o", tmp_path / "out")
        assert done.status == 1 and said in done.err and len(done.err.splitlines()) == 1
        assert not any((tmp_path / "out").iterdir())
