"""The log: a line for each step, TensorBoard's curves and pictures, and nothing of steps that were lost."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from dkic.errors import DkicError
from dkic.training.log import TENSORBOARD, Log, StepResult


@dataclasses.dataclass(frozen=True)
class Result(StepResult):
    gan: float = math.nan


def write(folder: Path, steps: range, after: int) -> None:
    with Log(folder, Result, after, tensorboard=True) as log:
        for step in steps:
            log.write(Result(step, loss=1 / step, bpp=0.25, psnr=30.0, gan=step if step > 2 else math.nan))
        log.picture(torch.rand(3, 8, 16), steps[-1])


def test_steps_become_lines_and_curves(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, range(1, 5), after=0)
    write(tmp_path, range(3, 6), after=2)  # resumed from a checkpoint of step 2
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines == ["step,loss,bpp,psnr,gan", *(f"{s},{1 / s:.6g},0.25,30,{s if s > 2 else 'nan'}" for s in range(1, 6))]
    board = EventAccumulator(str(tmp_path / TENSORBOARD)).Reload()
    assert set(board.Tags()["scalars"]) == {"loss", "bpp", "psnr", "gan"}
    assert [(e.step, e.value) for e in board.Scalars("loss")] == [(s, torch.tensor(1 / s).item()) for s in range(1, 6)]
    assert [e.step for e in board.Scalars("gan")] == [3, 4, 5]  # what was not measured is no point
    assert [(e.step, e.width, e.height) for e in board.Images("crops and reconstructions")] == [(5, 16, 8)]


def test_without_tensorboard_there_is_the_line_alone(tmp_path):
    with Log(tmp_path, StepResult, 0, tensorboard=False) as log:
        log.write(StepResult(1, 2.0, 0.5, 20.0))
        log.picture(torch.rand(3, 8, 8), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_a_log_with_other_columns_is_not_gone_on_with(tmp_path):
    (tmp_path / "log.csv").write_text("step,loss\n1,0.5\n")
    with pytest.raises(DkicError, match="its columns are those of another version"):
        Log(tmp_path, Result, 1, tensorboard=False)
    assert (tmp_path / "log.csv").read_text() == "step,loss\n1,0.5\n"
