"""Logs of a run: log.csv and TensorBoard."""

import contextlib
import math
from dataclasses import fields
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from dkic.errors import DkicError
from dkic.training.step_result import StepResult

TENSORBOARD = "tensorboard"  # subfolder of the run


class Log:
    """Writes one line per step to log.csv, and the same values and some images to TensorBoard.

    Args:
        folder: folder of the run.
        step: step from which the run is resumed; lines of later steps are removed.

    Raises:
        DkicError: log.csv has the columns of another version.
        OSError: a file can't be written.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._names = [field.name for field in fields(StepResult)]
        self._files = contextlib.ExitStack()
        path, head = folder / "log.csv", ",".join(self._names) + "\n"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[: step + 1] if path.exists() else []
        if lines and lines[0] != head:
            raise DkicError(f"{path}: its columns are from another version of dkic; move the file away to continue without it")
        self._csv = self._files.enter_context(open(path, "w", encoding="utf-8", buffering=1))
        self._csv.writelines(lines or [head])
        self._board = SummaryWriter(folder / TENSORBOARD, purge_step=step + 1)
        self._files.callback(self._board.close)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def write(self, result: StepResult) -> None:
        """Writes the results of a step; NaN values are omitted in TensorBoard."""
        values = {name: getattr(result, name) for name in self._names[1:]}
        self._csv.write(f"{result.step}," + ",".join(f"{value:.6g}" for value in values.values()) + "\n")
        for name, value in values.items():
            if not math.isnan(value):
                self._board.add_scalar(name, value, result.step)

    def image(self, image: Tensor, step: int) -> None:
        """Writes an image `[3, H, W]` in [0, 1] to TensorBoard."""
        self._board.add_image("crops and reconstructions", image, step)
