"""`dkic doctor`."""

import sys

import click


@click.command()
def doctor() -> None:
    """What is installed, what is missing, and what repairs it."""
    from dkic.doctor import healthy, report

    click.echo(report())
    sys.exit(0 if healthy() else 1)
