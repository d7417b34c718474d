"""The optimizer steps of a run, one after the other."""

from collections.abc import Callable, Iterator

from tqdm import tqdm

from dkic.training.run import Run
from dkic.training.step_result import StepResult, running_mean


def steps_of(run: Run, stopped: Callable[[], bool] = lambda: False) -> Iterator[StepResult]:
    """Does the steps that are left, and yields the result of each; shows progress where the run leads.

    stopped: is asked before every step whether to end, on every process; it ends where it is true on one.
    """
    mean: StepResult | None = None
    with tqdm(total=run.steps, initial=run.step, unit="step", mininterval=1, disable=not run.leads) as progress:
        while run.step < run.steps and not run.any_process(stopped()):
            result = run.train_step()
            mean = result if mean is None else running_mean(mean, result)
            progress.update()
            progress.set_postfix_str(str(mean))
            yield result
