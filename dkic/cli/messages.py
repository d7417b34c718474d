"""Output of commands: facts, lists and errors."""

import contextlib
import sys
from collections.abc import Iterable, Iterator

import click

from dkic.errors import DkicError, one_line


@contextlib.contextmanager
def failing(error: type[DkicError] = DkicError) -> Iterator[None]:
    """Reports this error as one line and exits with status 1; for errors after the work has begun."""
    try:
        yield
    except error as failed:
        click.echo(one_line(f"dkic: {failed}"), err=True)
        sys.exit(1)


def print_facts(facts: Iterable[tuple[str, str]], err: bool = False) -> None:
    """Prints a line for each fact; with `err`, to standard error."""
    for name, value in facts:
        click.echo(one_line(f"{name}: {value}"), err=err)


def listed(values: Iterable[object]) -> str:
    """Values separated by commas."""
    return ", ".join(map(str, values))
