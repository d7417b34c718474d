"""The registry of metrics: names, unavailable metrics, and which direction is better."""

import io

import numpy as np
import pytest
from command_line import dkic
from evaluation.evaluation_cases import measurement
from lpips_weights import need_backbone
from photographs import crop
from PIL import Image

from dkic.evaluation import metric_registry
from dkic.evaluation.metric_registry import ALWAYS, METRICS, OPTIONAL, load_metrics
from dkic.evaluation.metrics import batch
from dkic.evaluation.table import at_target


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def test_every_metric_prefers_the_better_image():
    need_backbone("alex")
    need_backbone("vgg")
    loaded = load_metrics(METRICS)
    assert list(loaded) == list(METRICS)
    pixels = crop(176, 176)
    x, good, bad = batch(pixels), batch(jpeg(pixels, 80)), batch(jpeg(pixels, 5))
    for name, metric in METRICS.items():
        difference = loaded[name](x, good).item() - loaded[name](x, bad).item()
        assert difference > 0 if metric.higher_is_better else difference < 0


def test_ssimulacra2_is_the_packages_value():
    """The value of its command line tool: 44.73 for the photograph as a JPEG of quality 30."""
    loaded = load_metrics(["ssimulacra2"])
    pixels = crop(512, 768, top=0, left=0)
    assert loaded["ssimulacra2"](batch(pixels), batch(jpeg(pixels, 30))).item() == pytest.approx(44.73, abs=0.5)
    assert loaded["ssimulacra2"](batch(pixels), batch(pixels)).item() == pytest.approx(100)
    assert loaded["ssimulacra2"](batch(crop(7, 90)), batch(crop(7, 90))).isnan().all()


def test_a_metric_that_can_not_run_is_an_error(monkeypatch, tmp_path):
    need_backbone("alex")
    monkeypatch.setattr(metric_registry, "find_spec", lambda package: None)
    Image.fromarray(crop(64, 64)).save(tmp_path / "a.png")
    for options in ([], ["--metrics", "all"], ["--metrics", "none", "--allocate-by", "ssimulacra2"]):
        done = dkic("evaluate", tmp_path, "--codec", "jpeg", "-o", tmp_path / "out", *options)
        assert done.status == 1 and "SSIMULACRA2: needs the package ssimulacra2" in done.err
    for alone in ("all", "none"):
        done = dkic("evaluate", tmp_path, "--codec", "jpeg", "-o", tmp_path / "out", "--metrics", alone, "dists")
        assert done.status == 1 and f"--metrics {alone}: can't be combined" in done.err


@pytest.mark.parametrize("name", METRICS)
def test_qualities_are_chosen_in_the_direction_of_the_metric(name):
    sign = 1 if METRICS[name].higher_is_better else -1
    good, bad = {name: sign * 2.0}, {name: sign * 1.0}
    rows = [measurement(quality=1, **bad), measurement(quality=2, **good), measurement(quality=3, **bad)]
    assert at_target(rows, 0.2, name).chosen[0].quality == 2


def test_names():
    assert set(ALWAYS) | set(OPTIONAL) == set(METRICS) and not set(ALWAYS) & set(OPTIONAL)
