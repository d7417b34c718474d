"""Runs of equal time: each has the number of steps that fit into the time at its own speed, so other load changes no result."""

import statistics
import time

import click

from dkic.training.run import Run


def seconds_per_step(run: Run, steps: int = 20) -> float:
    """The median of `steps`, after 5 steps of warmup."""
    times = []
    for _ in range(steps + 5):
        start = time.perf_counter()
        run.train_step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[5:])


def do_steps(run: Run, name: str) -> None:
    """Runs the remaining steps; prints the result of every 100th."""
    while run.step < run.steps:
        result = run.train_step()
        if run.step % 100 == 0:
            click.echo(f"{name} {run.step}/{run.steps}: {result}")
