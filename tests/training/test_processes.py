"""Several processes, micro-batches and interrupted runs give the same results as one process."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import dkic as command
from lpips_weights import need_backbone
from training.one_of_two_processes import RECIPE, STEPS, begin, step_of
from training.recipes import write_recipe

import dkic
from dkic.models.codec_network import TrainingOutput
from dkic.training.batches import Share
from dkic.training.checkpoint import CHECKPOINT, load_checkpoint
from dkic.training.processes import accelerator_for
from dkic.training.staged_run import StagedRun

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module", autouse=True)
def backbone():
    need_backbone("alex")


def torchrun(*arguments: object) -> str:
    """Runs two processes, which must succeed, and returns their output."""
    done = subprocess.run([*TORCHRUN, *map(str, arguments)], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def halves(folder, tmp_path_factory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("out")
    torchrun(Path(__file__).with_name("one_of_two_processes.py"), folder, out)
    return [torch.load(out / f"{i}.pt", weights_only=False) for i in range(2)]


def same_gradients(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    largest = max(g.abs().max().item() for g in b.values())
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-7 * largest, msg=lambda m, n=name: f"{n}: {m}")


def joint(run: StagedRun) -> StagedRun:
    """One process with the whole batch, whose halves get the noise that the two processes draw."""
    run.share = Share(micro_batches=2)

    def forward(x: torch.Tensor, part: int, quality: None) -> TrainingOutput:
        outputs = [StagedRun.forward(run, half, i) for i, half in enumerate(x.chunk(2))]
        return TrainingOutput(*map(torch.cat, zip(*outputs, strict=True)))

    run.forward = forward
    return run


@pytest.mark.parametrize("step", STEPS)
def test_two_processes_equal_one_with_the_global_batch(folder, halves, step):
    expected = step_of(joint(begin(str(folder), accelerator_for("cpu"))), step)
    frozen = {name.split(".")[1] for name in expected["gradients"] if name.startswith("model.")} == {"g_s"}
    assert frozen == (step == 3) and any(name.startswith("discriminator.") for name in expected["gradients"]) == (step > 0)
    for half in halves:
        same_gradients(half[str(step)]["gradients"], expected["gradients"])
        figures = (vars(half[str(step)]["result"]), vars(expected["result"]))
        assert figures[0] == pytest.approx(figures[1], rel=1e-5, nan_ok=True)
    same_gradients(halves[0][str(step)]["gradients"], halves[1][str(step)]["gradients"])


def test_micro_batches_equal_one_batch(folder, halves):
    """Without a discriminator, whose means are over one micro-batch."""
    one = step_of(begin(str(folder), accelerator_for("cpu"), accumulation=2), 0)
    same_gradients(one["gradients"], halves[0]["0"]["gradients"])


@pytest.mark.parametrize("above", [True, False])
def test_lambda_depends_on_the_rate_of_all_micro_batches(folder, above):
    run = begin(str(folder), accelerator_for("cpu"), accumulation=4)
    rates = [run.forward(x, i).quantized_bits.item() / 64**2 for i, x in enumerate(run.micro_batches())]
    mean = sum(rates) / 4
    assert min(rates) < mean * 0.9998 and max(rates) > mean * 1.0002
    rate = RECIPE["rate"] | {"target": mean * (0.99999 if above else 1.00001)}
    result = begin(str(folder), accelerator_for("cpu"), accumulation=4, rate=rate).train_step()
    assert result.rate_weight == rate["lambda_alpha" if above else "lambda_beta"]
    assert result.quantized_bpp == pytest.approx(mean, rel=1e-6)


def test_an_error_in_one_process_is_raised_in_all(halves):
    for half in halves:
        assert "nowhere: there is no such folder" in half["nowhere"]
        assert half["batch"].startswith("batch: ") and "2 processes with 1 micro-batches" in half["batch"]


@pytest.fixture
def config(tmp_path) -> Path:
    return write_recipe(tmp_path / "recipe.toml", RECIPE | {"batch": 2, "epoch_steps": 3, "ema": 0.9, "clip_norm": 1.0})


def test_the_command_under_torchrun(folder, config, tmp_path):
    out = tmp_path / "run"
    write_recipe(config, RECIPE)
    output = torchrun("-m", "dkic", "train", folder, "--config", config, "--out", out, "--device", "cpu", "--workers", 0)
    assert output.count("3 photographs") == 1
    log = (out / "log.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in log] == ["step", *(str(i) for i in range(1, 5))]
    assert load_checkpoint(out / CHECKPOINT)["step"] == 4 and dkic.load(out).qualities == [1]


def kill_after(out: Path, steps: int, *arguments: object) -> None:
    """Starts the command and kills it once the log has `steps` steps."""
    child = subprocess.Popen([sys.executable, "-m", "dkic", *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    log = out / "log.csv"
    while child.poll() is None and (not log.exists() or len(log.read_text().splitlines()) <= steps):
        time.sleep(0.005)
    child.kill()
    assert child.wait() == -9, child.stderr.read()


def test_a_run_that_is_killed_and_resumed_is_the_same(folder, config, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ("--config", config, "--device", "cpu", "--save-every", 2)
    assert command("train", folder, *options, "--out", whole, "--workers", 0).status == 0
    kill_after(parts, 3, "train", folder, *options, "--out", parts, "--workers", 1)
    assert 2 <= load_checkpoint(parts / CHECKPOINT)["step"] < 6  # in the first stage
    kill_after(parts, 9, "train", folder, *options, "--out", parts, "--workers", 2, "--resume")
    assert 8 <= load_checkpoint(parts / CHECKPOINT)["step"] < 12  # with a discriminator
    assert command("train", folder, *options, "--out", parts, "--workers", 0, "--resume").status == 0
    assert (parts / "log.csv").read_text() == (whole / "log.csv").read_text()
    first, second = (load_checkpoint(run / CHECKPOINT) for run in (whole, parts))
    assert first["step"] == second["step"] == 12
    for part in ("model", "discriminator", "average"):
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items())
    weights = [next(run.glob("*.safetensors")).read_bytes() for run in (whole, parts)]
    assert weights[0] == weights[1]
