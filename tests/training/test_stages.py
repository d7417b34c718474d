"""Staged training: convergence, changes of stage, exact resuming, and errors that leave the weights unchanged."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import dkic as command
from lpips_weights import need_backbone
from photographs import crop
from PIL import Image
from trained_weights import THREE_QUALITIES
from training.recipes import GOOD, write_recipe

import dkic
from dkic.errors import DkicError
from dkic.hub import find_weights
from dkic.models.codec_network import TrainingOutput
from dkic.models.weights_file import load_weights
from dkic.training.checkpoint import CHECKPOINT, WARMED_UP, begin_second_stage, load_checkpoint, restore, save_checkpoint
from dkic.training.photos import PhotoFolder
from dkic.training.processes import accelerator_for
from dkic.training.recipe import Recipe
from dkic.training.run import TrainingFailed
from dkic.training.staged_run import StagedRun
from dkic.training.step_result import StepResult
from dkic.training.train import run_steps, train_folder

ON_CPU = ("--device", "cpu")  # accelerate selects a device once per process
# Two steps of the first stage, three of the second; the learning rate falls after the third.
RECIPE = Recipe.of(GOOD | {"epoch_steps": 1, "batch": 1, "discriminator_width": 8})


@pytest.fixture(scope="module", autouse=True)
def backbone():
    need_backbone("alex")


def begin(folder: Path, recipe: Recipe = RECIPE) -> StagedRun:
    return StagedRun(recipe, PhotoFolder(folder, recipe.crop), accelerator_for("cpu"))


def changed(**values: object) -> Recipe:
    return Recipe.of(RECIPE.to_dict() | values)


def same_states(a: StagedRun, b: StagedRun) -> bool:
    for part in ("model", "discriminator"):
        pairs = zip(a.parts[part].state_dict().items(), b.parts[part].state_dict().items(), strict=True)
        if not all(name == other and torch.equal(x, y) for (name, x), (other, y) in pairs):
            return False
    return True


def one_batch(run: StagedRun) -> StagedRun:
    """Gives every step the same crops and noise."""
    crops = run.micro_batches()
    run.micro_batches = lambda: crops
    run.forward = lambda x, part, quality: run.model(x, torch.Generator().manual_seed(0))
    return run


def first_batch(run: StagedRun) -> tuple[torch.Tensor, TrainingOutput]:
    (x,) = run.micro_batches()
    return x, run.forward(x)


def mean(results: list[StepResult], name: str) -> float:
    return float(np.mean([getattr(result, name) for result in results]))


@pytest.fixture(scope="module")
def overfitted(folder) -> list[StepResult]:
    """Results with the same batch in each step: 40 steps without, then 20 with a discriminator."""
    values = {
        "epoch_steps": 10,
        "stages": [{"epochs": 4, "target_factor": 3.0}, {"epochs": 2, "gan": True}],
        "learning_rate": {"values": [5e-4], "epochs": []},
    }
    run = one_batch(begin(folder, changed(**values)))
    return [run.train_step() for _ in range(run.steps)]


def test_the_first_stage_lowers_every_term(overfitted):
    first, last = overfitted[:3], overfitted[35:40]
    assert mean(last, "lpips") < 0.4 * mean(first, "lpips")
    assert mean(last, "psnr") > mean(first, "psnr") + 5
    assert mean(last, "bpp") < 0.5 * mean(first, "bpp")
    assert mean(last, "loss") < 0.5 * mean(first, "loss")


def test_the_second_stage_adds_the_discriminator_and_continues(overfitted):
    for name in ("gan", "discriminator", "discriminator_accuracy"):
        measured = [not math.isnan(getattr(result, name)) for result in overfitted]
        assert measured == [False] * 40 + [True] * 20
    assert mean(overfitted[-5:], "lpips") < mean(overfitted[35:40], "lpips")
    assert mean(overfitted[-5:], "psnr") > mean(overfitted[35:40], "psnr")


def test_the_discriminator_separates(folder):
    """It learns to separate images from the reconstructions of an untrained codec, which is fixed."""
    run = begin(folder, changed(discriminator_width=16))
    x, out = first_batch(run)
    shown, results = out.x_hat.clamp(0, 1).detach(), []
    for _ in range(60):
        run.adversary.optimizer.zero_grad()
        results.append(run.adversary.losses(x, shown, out.y_hat, 1.0)[1])
        torch.nn.utils.clip_grad_norm_(run.adversary.discriminator.parameters(), 1.0)
        run.adversary.optimizer.step()
    assert results[0]["discriminator"].item() == pytest.approx(2 * math.log(2), rel=0.05)
    assert results[-1]["discriminator"].item() < 0.2
    assert results[-1]["discriminator_accuracy"].item() > 0.95
    assert results[-1]["gan"] > 2 * results[0]["gan"]


def test_the_loss_is_equations_one_to_three(overfitted):
    w = RECIPE.weights
    for i, r in enumerate(overfitted):
        distortion = w.mse * 255**2 * 10 ** (-r.psnr / 10) + w.lpips * r.lpips + (w.gan * r.gan if i >= 40 else 0)
        assert r.loss == pytest.approx(distortion + r.rate_weight * r.bpp, rel=1e-4)
        target = RECIPE.rate.target * (3 if i < 40 else 1)
        chosen = RECIPE.rate.lambda_alpha if r.quantized_bpp >= target else RECIPE.rate.lambda_beta
        assert r.rate_weight == chosen
    assert {r.rate_weight for r in overfitted} == {RECIPE.rate.lambda_alpha, RECIPE.rate.lambda_beta}


def test_lpips_windows_depend_on_seed_and_step(folder):
    run, again, windows = begin(folder, changed(lpips_shifts=8)), begin(folder, changed(lpips_shifts=8)), []
    for run.step in range(20):
        again.step = run.step
        windows.append(run.lpips_window(0))
        assert again.lpips_window(0) == windows[-1]
    corners = {(rows.start, columns.start) for _, rows, columns in windows}
    assert {rows.stop - rows.start for _, rows, _ in windows} == {57}
    assert len(corners) > 10 and {top for top, _ in corners} <= set(range(8)) and any(top != left for top, left in corners)

    run.step = again.step = 5
    x, out = first_batch(again)
    window = again.lpips_window(0)
    expected = again.distances.networks["lpips"](x[window], out.x_hat.clamp(0, 1)[window]).item()
    assert run.train_step().lpips == pytest.approx(expected, rel=1e-5)


def test_the_schedules_follow_the_recipe(folder):
    run, rates, stages = begin(folder), [], []
    assert run.steps == 5 and run.schedule.ends == [2, 5]
    for _ in range(run.steps):
        stages.append(run.stage)
        run.train_step()
        rates.append({group["lr"] for o in (run.optimizer, run.adversary.optimizer) for group in o.param_groups})
    assert stages == [RECIPE.stages[0]] * 2 + [RECIPE.stages[1]] * 3
    assert rates == [{1e-3}] * 3 + [{1e-4}] * 2
    assert [run.schedule.lambda_factor.at(step) for step in range(5)] == [2, 2, 1, 1, 1]


def test_the_gan_weight_ramps_up(folder):
    ramp = {"epoch_steps": 2, "stages": [{"epochs": 1}, {"epochs": 3, "gan": True, "gan_ramp_epochs": 2}]}
    run = begin(folder, changed(**ramp, weights={"mse": 0.001, "lpips": 1, "gan": 3}))
    results = [run.train_step() for _ in range(run.steps)]
    gan = [r.loss - 0.001 * 255**2 * 10 ** (-r.psnr / 10) - r.lpips - r.rate_weight * r.bpp for r in results]
    expected = [3 * factor * r.gan for factor, r in zip([0, 0, 0.25, 0.5, 0.75, 1, 1, 1], results, strict=True)]
    assert gan == pytest.approx([0 if math.isnan(value) else value for value in expected], rel=1e-3, abs=1e-4)


def test_examples_are_crops_next_to_their_reconstructions(folder):
    run = begin(folder, changed(batch=6))
    assert run.examples() is None
    (x,) = run.micro_batches()
    run.train_step()
    image = run.examples()
    assert image.shape == (3, 4 * 64, 2 * 64) and 0 <= image.min() and image.max() <= 1
    assert torch.equal(image[:, 64:128, :64], x[1]) and not torch.equal(image[:, 64:128, 64:], x[1])


def test_an_epoch_has_each_photograph_once(folder, tmp_path):
    assert begin(folder, changed(epoch_steps=None, batch=4)).steps == 5  # three photographs: at least one step
    for i in range(7):
        Image.fromarray(crop(64, 64, top=50 * i)).save(tmp_path / f"{i}.png")
    assert begin(tmp_path, changed(epoch_steps=None, batch=3)).steps == 5 * 2


def test_a_stage_can_freeze_all_but_the_decoder(folder):
    run = begin(folder, changed(stages=[{"epochs": 2}, {"epochs": 3, "gan": True, "freeze": True}]))
    for _ in range(2):
        run.train_step()
    before = {name: p.clone() for name, p in run.model.named_parameters()}
    run.train_step()
    moved = {name.partition(".")[0] for name, p in run.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"g_s"}
    run.step = 0
    run.train_step()
    moved = {name.partition(".")[0] for name, p in run.model.named_parameters() if not torch.equal(p, before[name])}
    assert {"g_s", "g_a", "h_a", "context"} <= moved


def test_the_discriminators_condition_gives_the_encoder_no_gradient(folder):
    run = begin(folder)
    x, out = first_batch(run)
    gan, _ = run.adversary.losses(x, out.x_hat.clamp(0, 1).detach(), out.y_hat, 1.0)
    assert not gan.requires_grad
    assert all(p.requires_grad for p in run.adversary.discriminator.parameters()) and run.adversary.discriminator.training


def test_the_generators_loss_gives_the_discriminator_no_gradient(folder):
    run = begin(folder)
    x, out = first_batch(run)
    gan, _ = run.adversary.losses(x, out.x_hat.clamp(0, 1), out.y_hat, 1.0)
    before = [p.grad.clone() for p in run.adversary.discriminator.parameters()]
    gan.backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(run.adversary.discriminator.parameters(), before, strict=True))
    assert run.model.g_s[0][0].weight.grad.any()


# Options


def test_the_moving_average_is_saved(folder, tmp_path):
    run = begin(folder, changed(ema=0.75))
    expected = {name: p.clone() for name, p in run.model.named_parameters()}
    for _ in range(3):
        run.train_step()
        for name, p in run.model.named_parameters():
            expected[name] = 0.75 * expected[name] + 0.25 * p
    for name, p in run.trained().named_parameters():
        torch.testing.assert_close(p, expected[name], rtol=1e-5, atol=1e-7)
    assert not torch.equal(run.trained().g_s[0][0].weight, run.model.g_s[0][0].weight)
    save_checkpoint(run, tmp_path / CHECKPOINT)
    second = begin(folder, changed(ema=0.75))
    restore(second, load_checkpoint(tmp_path / CHECKPOINT))
    assert second.train_step() == run.train_step()
    assert all(torch.equal(a, b) for a, b in zip(run.trained().parameters(), second.trained().parameters(), strict=True))


def test_a_run_with_an_average_starts_from_one_without(folder, tmp_path):
    first, second = begin(folder), begin(folder, changed(ema=0.75))
    first.train_step()
    save_checkpoint(first, tmp_path / WARMED_UP)
    begin_second_stage(second, load_checkpoint(tmp_path / WARMED_UP))
    assert all(torch.equal(a, b) for a, b in zip(second.trained().parameters(), first.model.parameters(), strict=True))


def test_only_the_transforms_use_bfloat16(folder, monkeypatch):
    run, exact = begin(folder, changed(precision="bfloat16")), begin(folder)
    seen: dict[str, torch.dtype] = {}

    def see(name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda _, inputs, output: seen.update({name: output.dtype, f"{name} in": inputs[0].dtype}))

    for name in ("g_a.0", "g_a.1.body.0.body.4", "g_s.3.body", "h_a.0", "h_s.0", "context.features.0", "context.passes.0.1"):
        module = run.model.get_submodule(name)
        if name.startswith("context.passes"):
            module = module.parameters_of
        see(name, module)
    (x,), out = run.micro_batches(), None
    out = run.forward(x)
    of = {prefix: {t for n, t in seen.items() if n.startswith(prefix)} for prefix in ("g_", "h_", "context")}
    assert of["h_"] == of["context"] == {torch.float32} and {seen["g_a.1.body.0.body.4"], seen["g_s.3.body"]} == {torch.bfloat16}
    assert {t.dtype for t in out} == {torch.float32}
    expected = exact.forward(x)
    assert not torch.equal(out.x_hat, expected.x_hat)
    torch.testing.assert_close(out.x_hat, expected.x_hat, rtol=0, atol=0.04)  # 0.0204 at most; rounding differs between CPUs
    torch.testing.assert_close(out.bits, expected.bits, rtol=1e-3, atol=0)
    result = run.train_step()
    assert result.loss == pytest.approx(exact.train_step().loss, rel=0.01)
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}


# Resuming


def test_a_resumed_run_continues_exactly(folder, tmp_path):
    whole = begin(folder)
    expected = [dataclasses.astuple(whole.train_step()) for _ in range(5)]
    first = begin(folder)
    got = [dataclasses.astuple(first.train_step()) for _ in range(3)]  # in the middle of the second stage
    save_checkpoint(first, tmp_path / CHECKPOINT)
    second = begin(folder)
    restore(second, load_checkpoint(tmp_path / CHECKPOINT))
    got += [dataclasses.astuple(second.train_step()) for _ in range(2)]
    np.testing.assert_array_equal(got, expected)
    assert same_states(whole, second)


def test_another_run_starts_from_a_finished_first_stage(folder, tmp_path):
    whole = begin(folder)
    for _ in range(2):
        whole.train_step()
    save_checkpoint(whole, tmp_path / WARMED_UP)
    same, other = begin(folder), begin(folder, changed(rate=GOOD["rate"] | {"target": 0.3}))
    for run in (same, other):
        begin_second_stage(run, load_checkpoint(tmp_path / WARMED_UP))
        assert run.step == 2 and run.stage.gan
    assert dataclasses.astuple(whole.train_step()) == dataclasses.astuple(same.train_step())
    assert same_states(whole, same)
    assert other.train_step().step == 3
    single = begin(folder, changed(stages=[{"epochs": 5}]))
    with pytest.raises(DkicError, match="recipe: needs a second stage"):
        begin_second_stage(single, load_checkpoint(tmp_path / WARMED_UP))


# Errors that stop a run


@pytest.mark.parametrize("part", ["model", "discriminator"])
def test_a_loss_that_is_not_finite_stops_the_run_unchanged(folder, part):
    run = begin(folder)
    for _ in range(2):
        run.train_step()
    parameter = run.model.g_s[0][0].weight if part == "model" else run.adversary.discriminator.patches[0].bias
    parameter.register_hook(lambda gradient: gradient * math.nan)
    before = begin(folder)
    for name in ("model", "discriminator"):
        before.parts[name].load_state_dict(run.parts[name].state_dict())
    sentence = "step 2: the .*gradient is nan on crops of .*[.]png; restart with a lower"
    with pytest.raises(TrainingFailed, match=sentence):
        run.train_step()
    assert run.step == 2 and same_states(before, run)


def test_a_stopped_run_leaves_a_checkpoint_of_the_last_step(folder, tmp_path):
    run = begin(folder)

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.nan if run.step == 3 else gradient

    run.model.g_a[0].bias.register_hook(spoil)
    with pytest.raises(TrainingFailed, match="^step 3: .*checkpoint.pt is the state before that step"):
        run_steps(run, tmp_path, None)
    whole = begin(folder)
    for _ in range(3):
        whole.train_step()
    second = begin(folder)
    restore(second, load_checkpoint(tmp_path / CHECKPOINT))
    assert second.step == 3 and same_states(second, whole)


# The command


def test_the_command_trains_by_a_recipe_and_resumes(folder, tmp_path):
    config, out, other = tmp_path / "recipe.toml", tmp_path / "run", tmp_path / "other"
    write_recipe(config, RECIPE.to_dict())
    result = command("train", folder, *ON_CPU, "--config", config, "--out", out, "--quality", 4)
    assert result.status == 0, result.err
    assert "LPIPS" in result.err and "D right in" in result.err
    log = (out / "log.csv").read_text().splitlines()
    assert log[0].split(",") == [field.name for field in dataclasses.fields(StepResult)] and len(log) == 6
    assert load_checkpoint(out / WARMED_UP)["step"] == 2 and load_checkpoint(out / CHECKPOINT)["step"] == 5
    codec = dkic.load(out)
    assert codec.qualities == [4]
    assert codec.decompress(codec.compress(crop(40, 40)), "numpy").shape == (40, 40, 3)
    assert command("train", folder, *ON_CPU, "--out", out, "--resume", "--quality", 4).status == 0
    start = ("--start-from", out / WARMED_UP, "--minutes", 0)
    result = command("train", folder, *ON_CPU, "--config", config, "--out", other, *start)
    assert result.status == 0, result.err
    assert load_checkpoint(other / CHECKPOINT)["step"] == 2
    for options, sentence in (
        (("--resume", "--lambda", 0.1), "--lambda: the run in"),
        (("--resume", "--config", Path(__file__).parents[2] / "configs" / "tiny_03.toml"), "is not the recipe"),
        (("--config", config, "--lr", 0.1), "--lr: can't be given with --config"),
        (("--config", tmp_path / "nowhere.toml"), "nowhere.toml: can't be read"),
        (("--crop", 64, "--lpips-backbone", config), "--lpips-backbone: the recipe has no weight for LPIPS"),
    ):
        result = command("train", folder, *ON_CPU, "--out", out if "--resume" in options else tmp_path / "new", *options)
        assert result.status == 2 and sentence in result.err and len(result.err.splitlines()) == 1


def test_a_run_starts_from_weights(folder, tmp_path):
    config = write_recipe(tmp_path / "recipe.toml", RECIPE.to_dict() | {"ema": 0.9})
    options = ("--config", config, "--minutes", 0, "--start-from")
    quality = dkic.load(THREE_QUALITIES).qualities[0]
    result = command("train", folder, *ON_CPU, *options, THREE_QUALITIES, "--quality", quality, "--out", tmp_path / "run")
    assert result.status == 0, result.err
    state, shipped = load_checkpoint(tmp_path / "run" / CHECKPOINT), load_weights(find_weights(THREE_QUALITIES)[0])
    assert state["step"] == 0 and state["average"]["g_s.0.0.bias"].std() > 0
    for name, t in shipped.model.g_s.state_dict().items():
        assert torch.equal(state["model"][f"g_s.{name}"], t) and torch.equal(state["average"][f"g_s.{name}"], t)
    pixels = crop(128, 128, 0, 0)
    sizes = [len(codec.compress(pixels, quality)) for codec in (dkic.load(tmp_path / "run"), dkic.load(THREE_QUALITIES))]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)

    for changes, sentence in (
        (("--start-from", THREE_QUALITIES, "--quality", 99), f"--start-from {THREE_QUALITIES}: it has the qualities 1, "),
        (("--start-from", "huge"), "model huge: does not exist; give the path of a weights file"),
        (("--start-from", tmp_path / "no.pt"), "no.pt: there is no checkpoint to continue from"),
        (("--preset", "paper", "--start-from", THREE_QUALITIES, "--quality", quality), "weights: must have the shape of paper"),
    ):
        result = command("train", folder, *ON_CPU, "--crop", 64, "--out", tmp_path / "new", *changes)
        assert result.status == 2 and sentence in result.err and len(result.err.splitlines()) == 1


def test_a_run_of_options_is_not_resumed_with_another_recipe(folder, tmp_path):
    assert command("train", folder, *ON_CPU, "--out", tmp_path, "--crop", 64, "--minutes", 0).status == 0
    config = Path(__file__).parents[2] / "configs" / "tiny_03.toml"
    result = command("train", folder, *ON_CPU, "--out", tmp_path, "--resume", "--config", config)
    assert result.status == 2 and "is not the recipe" in result.err


def test_the_backbone_can_be_given(folder, tmp_path):
    with pytest.raises(DkicError, match="nowhere.pth: can't be read as weights"):
        train_folder(folder, RECIPE, tmp_path, lpips_backbone=tmp_path / "nowhere.pth")
