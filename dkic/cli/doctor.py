"""`dkic doctor`."""

import sys

import click


@click.command()
def doctor() -> None:
    """Report what is installed, what is missing, and the repair."""
    from dkic.doctor import healthy, report

    click.echo(report())
    sys.exit(0 if healthy() else 1)
