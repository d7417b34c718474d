"""What commands say: facts, lists, and that they failed."""

import contextlib
import sys
from collections.abc import Iterable, Iterator

import click

from dkic.errors import DkicError


@contextlib.contextmanager
def failing(error: type[DkicError] = DkicError) -> Iterator[None]:
    """What fails with this error, once the work has begun, is one line and the exit status 1."""
    try:
        yield
    except error as failed:
        click.echo(f"dkic: {failed}", err=True)
        sys.exit(1)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    for name, value in facts:
        click.echo(f"{name}: {value}")


def listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
