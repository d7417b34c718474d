"""Training runs: exact resuming, errors that leave the weights unchanged, checkpoints, and the command."""

import math
import shutil
import signal
from pathlib import Path

import pytest
import torch
from command_line import dkic as command
from photographs import crop
from PIL import Image
from training.recipes import mse

import dkic
from dkic.cli.training_recipe import recipe_of
from dkic.errors import DkicError
from dkic.training import extra
from dkic.training.checkpoint import CHECKPOINT, WARMED_UP, begin_second_stage, load_checkpoint, restore, save_checkpoint
from dkic.training.photos import PhotoFolder
from dkic.training.processes import accelerator_for
from dkic.training.recipe import Recipe
from dkic.training.staged_run import StagedRun
from dkic.training.train import train_folder

RECIPE = mse()


@pytest.fixture
def run(folder) -> StagedRun:
    return begin(folder)


def begin(folder: Path, recipe: Recipe = RECIPE) -> StagedRun:
    return StagedRun(recipe, PhotoFolder(folder, recipe.crop), accelerator_for("cpu"))


def same_weights(a: StagedRun, b: StagedRun) -> bool:
    pairs = zip(a.model.state_dict().items(), b.model.state_dict().items(), strict=True)
    return all(name == other and torch.equal(x, y) for (name, x), (other, y) in pairs)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_resumed_run_continues_exactly(folder, tmp_path, optimizer):
    recipe = Recipe.of(RECIPE.to_dict() | {"optimizer": optimizer})
    run = begin(folder, recipe)
    whole = [run.train_step() for _ in range(5)]
    first = begin(folder, recipe)
    part = [first.train_step() for _ in range(3)]
    save_checkpoint(first, tmp_path / CHECKPOINT)
    second = begin(folder, recipe)
    restore(second, load_checkpoint(tmp_path / CHECKPOINT))
    assert same_weights(first, second)
    assert part + [second.train_step() for _ in range(2)] == whole
    assert same_weights(run, second)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_a_run_stopped_by_ctrl_c_resumes_to_the_same_weights(folder, tmp_path, monkeypatch):
    recipe = mse(steps=4)
    whole = train_folder(folder, recipe, tmp_path / "whole", quality=3)
    micro_batches = StagedRun.micro_batches

    def interrupted(self):
        if self.step == 1:
            signal.raise_signal(signal.SIGINT)
        return micro_batches(self)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(StagedRun, "micro_batches", interrupted)
        train_folder(folder, recipe, tmp_path / "parts", quality=3)
    assert signal.getsignal(signal.SIGINT) == before
    assert load_checkpoint(tmp_path / "parts" / CHECKPOINT)["step"] == 2  # the step in which the signal arrived was finished
    parts = train_folder(folder, recipe, tmp_path / "parts", quality=3, resume=True)
    assert parts.read_bytes() == whole.read_bytes()
    logs = [(tmp_path / run / "log.csv").read_text() for run in ("whole", "parts")]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == 5


def test_log_lines_after_the_checkpoint_are_removed_on_resume(folder, tmp_path):
    recipe = mse(steps=2)
    train_folder(folder, recipe, tmp_path)
    log = tmp_path / "log.csv"
    with log.open("a") as file:
        file.write(f"3{',1' * 12}\n4{',1' * 12}\n")
    train_folder(folder, mse(steps=3), tmp_path, resume=True)
    assert [line.partition(",")[0] for line in log.read_text().splitlines()] == ["step", "1", "2", "3"]


def test_training_writes_weights_that_code_images(folder, tmp_path):
    lines = []
    recipe = mse(steps=1)
    path = train_folder(folder, recipe, tmp_path / "a" / "run", quality=5, minutes=60, log=lines.append)
    assert path.name == "tiny-q5.safetensors"
    assert lines[0] == "3 photographs; skipped: 0 too small, 0 unreadable, 0 not images"
    codec = dkic.load(tmp_path / "a" / "run")
    assert codec.qualities == [5]
    image = crop(50, 70)
    assert codec.decompress(codec.compress(image), "numpy").shape == image.shape


def test_a_time_limit_of_zero_runs_no_steps(folder, tmp_path):
    train_folder(folder, RECIPE, tmp_path, minutes=0)
    assert load_checkpoint(tmp_path / CHECKPOINT)["step"] == 0


# Errors that stop a run


def test_a_nan_loss_stops_the_run_unchanged(run):
    torch.nn.init.constant_(run.model.g_s[-1][0].bias, math.nan)
    before = [p.clone() for p in run.model.parameters()]
    with pytest.raises(DkicError, match="step 0: the loss is nan"):
        run.train_step()
    assert run.step == 0
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, run.model.parameters(), strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_the_run_unchanged(run, value):
    before = [p.clone() for p in run.model.parameters()]
    run.model.g_a[0].bias.register_hook(lambda gradient: gradient * value)
    with pytest.raises(DkicError, match="step 0: the .*gradient is "):
        run.train_step()
    assert run.step == 0
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))


# Checkpoints


@pytest.fixture(scope="module")
def begun(folder, tmp_path_factory) -> Path:
    """A run with a checkpoint before its first step."""
    out = tmp_path_factory.mktemp("begun") / "run"
    train_folder(folder, RECIPE, out, minutes=0)
    return out


@pytest.fixture
def checkpoint(begun, tmp_path) -> Path:
    """A copy of that checkpoint in another run."""
    out = tmp_path / "run"
    out.mkdir()
    return Path(shutil.copy(begun / CHECKPOINT, out))


