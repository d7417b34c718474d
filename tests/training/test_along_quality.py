"""Training one network for all rates, with several distortion metrics."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lpips_weights import need_backbone
from photographs import crop
from training.recipes import VARIABLE

from dkic.errors import DkicError
from dkic.losses.color import color_distance
from dkic.models.weights_file import load_weights
from dkic.training import distances as distances_module
from dkic.training.along_quality import along
from dkic.training.distances import Distances
from dkic.training.photos import PhotoFolder
from dkic.training.processes import accelerator_for
from dkic.training.recipe import Recipe
from dkic.training.staged_run import StagedRun
from dkic.training.train import train_folder

BASE = VARIABLE | {
    "weights": {"mse": [0.002, 0.01], "lpips": 0, "gan": 0, "color": 1.0},
    "learning_rate": {"peak": 1e-3, "warmup_steps": 2},
    "stages": [{"epochs": 2}],
    "epoch_steps": 3,
    "batch": 4,
}


def begin(folder: Path, values: dict) -> StagedRun:
    recipe = Recipe.of(values)
    return StagedRun(recipe, PhotoFolder(folder, recipe.crop), accelerator_for("cpu"))


def test_a_weight_along_the_quality():
    quality = torch.tensor([1.0, 50.5, 100.0])
    assert torch.allclose(along([4.0, 1.0], quality), torch.tensor([4.0, 2.0, 1.0]))
    assert along(0.3, quality) == 0.3 and along(0.3, None) == 0.3
    with pytest.raises(ValueError, match="quality: must be given"):
        along([4.0, 1.0], None)


def test_a_batch_has_low_and_high_qualities_which_differ_between_steps(folder):
    run = begin(folder, BASE)
    seen = []
    for run.step in range(20):
        qualities = run.qualities(0, 4)
        assert torch.equal(qualities, run.qualities(0, 4))
        assert (qualities >= 1).all() and (qualities <= 100).all()
        assert sorted(((qualities - 1) // 24.75).tolist()) == [0, 1, 2, 3]
        seen.append(qualities)
    assert torch.stack(seen).std(0).min() > 5


def test_the_loss_weights_terms_by_each_images_quality(folder):
    run = begin(folder, BASE)
    (x,), quality = run.micro_batches(), run.qualities(0, 4)
    with torch.no_grad():
        out = run.forward(x, 0, quality)
    bpp, mse = out.bits / 64**2, (out.x_hat - x).square().mean((1, 2, 3))
    color = color_distance(x, out.x_hat.clamp(0, 1))
    expected = along([3, 0.3], quality) * bpp + along([0.002, 0.01], quality) * 255**2 * mse + color
    result = run.train_step()
    assert result.loss == pytest.approx(expected.mean().item(), rel=1e-4)
    assert result.color == pytest.approx(color.mean().item(), rel=1e-4)
    assert result.psnr == pytest.approx(-10 * math.log10(mse.mean().item()), abs=0.01)
    assert math.isnan(result.lpips) and math.isnan(result.dists) and math.isnan(result.gan)


def test_the_learning_rate_rises_and_falls(folder):
    run = begin(folder, BASE | {"epoch_steps": 50})
    rates = []
    for run.step in range(100):
        rates.append(run.learning_rate.at(run.step))
    assert rates[0] == pytest.approx(1e-3 / 3, rel=0.01) and max(rates) == rates[2]
    assert all(a > b for a, b in zip(rates[2:], rates[3:], strict=False)) and rates[-1] < 0.03 * max(rates)


def test_training_lowers_the_loss_at_every_quality(folder):
    values = BASE | {"epoch_steps": 25, "learning_rate": {"peak": 3e-3}}
    run = begin(folder, values)
    crops, noise = run.micro_batches(), torch.Generator()
    run.micro_batches = lambda: crops
    qualities = torch.tensor([1.0, 34.0, 67.0, 100.0])

    def loss() -> torch.Tensor:
        with torch.no_grad():
            out = run.model(crops[0], noise.manual_seed(0), qualities)
        mse = (out.x_hat - crops[0]).square().mean((1, 2, 3))
        return along([3, 0.3], qualities) * out.bits / 64**2 + along([0.002, 0.01], qualities) * 255**2 * mse

    before = loss()
    while run.step < run.steps:
        run.train_step()
    assert (loss() < 0.5 * before).all()


def test_a_run_writes_one_file_from_which_another_starts(folder, tmp_path):
    recipe, out = Recipe.of(BASE | {"stages": [{"epochs": 1}], "epoch_steps": 1}), tmp_path / "run"
    train_folder(folder, recipe, out, workers=0)
    assert [path.name for path in out.glob("*.safetensors")] == ["small.safetensors"]
    weights = load_weights(out / "small.safetensors")
    assert weights.model.variable_rate and weights.qualities == range(1, 101)
    again = tmp_path / "again"
    train_folder(folder, recipe, again, start_from=out / "small.safetensors", workers=0)
    assert (again / "small.safetensors").is_file()


class Constant(torch.nn.Module):
    """A metric whose distance is the mean of x."""

    def __init__(self, *_: object, **_options: object) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
        assert x.shape == x_hat.shape
        return x.mean((1, 2, 3))


def test_each_vgg_metric_gets_its_own_crops_with_the_weight_of_all(monkeypatch):
    monkeypatch.setattr(distances_module, "LPIPS", Constant)
    monkeypatch.setattr(distances_module, "DISTS", Constant)
    weights = {"mse": 1.0, "lpips": 0.5, "gan": 0, "dists": 2.0, "lpips_vgg": [1.0, 3.0]}
    metrics = Distances(Recipe.of(VARIABLE | {"batch": 4, "weights": weights, "stages": [{"epochs": 4}]}))
    x = torch.arange(1.0, 5).view(4, 1, 1, 1).expand(-1, 3, 64, 64) / 8
    total, found = metrics(x, x, torch.tensor([1.0, 100.0, 50.0, 50.0]))
    assert {name: len(distance) for name, distance in found.items()} == {"lpips": 4, "dists": 1, "lpips_vgg": 1}
    means = np.arange(1.0, 5) / 8
    expected = 0.5 * means + np.array([2 * 4 * means[0], 3 * 4 * means[1], 0, 0])
    assert np.allclose(total, expected)


def test_vgg_metrics_need_a_crop_each_on_every_process(folder):
    weights = {"mse": 1.0, "lpips": 0, "gan": 0, "dists": 1.0, "lpips_vgg": 1.0}
    recipe = Recipe.of(BASE | {"weights": weights, "vgg_crops": 2})
    two = SimpleNamespace(device=torch.device("cpu"), process_index=0, num_processes=2)
    with pytest.raises(DkicError, match="^vgg_crops: .* 4 crops .* has 2;"):
        StagedRun(recipe, PhotoFolder(folder, recipe.crop), two)


def test_metrics_are_differentiable_under_bfloat16():
    need_backbone("alex")
    need_backbone("vgg")
    pytest.importorskip("DISTS_pytorch")
    weights = {"mse": 1.0, "lpips": 1.0, "gan": 0, "dists": 1.0, "lpips_vgg": 1.0}
    values = VARIABLE | {"batch": 2, "weights": weights, "stages": [{"epochs": 4}]}
    x = torch.from_numpy(crop(64, 64).copy()).permute(2, 0, 1)[None].float().repeat(2, 1, 1, 1) / 255
    noise = 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    results = {}
    for precision in ("float32", "bfloat16"):
        x_hat = (x + noise).clamp(0, 1).requires_grad_(True)
        total, _ = Distances(Recipe.of(values | {"precision": precision}))(x, x_hat, torch.tensor([1.0, 100.0]))
        total.sum().backward()
        assert x_hat.grad.isfinite().all() and x_hat.grad.abs().max() > 0
        results[precision] = total.detach()
    assert torch.allclose(results["float32"], results["bfloat16"], rtol=0.05)
