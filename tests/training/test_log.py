"""Logs: one line per step, scalars and images in TensorBoard, and resuming."""

import csv
import dataclasses
import math
from pathlib import Path

import pytest
import torch

from dkic.errors import DkicError
from dkic.training.log import TENSORBOARD, Log
from dkic.training.step_result import StepResult


def write(folder: Path, steps: range, after: int) -> None:
    with Log(folder, after) as log:
        for step in steps:
            gan = step if step > 2 else math.nan
            log.write(StepResult(step, loss=1 / step, bpp=0.25, quantized_bpp=0.5, psnr=30.0, gan=gan))
        log.image(torch.rand(3, 8, 16), steps[-1])


def test_each_step_is_a_line_and_a_scalar(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, range(1, 5), after=0)
    write(tmp_path, range(3, 6), after=2)  # resumed from a checkpoint of step 2
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert list(rows[0]) == [field.name for field in dataclasses.fields(StepResult)]
    figures = [(row["step"], row["loss"], row["bpp"], row["psnr"], row["gan"], row["lpips"]) for row in rows]
    assert figures == [(f"{s}", f"{1 / s:.6g}", "0.25", "30", f"{s}" if s > 2 else "nan", "nan") for s in range(1, 6)]
    board = EventAccumulator(str(tmp_path / TENSORBOARD)).Reload()
    assert set(board.Tags()["scalars"]) == {"loss", "bpp", "quantized_bpp", "psnr", "gan"}
    assert [(e.step, e.value) for e in board.Scalars("loss")] == [(s, torch.tensor(1 / s).item()) for s in range(1, 6)]
    assert [e.step for e in board.Scalars("gan")] == [3, 4, 5]  # values that were not measured are omitted
    assert [(e.step, e.width, e.height) for e in board.Images("crops and reconstructions")] == [(5, 16, 8)]


def test_a_log_with_other_columns_is_not_continued(tmp_path):
    (tmp_path / "log.csv").write_text("step,loss\n1,0.5\n")
    with pytest.raises(DkicError, match="its columns are from another version"):
        Log(tmp_path, 1)
    assert (tmp_path / "log.csv").read_text() == "step,loss\n1,0.5\n"
