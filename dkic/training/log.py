"""What a run tells of its steps: log.csv, and TensorBoard's files."""

import contextlib
import math
from dataclasses import dataclass, fields
from pathlib import Path

from torch import Tensor

from dkic.errors import DkicError

TENSORBOARD = "tensorboard"  # the folder in a run's


@dataclass(frozen=True)
class StepResult:
    """One step's figures, over its batch: loss, rate in bits per pixel, PSNR in dB."""

    step: int
    loss: float
    bpp: float
    psnr: float

    def __str__(self) -> str:
        return f"bpp {self.bpp:.3f}, PSNR {self.psnr:.2f} dB"


class Log:
    """A line for each step in log.csv; with `tensorboard`, the same figures as curves, and a picture now and then.

    It goes on after `step`: what was written of later steps, which were done after the checkpoint and then lost, goes.
    """

    def __init__(self, folder: Path, result_type: type[StepResult], step: int, tensorboard: bool) -> None:
        self._names = [field.name for field in fields(result_type)]
        self._files = contextlib.ExitStack()
        path, head = folder / "log.csv", ",".join(self._names) + "\n"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[: step + 1] if path.exists() else []
        if lines and lines[0] != head:
            raise DkicError(f"{path}: its columns are those of another version of dkic; move it away to go on without it")
        self._csv = self._files.enter_context(open(path, "w", encoding="utf-8", buffering=1))
        self._csv.writelines(lines or [head])
        self._board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

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
            if self._board and not math.isnan(value):
                self._board.add_scalar(name, value, result.step)

    def picture(self, picture: Tensor, step: int) -> None:
        """`[3, H, W]` in [0, 1], to TensorBoard."""
        if self._board:
            self._board.add_image("crops and reconstructions", picture, step)
