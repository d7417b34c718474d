"""Runs of equal time: as many steps each as fit into so many minutes at its own speed, so that other work changes no result."""

import statistics
import time

import click

from dkic.training.run import Run


def seconds_per_step(run: Run, steps: int = 20) -> float:
    """The median of `steps`, after 5 that don't count."""
    times = []
    for _ in range(steps + 5):
        start = time.perf_counter()
        run.train_step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[5:])


def do_steps(run: Run, name: str) -> None:
    """All steps that are left; prints the result of each 100th."""
    while run.step < run.steps:
        result = run.train_step()
        if run.step % 100 == 0:
            click.echo(f"{name} {run.step}/{run.steps}: {result}")