def refusal(folder: Path, run: Path, *options: object) -> str:
    result = command("train", folder, "--out", run, *options)
    lines = result.err.splitlines()
    assert result.status == 2 and len(lines) == 1 and lines[0].startswith("dkic: "), result
    return lines[0]


def test_an_existing_run_is_not_overwritten(folder, begun):
    before = (begun / CHECKPOINT).read_bytes()
    assert "add --resume" in refusal(folder, begun, "--crop", 64)
    assert (begun / CHECKPOINT).read_bytes() == before


def test_resuming_needs_a_checkpoint(folder, tmp_path):
    assert "no checkpoint" in refusal(folder, tmp_path / "none", "--resume")
    assert not (tmp_path / "none").exists()


def test_a_damaged_checkpoint_is_refused(folder, checkpoint):
    data = checkpoint.read_bytes()
    for bad in (b"", b"hello", data[: len(data) // 2], data[:-1]):
        checkpoint.write_bytes(bad)
        assert f"{checkpoint}: not a dkic training checkpoint" in refusal(folder, checkpoint.parent, "--resume")
    for other in ([1, 2], {"step": 1}, {"recipe": {}}):
        torch.save(other, checkpoint)
        assert f"{checkpoint}: not a dkic training checkpoint" in refusal(folder, checkpoint.parent, "--resume")


def test_a_checkpoint_of_another_model_is_refused(folder, checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    torch.save(state | {"recipe": {"preset": "tiny"}}, checkpoint)
    assert f"{checkpoint}: batch: missing" in refusal(folder, checkpoint.parent, "--resume")
    model = dict(state["model"])
    del model["g_a.0.weight"]
    for changed in ({"model": model}, {"optimizer": {"state": {}, "param_groups": []}}):
        torch.save(state | changed, checkpoint)
        assert "checkpoint: must be of" in refusal(folder, checkpoint.parent, "--resume")


@pytest.mark.parametrize(
    ("option", "value"), [("lambda", 0.01), ("batch", 4), ("crop", 128), ("lr", 0.1), ("seed", 1), ("preset", "paper")]
)
def test_a_resumed_run_keeps_its_settings(folder, begun, option, value):
    assert f"--{option}: must be " in refusal(folder, begun, "--resume", f"--{option}", value)


def test_a_resumed_run_keeps_its_photographs(folder, begun, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("0.png", "1.png"):
        (other / name).write_bytes((folder / name).read_bytes())
    before = (begun / CHECKPOINT).read_bytes()
    assert "photographs: must be those" in refusal(other, begun, "--resume")
    assert (begun / CHECKPOINT).read_bytes() == before


def test_a_resumed_run_may_change_its_length_and_repeat_a_setting(begun):
    assert recipe_of(begun, None, {}, {"steps": 9, "batch": 2}, resume=True) == mse(steps=9)
    assert recipe_of(begun, None, {}, {}, resume=True) == RECIPE


def test_another_lambda_starts_from_the_end_of_the_warmup(folder, tmp_path):
    train_folder(folder, mse(steps=3, warmup_steps=1), tmp_path)
    state = load_checkpoint(tmp_path / WARMED_UP)
    assert state["step"] == 1
    other = begin(folder, mse(lambda_=0.05, steps=6, warmup_steps=2))
    begin_second_stage(other, state)
    assert other.step == 2 and other.stage.lambda_factor == 1
    assert all(torch.equal(value, state["model"][name]) for name, value in other.model.state_dict().items())


# The command


def test_a_missing_package_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == "accelerate" else name)
    assert "training: needs accelerate; pip install" in refusal(folder, tmp_path / "run")


def test_the_command_trains_and_resumes(folder, tmp_path):
    run = tmp_path / "run"
    options = ("--crop", 64, "--batch", 1, "--steps", 2, "--quality", 2, "--lambda", 0.05)
    result = command("train", folder, "--out", run, *options)
    assert result.status == 0, result.err
    assert "3 photographs" in result.out and str(run / "tiny-q2.safetensors") in result.out
    assert "bpp" in result.err and "PSNR" in result.err
    result = command("train", folder, "--out", run, "--resume", "--steps", 3, "--quality", 2)
    assert result.status == 0, result.err
    state = load_checkpoint(run / CHECKPOINT)
    assert state["step"] == 3 and state["recipe"]["weights"]["mse"] == 0.05 and state["recipe"]["batch"] == 1
    image = tmp_path / "p.png"
    Image.fromarray(crop(40, 40)).save(image)
    assert command("compress", image, "-o", tmp_path / "p.dkic", "--model", run).status == 0
    assert command("decompress", tmp_path / "p.dkic", "-o", tmp_path / "q.png", "--model", run).status == 0
    refused = command("decompress", tmp_path / "p.dkic", "-o", tmp_path / "r.png")
    assert refused.status == 1 and "load its weights (--model on the command line)" in refused.err


def test_the_command_names_an_unusable_folder(folder, tmp_path):
    (tmp_path / "file").touch()
    assert "no such folder" in refusal(tmp_path / "file", tmp_path / "run")
    assert "no photograph of at least 128x128" in refusal(folder, tmp_path / "run")
    assert f"{tmp_path / 'file'}: can't be written" in refusal(folder, tmp_path / "file", "--crop", 64, "--steps", 1)
