"""The optimizer steps of a run, one after the other."""

from collections.abc import Callable, Iterator

from dkic.training.run import Run
from dkic.training.step_result import StepResult, running_mean

# Gets the number of the step that is done, that of all steps, and the running mean of their figures as text.
ShowStep = Callable[[int, int, str], object]


def show_nothing(step: int, steps: int, text: str) -> None:
    """A ShowStep."""


def steps_of(run: Run, stopped: Callable[[], bool] = lambda: False, show: ShowStep = show_nothing) -> Iterator[StepResult]:
    """Does the steps that are left, and yields the result of each.

    stopped: is asked before every step whether to end, on every process; it ends where it is true on one.
    show: is called after every step where the run leads.
    """
    mean: StepResult | None = None
    while run.step < run.steps and not run.any_process(stopped()):
        result = run.train_step()
        mean = result if mean is None else running_mean(mean, result)
        if run.leads:
            show(run.step, run.steps, str(mean))
        yield result
