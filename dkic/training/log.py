"""What a run reports of its steps: log.csv, and TensorBoard's files."""

import contextlib
import math
from dataclasses import fields
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from dkic.errors import DkicError
from dkic.training.step_result import StepResult

TENSORBOARD = "tensorboard"  # the folder in a run's


class Log:
    """A line for each step in log.csv, and the same figures as TensorBoard's curves, with an image now and then.

    It continues after `step`. Lines of later steps, which were done after the checkpoint and then lost, are removed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._names = [field.name for field in fields(StepResult)]
        self._files = contextlib.ExitStack()
        path, head = folder / "log.csv", ",".join(self._names) + "\n"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[: step + 1] if path.exists() else []
        if lines and lines[0] != head:
            raise DkicError(f"{path}: its columns are those of another version of dkic; move it away to continue without it")
        self._csv = self._files.enter_context(open(path, "w", encoding="utf-8", buffering=1))
        self._csv.writelines(lines or [head])
        self._board = SummaryWriter(folder / TENSORBOARD, purge_step=step + 1)
        self._files.callback(self._board.close)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def write(self, result: StepResult) -> None:
        """A step's figures; TensorBoard gets those that were measured (not NaN)."""
        values = {name: getattr(result, name) for name in self._names[1:]}
        self._csv.write(f"{result.step}," + ",".join(f"{value:.6g}" for value in values.values()) + "\n")
        for name, value in values.items():
            if not math.isnan(value):
                self._board.add_scalar(name, value, result.step)

    def image(self, image: Tensor, step: int) -> None:
        """`[3, H, W]` in [0, 1], to TensorBoard."""
        self._board.add_image("crops and reconstructions", image, step)
