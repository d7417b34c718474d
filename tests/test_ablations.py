"""The variants that benchmarks/ablations.py trains."""

import pytest
import torch
from lpips_weights import need_backbone
from photographs import crop
from PIL import Image

from benchmarks.ablations import TINY, VARIANTS, VariantRun, parameters, recipe_of
from dkic.models import DKIC, LDCNBlock
from dkic.training.photos import PhotoFolder
from dkic.training.recipe import Recipe


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_as_large_as_tiny_and_runs(variant):
    torch.manual_seed(0)
    model = VARIANTS[variant](TINY)
    assert parameters(model) == pytest.approx(parameters(DKIC(TINY)), rel=0.005)
    assert any(isinstance(m, LDCNBlock) for m in model.modules()) == (variant != "convolutions")
    assert len({spec.channels for spec in model.config.slices}) <= 2 or variant != "equal-slices"
    out = model(torch.rand(1, 3, 64, 64))
    (out.bits.sum() + out.x_hat.square().sum()).backward()
    assert out.x_hat.shape == (1, 3, 64, 64)
    assert all(p.grad is not None for p in model.parameters())


def test_a_run_has_the_given_number_of_steps():
    for common in (True, False):
        recipe = recipe_of("3", 1999, common)
        assert recipe.epoch_steps * sum(stage.epochs for stage in recipe.stages) == 1980


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_rate_continues_from_the_common_training(variant, tmp_path):
    need_backbone("alex")
    Image.fromarray(crop(160, 160)).save(tmp_path / "photo.png")
    photos = PhotoFolder(tmp_path, 128)

    def recipe(rate: str, common: bool) -> Recipe:
        """With a batch of one crop: a step is quick."""
        return Recipe.of(recipe_of(rate, 20, common).to_dict() | {"batch": 1})

    common = VariantRun(variant, recipe("3", True), photos, "cpu")
    common.train_step()
    run = VariantRun(variant, recipe("4", False), photos, "cpu")
    trained = common.trained()
    run.start_with(trained)
    expected = trained.state_dict()
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert run.train_step().step == 1
