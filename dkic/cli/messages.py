"""What commands say: facts, lists, and that they failed."""

import contextlib
import sys
from collections.abc import Iterable, Iterator

import click

from dkic.errors import DkicError, one_line


@contextlib.contextmanager
def failing(error: type[DkicError] = DkicError) -> Iterator[None]:
    """What fails with this error, once the work has begun, is one line and the exit status 1."""
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
    return ", ".join(map(str, values))
