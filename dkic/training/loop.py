"""The training loop."""

from collections.abc import Callable, Iterator

from dkic.training.run import Run
from dkic.training.step_result import StepResult, running_mean

# Called with the number of completed steps, the total number of steps, and the running mean of the results as text.
ShowStep = Callable[[int, int, str], object]


def show_nothing(step: int, steps: int, text: str) -> None:
    """A `ShowStep` that does nothing."""


def steps_of(run: Run, stopped: Callable[[], bool] = lambda: False, show: ShowStep = show_nothing) -> Iterator[StepResult]:
    """Runs the remaining steps and yields the result of each.

    Args:
        run: the run.
        stopped: called before each step on every process; the loop ends if it returns True on any of them.
        show: called after each step on the main process.
    """
    mean: StepResult | None = None
    while run.step < run.steps and not run.any_process(stopped()):
        result = run.train_step()
        mean = result if mean is None else running_mean(mean, result)
        if run.leads:
            show(run.step, run.steps, str(mean))
        yield result
