"""Training: it learns, resumes exactly, stops rather than break its weights, and what it writes is a codec."""

import dataclasses
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import dkic as command
from photographs import crop
from PIL import Image

import dkic
from dkic.errors import DkicError
from dkic.training.photos import PhotoFolder
from dkic.training.train import CHECKPOINT, Trainer, TrainSettings, load_checkpoint, settings_of, train_folder

SETTINGS = TrainSettings("tiny", lambda_=0.0067, steps=6, batch=2, crop=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(3):
        Image.fromarray(crop(96, 100, top=100 * i)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def trainer(folder) -> Trainer:
    return Trainer(SETTINGS, PhotoFolder(folder, 64))


def test_twenty_steps_lower_the_loss(folder):
    trainer = Trainer(dataclasses.replace(SETTINGS, steps=1000), PhotoFolder(folder, 64))
    results = [trainer.train_step() for _ in range(20)]
    assert [result.step for result in results] == list(range(1, 21))
    assert np.mean([r.loss for r in results[-4:]]) < 0.6 * np.mean([r.loss for r in results[:2]])
    for r in results:  # bpp + lambda * 255^2 * MSE, where PSNR = -10 log10 MSE
        assert r.loss == pytest.approx(r.bpp + 0.0067 * 255**2 * 10 ** (-r.psnr / 10), rel=1e-4)


def same_weights(a: Trainer, b: Trainer) -> bool:
    pairs = zip(a.model.state_dict().items(), b.model.state_dict().items(), strict=True)
    return all(name == other and torch.equal(x, y) for (name, x), (other, y) in pairs)


def test_a_resumed_run_goes_on_exactly(folder, trainer, tmp_path):
    whole = [trainer.train_step() for _ in range(5)]
    first = Trainer(SETTINGS, PhotoFolder(folder, 64))
    part = [first.train_step() for _ in range(3)]
    first.save(tmp_path / CHECKPOINT)
    second = Trainer(SETTINGS, PhotoFolder(folder, 64))
    second.restore(load_checkpoint(tmp_path / CHECKPOINT))
    assert same_weights(first, second)
    assert part + [second.train_step() for _ in range(2)] == whole
    assert same_weights(trainer, second)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_a_run_that_ctrl_c_stopped_is_resumed_to_the_same_weights(folder, tmp_path, monkeypatch):
    settings = dataclasses.replace(SETTINGS, steps=4)
    whole = train_folder(folder, settings, tmp_path / "whole", quality=3)
    micro_batches = Trainer.micro_batches

    def interrupted(self):
        if self.step == 1:
            signal.raise_signal(signal.SIGINT)
        return micro_batches(self)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "micro_batches", interrupted)
        train_folder(folder, settings, tmp_path / "parts", quality=3)
    assert signal.getsignal(signal.SIGINT) == before
    assert load_checkpoint(tmp_path / "parts" / CHECKPOINT)["step"] == 2  # the step in which it came was finished
    parts = train_folder(folder, settings, tmp_path / "parts", quality=3, resume=True)
    assert parts.read_bytes() == whole.read_bytes()
    logs = [(tmp_path / run / "log.csv").read_text() for run in ("whole", "parts")]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == 5


def test_steps_lost_after_the_checkpoint_leave_no_trace_in_the_log(folder, tmp_path):
    settings = dataclasses.replace(SETTINGS, steps=2)
    train_folder(folder, settings, tmp_path)
    log = tmp_path / "log.csv"
    with log.open("a") as file:
        file.write("3,1,1,1\n4,1,1,1\n")
    train_folder(folder, dataclasses.replace(settings, steps=3), tmp_path, resume=True)
    assert [line.partition(",")[0] for line in log.read_text().splitlines()] == ["step", "1", "2", "3"]


def test_what_training_writes_is_a_codec(folder, tmp_path):
    said = []
    settings = dataclasses.replace(SETTINGS, steps=1)
    path = train_folder(folder, settings, tmp_path / "a" / "run", quality=5, minutes=60, log=said.append)
    assert path.name == "tiny-q5.safetensors"
    assert said[0] == "3 photographs; skipped: 0 too small, 0 unreadable, 0 not images"
    codec = dkic.load(tmp_path / "a" / "run")
    assert codec.qualities == [5]
    image = crop(50, 70)
    assert codec.decompress(codec.compress(image), "numpy").shape == image.shape


def test_no_minutes_are_no_steps(folder, tmp_path):
    train_folder(folder, SETTINGS, tmp_path, minutes=0)
    assert load_checkpoint(tmp_path / CHECKPOINT)["step"] == 0


# What stops it


def test_a_loss_that_is_not_a_number_stops_it_unchanged(trainer):
    torch.nn.init.constant_(trainer.model.g_s[-1][0].bias, math.nan)
    before = [p.clone() for p in trainer.model.parameters()]
    with pytest.raises(DkicError, match="loss became nan at step 0"):
        trainer.train_step()
    assert trainer.step == 0
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, trainer.model.parameters(), strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_it_unchanged(trainer, value):
    before = [p.clone() for p in trainer.model.parameters()]
    trainer.model.g_a[0].bias.register_hook(lambda gradient: gradient * value)
    with pytest.raises(DkicError, match="gradient became .* at step 0"):
        trainer.train_step()
    assert trainer.step == 0
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"preset": "huge"}, "--preset"),
        ({"crop": 100}, "--crop"),
        ({"crop": 0}, "--crop"),
        ({"lambda_": 0.0}, "--lambda"),
        ({"lambda_": math.nan}, "--lambda"),
        ({"steps": 0}, "--steps"),
        ({"batch": 0}, "--batch"),
        ({"learning_rate": -1.0}, "--lr"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_settings_that_can_not_be_are_refused(wrong, option):
    with pytest.raises(DkicError, match=option):
        dataclasses.replace(SETTINGS, **wrong)


# Checkpoints


@pytest.fixture
def run(folder, tmp_path) -> Path:
    """A run with a checkpoint after no step."""
    out = tmp_path / "run"
    train_folder(folder, SETTINGS, out, minutes=0)
    return out


def refusal(folder: Path, run: Path, *options: object) -> str:
    result = command("train", folder, "--out", run, *options)
    lines = result.err.splitlines()
    assert result.status == 2 and len(lines) == 1 and lines[0].startswith("dkic: "), result
    return lines[0]


def test_a_run_is_not_begun_where_there_is_one(folder, run):
    before = (run / CHECKPOINT).read_bytes()
    assert "add --resume" in refusal(folder, run, "--crop", 64)
    assert (run / CHECKPOINT).read_bytes() == before


def test_resuming_needs_a_checkpoint(folder, tmp_path):
    assert "no checkpoint there to go on from" in refusal(folder, tmp_path / "none", "--resume")
    assert not (tmp_path / "none").exists()


def test_a_damaged_checkpoint_is_refused(folder, run):
    path = run / CHECKPOINT
    data = path.read_bytes()
    for bad in (b"", b"hello", data[: len(data) // 2], data[:-1]):
        path.write_bytes(bad)
        assert f"{path}: not a dkic training checkpoint" in refusal(folder, run, "--resume")
    for other in ([1, 2], {"step": 1}, {"settings": {}}):
        torch.save(other, path)
        assert f"{path}: not a dkic training checkpoint" in refusal(folder, run, "--resume")


def test_a_checkpoint_of_another_model_is_refused(folder, run):
    path = run / CHECKPOINT
    state = torch.load(path, weights_only=True)
    torch.save(state | {"settings": {"preset": "tiny"}}, path)
    assert "not a dkic training checkpoint" in refusal(folder, run, "--resume")
    model = dict(state["model"])
    del model["g_a.0.weight"]
    for changed in ({"model": model}, {"optimizer": {"state": {}, "param_groups": []}}):
        torch.save(state | changed, path)
        assert "does not fit" in refusal(folder, run, "--resume")


@pytest.mark.parametrize(
    ("option", "value"), [("lambda", 0.01), ("batch", 4), ("crop", 128), ("lr", 0.1), ("seed", 1), ("preset", "base")]
)
def test_a_resumed_run_keeps_its_settings(folder, run, option, value):
    assert f"--{option} was " in refusal(folder, run, "--resume", f"--{option}", value)


def test_a_resumed_run_keeps_its_photographs(folder, run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("0.png", "1.png"):
        (other / name).write_bytes((folder / name).read_bytes())
    before = (run / CHECKPOINT).read_bytes()
    assert "other photographs than those that the run began with" in refusal(other, run, "--resume")
    assert (run / CHECKPOINT).read_bytes() == before


def test_a_resumed_run_may_change_its_length_and_repeat_a_setting(run):
    options = dataclasses.asdict(SETTINGS) | {"steps": 9}
    options.pop("clip_norm")
    settings = settings_of(run, options, {"steps": 9, "batch": SETTINGS.batch}, resume=True)
    assert settings == dataclasses.replace(SETTINGS, steps=9)
    assert settings_of(run, options | {"batch": 8}, {}, resume=True) == SETTINGS


# The command


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
    assert state["step"] == 3 and state["settings"]["lambda_"] == 0.05 and state["settings"]["batch"] == 1
    picture = tmp_path / "p.png"
    Image.fromarray(crop(40, 40)).save(picture)
    assert command("compress", picture, "-o", tmp_path / "p.dkic", "--model", run).status == 0
    assert command("decompress", tmp_path / "p.dkic", "-o", tmp_path / "q.png", "--model", run).status == 0
    refused = command("decompress", tmp_path / "p.dkic", "-o", tmp_path / "r.png")
    assert refused.status == 1 and "give its weights with --model" in refused.err


def test_the_command_names_a_folder_it_can_not_use(folder, tmp_path):
    (tmp_path / "file").touch()
    assert "no such folder of images" in refusal(tmp_path / "file", tmp_path / "run")
    assert "no photograph of at least 128x128" in refusal(folder, tmp_path / "run")
    assert f"{tmp_path / 'file'}: can't be written" in refusal(folder, tmp_path / "file", "--crop", 64, "--steps", 1)
