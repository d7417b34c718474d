"""`dkic demo`."""

from pathlib import Path

import click

from dkic.cli.messages import failing


@click.command(short_help="Try it on a photograph that comes with dkic.")
@click.option("-o", "--out", default="dkic-demo", show_default=True, help="Folder for the results.")
def demo(out: str) -> None:
    """Compress and decompress a photograph that comes with dkic, and compare."""
    from dkic.demo import run

    with failing():
        run(Path(out), click.echo)
