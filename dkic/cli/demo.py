"""`dkic demo`."""

from pathlib import Path

import click

from dkic.cli.messages import failing


@click.command(short_help="Compress a photograph that is shipped with dkic.")
@click.option("-o", "--out", default="dkic-demo", show_default=True, help="Folder for the results.")
def demo(out: str) -> None:
    """Compress and decompress a photograph that is shipped with dkic, and compare the two."""
    from dkic.demo import run

    with failing():
        run(Path(out), click.echo)
