"""The folder that `dkic evaluate` leaves."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dkic.coding.image_io import read_picture
from dkic.evaluation.codecs import ImageCodec
from dkic.evaluation.figures import Crop, figure, find_crops, telling_pictures
from dkic.evaluation.measure import Measurement, decode_file
from dkic.evaluation.rate_distortion import CURVES, bd_rates_as_markdown, chart, curves
from dkic.evaluation.table import LABELS, Cell, Metric, as_csv, as_latex, as_markdown
from dkic.output_file import write_atomically


@dataclass(frozen=True)
class Evaluation:
    """What was found. pictures: their files; folder: of the report; left_out: codecs that can't run here, and why;
    anchor: the codec of `codecs` that BD-rates are against;
    crops: by picture, those that were asked for, which makes figures of these pictures."""

    pictures: dict[str, Path]
    folder: Path
    codecs: list[ImageCodec]
    left_out: dict[str, str]
    rows: list[Measurement]
    cells: list[Cell]
    allocated_by: Metric
    anchor: str | None
    crops: dict[str, list[Crop]]
    made_on: str

    @property
    def targets(self) -> list[float]:
        return list(dict.fromkeys(cell.target_bpp for cell in self.cells))


def write_report(found: Evaluation, force: bool = False) -> None:
    """Raises DkicError where a file can't be written."""

    def write(name: str, content: str | bytes) -> None:
        write_atomically(found.folder / name, content.encode() if isinstance(content, str) else content, force)

    write("table.md", as_markdown(found.cells) + "\n" + "".join(f"* {line}\n" for line in remarks(found)))
    write("table.csv", as_csv(found.cells))
    write("table.tex", as_latex(found.cells))
    lines = curves(found.rows)
    if found.anchor:
        write("bd_rate.md", bd_rates_as_markdown(lines, found.anchor))
    for metric in CURVES:
        if any(np.isfinite(curve.values[metric]).any() for curve in lines):
            for suffix in ("png", "svg"):
                write(f"rate_distortion_{metric}.{suffix}", chart(lines, metric, suffix))
    write("measurements.parquet", _parquet([asdict(row) for row in found.rows]))
    (found.folder / "figures").mkdir(exist_ok=True)
    for name, picture in figures(found):
        file = BytesIO()
        picture.save(file, "PNG")
        write(f"figures/{name}.png", file.getvalue())
    chosen = [{"target_bpp": cell.target_bpp} | asdict(row) for cell in found.cells for row in cell.chosen]
    write("chosen.parquet", _parquet(chosen))


def figures(found: Evaluation) -> Iterator[tuple[str, Image.Image]]:
    """Names and pictures: at each target of those asked for, or of the two whose LPIPS differs most between the codecs."""
    codecs = {codec.name: codec for codec in found.codecs}
    for target in found.targets:
        cells = [cell for cell in found.cells if cell.target_bpp == target and cell.chosen]
        for image in (found.crops or telling_pictures(cells)) if cells else ():
            rows = [row for cell in cells for row in cell.chosen if row.image == image]
            decoded = [(row, decode_file(codecs[row.codec], found.folder / "files", row)) for row in rows]
            original = read_picture(found.pictures[image]).pixels
            crops = found.crops.get(image) or find_crops(original, [pixels for _, pixels in decoded])
            yield f"{target:g}-bpp-{image}", figure(original, crops, decoded)


def remarks(found: Evaluation) -> list[str]:
    """What must be known to read the table."""
    lines = [
        f"{len(found.pictures)} pictures; {found.made_on}. All numbers are means over the pictures, of files on disk that were "
        "decoded again; sizes are whole files, seconds those of this machine, with the start of a process where a codec is one.",
        f"Each codec's qualities are chosen picture by picture for the best {LABELS[found.allocated_by]} within the target.",
        "LPIPS alone does not reward realism: codecs trained for it without a discriminator score better on it than ones whose "
        "pictures people find more natural. Look at the pictures.",
    ]
    lines += [codec.about for codec in found.codecs]
    return lines + [f"{name} was left out: {why}" for name, why in found.left_out.items()]


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    file = BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file)
    return file.getvalue()
