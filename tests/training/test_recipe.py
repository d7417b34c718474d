"""Recipes: the files in configs/, validation, and TOML."""

import copy
import re
from pathlib import Path

import pytest
from training.recipes import GOOD, VARIABLE, write_recipe

from dkic.errors import DkicError
from dkic.shipped_weights import SHIPPED
from dkic.training.recipe import Recipe
from dkic.training.recipe_file import read_recipe

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TARGETS = {"0075": 0.075, "015": 0.15, "03": 0.3}


@pytest.mark.parametrize(("name", "target"), TARGETS.items())
def test_the_papers_recipes(name, target):
    """Settings of section 3.1 of the paper."""
    recipe = read_recipe(CONFIGS / f"po_dkic_{name}.toml")
    assert (recipe.preset, recipe.batch, recipe.crop, recipe.rate.target) == ("paper", 16, 256, target)
    stages = [(stage.epochs, stage.gan, stage.freeze) for stage in recipe.stages]
    assert stages == [(20, False, False), (80, True, False)]
    assert recipe.learning_rate.values == [1e-4, 1e-5, 1e-6] and recipe.learning_rate.epochs == [60, 80]
    assert recipe.stages[0].lambda_factor > recipe.stages[1].lambda_factor == 1
    assert recipe.stages[0].target_factor > recipe.stages[1].target_factor == 1
    assert recipe.rate.lambda_alpha > 50 * recipe.rate.lambda_beta > 0
    assert recipe.epoch_steps is None and recipe.discriminator_width == 64
    assert recipe.imagenet_photos == 50_000 and recipe.accumulation == 1


def test_shipped_weights_have_recipes_of_their_names():
    recipes = [path.stem for path in (CONFIGS / "shipped").glob("*.toml")]
    for weights in SHIPPED.glob("*.safetensors"):
        name = weights.stem.replace("-", "_")
        assert any(recipe == name or recipe.startswith(f"{name}_part") for recipe in recipes), name


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.toml")), ids=lambda path: path.stem)
def test_files_named_in_a_recipe_exist(path):
    comments = " ".join(line.partition("#")[2] for line in path.read_text().splitlines())
    for name in re.findall(r"[\w./-]+\.(?:toml|safetensors)", comments):
        assert (path.parent / name).exists() or (CONFIGS.parent / name).exists(), name


def test_all_recipes_can_be_read():
    paths = sorted(CONFIGS.rglob("*.toml"))
    assert {"po_dkic_0075", "po_dkic_015", "po_dkic_03", "tiny_015", "tiny_03", "small_mse"} <= {path.stem for path in paths}
    for path in paths:
        recipe = read_recipe(path)
        assert recipe.preset == {"po": "paper", "small": "small"}.get(path.stem.partition("_")[0], "tiny")
        target = path.stem.rpartition("_")[2]
        assert recipe.rate.target == TARGETS.get(target, recipe.rate.target)


def test_a_recipe_round_trips_through_a_dict():
    recipe = Recipe.of(GOOD)
    assert Recipe.of(recipe.to_dict()) == recipe
    assert recipe.stages[0].lambda_factor == 2.0 and recipe.seed == 0


