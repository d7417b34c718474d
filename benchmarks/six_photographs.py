"""The table of the test photographs, from a report of `dkic evaluate`: means of the files that were allocated at each target.

dkic evaluate TEST --codec dkic:small avif hevc444 vvc jxl -t 0.075 0.15 0.3 0.6 --threads 1 -o REPORT
python -m benchmarks.six_photographs REPORT > benchmarks/results/six_photographs.csv
"""

from pathlib import Path

import click
import numpy as np
import pyarrow.parquet as parquet
import torch

from benchmarks.source_commit import source_commit
from benchmarks.stored_table import StoredTable
from dkic.doctor import processor
from dkic.evaluation.metric_registry import METRICS

COMMAND = __doc__.splitlines()[2].strip()
NAMES = {
    "dkic:small": "dkic:small",
    "avif": "AVIF 4:4:4 (libaom)",
    "hevc444": "HEVC 4:4:4 (x265)",
    "vvc": "VVC 4:2:0 (libvvenc)",
    "jxl": "JPEG XL",
}
COLUMNS = (
    "target",
    "codec",
    "bits per pixel",
    *(m.label + (" (higher is better)" if m.label == "SSIMULACRA2" else "") for m in METRICS.values()),
)


@click.command()
@click.argument("report", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--commit", default=source_commit, help="Of the report.  [default: the present one]")
def main(report: Path, commit: str) -> None:
    """Print the table of REPORT, the folder that `dkic evaluate` wrote."""
    chosen = parquet.read_table(report / "chosen.parquet").to_pylist()
    images = {row["image"] for row in chosen}
    rows = []
    for target in sorted({row["target_bpp"] for row in chosen}):
        for codec, name in NAMES.items():
            files = [row for row in chosen if (row["target_bpp"], row["codec"]) == (target, codec)]
            if not files:  # the codec does not reach the target
                continue
            if len(files) != len(images):
                raise click.ClickException(f"{report}: {codec} has {len(files)} of {len(images)} images at {target:g} bpp")
            means = {key: np.mean([row[key] for row in files]) for key in ("bpp", *METRICS)}
            metrics = (f"{means[key]:.{metric.digits}f}" for key, metric in METRICS.items())
            rows.append((f"{target:g}", name, f"{means['bpp']:.3f}", *metrics))
    table = StoredTable(COMMAND, f"{processor()}, 1 thread", f"PyTorch {torch.__version__}", commit, COLUMNS, tuple(rows))
    click.echo(table.text(), nl=False)


if __name__ == "__main__":
    main()
