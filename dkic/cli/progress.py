"""Progress bars on standard error; of items, only where it is a terminal."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def bar(items: Iterable[T], /, what: str, *, unit: str = "file", total: int | None = None) -> Iterable[T]:
    """See `dkic.progress.Progress`."""
    return tqdm(items, desc=what, unit=unit, total=total, disable=None, leave=False)


class StepBar:
    """A bar of training steps; see `dkic.training.loop.ShowStep`."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __call__(self, step: int, steps: int, text: str) -> None:
        if self._bar is None:
            self._bar = tqdm(total=steps, initial=step - 1, unit="step", mininterval=1)
        self._bar.update()
        self._bar.set_postfix_str(text)

    def __enter__(self) -> "StepBar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