def changed(key: str, value: object) -> dict:
    """GOOD with one value, by its dotted name, replaced or (None) removed."""
    values = copy.deepcopy(GOOD)
    part: dict | list = values
    *path, last = [int(k) if k.isdigit() else k for k in key.split(".")]
    for k in path:
        part = part[k]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return values


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("stepz", 1, "stepz: unknown key"),
        ("stages.1.lamda_factor", 2.0, "stages.1.lamda_factor: unknown key"),
        ("rate.target", None, "rate: must have target, lambda_alpha and lambda_beta, or weight"),
        ("rate", None, "rate: missing"),
        ("preset", "huge", "preset: must be one of tiny, paper, small, base, not 'huge'"),
        ("batch", 0, "batch: must be greater than or equal to 1, not 0"),
        ("batch", True, "batch: must be a valid integer, not True"),
        ("batch", "16", "batch: must be a valid integer, not '16'"),
        ("crop", 100, "crop: must be a multiple of 64, not 100"),
        ("rate.target", -0.1, "rate.target: must be greater than 0, not -0.1"),
        ("rate.target", float("inf"), "rate.target: must be a finite number, not inf"),
        ("rate.lambda_beta", 2, r"rate: lambda_beta must be below lambda_alpha \(2\), not 2"),
        ("learning_rate.values", [1e-3], "learning_rate: values must be one more than epochs, not 1 and 1"),
        ("learning_rate.values", [1e-3, 0], "learning_rate.values.1: must be greater than 0, not 0"),
        ("learning_rate.epochs", [5], "learning_rate.epochs must be below the stages' 5, not 5"),
        ("stages", [], "stages: List must have at least 1 item"),
        ("stages.0", 3, "stages.0: must be .* not 3"),
        ("stages.0.gan_ramp_epochs", 1, "stages.0: gan_ramp_epochs must be 0 if a stage has no gan, not 1"),
        ("stages.1.gan_ramp_epochs", 9, "stages.1: gan_ramp_epochs must be at most the stage's 3 epochs, not 9"),
        ("weights.mse", -1, "weights.mse: must be a number of at least 0, or two above 0, not -1"),
        ("weights.mse", [1, 0], r"weights.mse: must be a number of at least 0, or two above 0, not \[1, 0\]"),
        ("weights.lpips", [1, 2, 3], "weights.lpips: must be a number of at least 0, or two above 0"),
        ("weights.mse", "much", "weights.mse: must be a number of at least 0, or two above 0, not 'much'"),
        ("weights.mse", [0.1, 0.2], "weights.mse must be one number: tiny has one quality"),
        ("rate.weight", [1, 0.1], "rate: must have target, lambda_alpha and lambda_beta, or weight"),
        ("rate", {"weight": 0}, "rate.weight: must be above 0, not 0"),
        ("rate", {"weight": [1, 0.1]}, "rate.weight must be one number: tiny has one quality"),
        ("preset", "small", "rate must have a weight for small"),
        ("learning_rate.peak", 1e-3, "learning_rate: must have peak, or values and epochs"),
        ("vgg_crops", 0, "vgg_crops: must be greater than or equal to 1, not 0"),
        ("weights.gan", 0, "weights.gan must be above 0 if a stage has gan"),
        ("lpips_net", "squeeze", "lpips_net: must be 'alex' or 'vgg', not 'squeeze'"),
        ("least_scale", 0, "least_scale: must be greater than or equal to 0.1, not 0"),
        ("least_scale", 1.5, "least_scale: must be less than or equal to 1, not 1.5"),
        ("lpips_shifts", 33, "lpips_shifts must be at most half of the crop of 64, and is 33"),
        ("accumulation", 3, "accumulation must divide the batch of 2, and is 3"),
        ("precision", "float16", "precision: must be 'float32' or 'bfloat16', not 'float16'"),
        ("ema", 1.0, "ema: must be less than 1, not 1.0"),
        ("imagenet_photos", 0, "imagenet_photos: must be greater than or equal to 1, not 0"),
        ("seed", -1, "seed: must be greater than or equal to 0, not -1"),
    ],
)
def test_invalid_values_are_named(key, value, sentence, tmp_path):
    path = write_recipe(tmp_path / "recipe.toml", changed(key, value))
    with pytest.raises(DkicError, match=f"^{path}: {sentence}"):
        read_recipe(path)


def test_epochs_must_increase():
    values = changed("learning_rate.values", [1e-3, 1e-4, 1e-5])
    values["learning_rate"]["epochs"] = [3, 2]
    with pytest.raises(DkicError, match=r"learning_rate: epochs must increase, not \[3, 2\]"):
        Recipe.of(values)


def test_a_recipe_without_a_distortion_is_refused():
    values = changed("weights.mse", 0)
    values["weights"]["lpips"] = 0
    with pytest.raises(DkicError, match="weights.mse or weights.lpips must be above 0"):
        Recipe.of(values)


def test_every_fault_is_named():
    values = changed("batch", 0)
    values["rate"]["target"] = 0
    with pytest.raises(DkicError, match="batch: must be .*; rate.target: must be"):
        Recipe.of(values)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("batch = [", "not TOML "),
        ("batch = 1\nbatch = 2", "not TOML .*overwrite"),
        ("a = \x00", "not TOML .*line 1"),
        ("batch: 1", "not TOML .*line 1"),
        ("", "preset: missing; batch: missing"),
        ("5 = 1", "5: unknown key"),
        ("batch = 1979-05-27", "batch: must be a valid integer, not datetime.date"),
    ],
)
def test_a_file_that_is_not_a_recipe_is_refused(text, sentence, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(DkicError, match=f"^{path}.*{sentence}"):
        read_recipe(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DkicError, match="nowhere.toml: can't be read"):
        read_recipe(tmp_path / "nowhere.toml")


def test_numbers_may_have_an_exponent(tmp_path):
    path = write_recipe(tmp_path / "recipe.toml", GOOD)
    path.write_text(path.read_text().replace("[0.001, 0.0001]", "[1e-3, 1E-04]"))
    assert "1e-3" in path.read_text() and read_recipe(path) == Recipe.of(GOOD)


def test_a_recipe_of_a_variable_rate_model():
    recipe = Recipe.of(VARIABLE)
    assert recipe.rate.weight == [3, 0.3] and recipe.weights.mse == [0.001, 0.01] and recipe.weights.lpips == 1
    assert Recipe.of(recipe.to_dict()) == recipe


def test_vgg_metrics_need_a_crop_each():
    weights = VARIABLE["weights"] | {"dists": 1, "lpips_vgg": 0.5}
    assert Recipe.of(VARIABLE | {"weights": weights}).vgg_crops == 1
    with pytest.raises(DkicError, match="vgg_crops must be at most 1, and is 2"):
        Recipe.of(VARIABLE | {"weights": weights, "vgg_crops": 2})


def test_ms_ssim_needs_crops_of_128_pixels():
    values = VARIABLE | {"weights": VARIABLE["weights"] | {"ms_ssim": [3, 30]}}
    assert Recipe.of(values | {"crop": 128}).weights.ms_ssim == [3, 30]
    with pytest.raises(DkicError, match="crop must be at least 128 for weights.ms_ssim, and is 64"):
        Recipe.of(values | {"crop": 64})
