"""Writes the report folder of `dkic evaluate`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from dkic.coding.image_reading import read_image
from dkic.evaluation.codecs import ImageCodec
from dkic.evaluation.figures import Crop, figure, find_crops, most_different_images
from dkic.evaluation.measured_files import MeasuredFile, decode_file
from dkic.evaluation.metric_registry import METRICS
from dkic.evaluation.page import compared, data_uri, page
from dkic.evaluation.rate_distortion import bd_lines, chart, curves, measured
from dkic.evaluation.table import Cell, as_csv, as_latex, markdown, notes, of_a_set, table_lines
from dkic.output_file import write_atomically
from dkic.table_file import parquet_bytes


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    images: their files. folder: of the report. left_out: codecs that can't run here, and why. anchor: reference codec of the
    BD-rates. crops: requested crops by image; figures show these images. about_fid: notes on FID and KID.
    """

    images: dict[str, Path]
    folder: Path
    codecs: list[ImageCodec]
    left_out: dict[str, str]
    rows: list[MeasuredFile]
    cells: list[Cell]
    allocated_by: str
    anchor: str | None
    crops: dict[str, list[Crop]]
    made_on: str
    about_fid: list[str]

    @property
    def targets(self) -> list[float]:
        return list(dict.fromkeys(cell.target_bpp for cell in self.cells))


REALISM = (
    "LPIPS alone does not reward realism: models trained for it without a discriminator have a better LPIPS than some "
    "models whose images look more natural. Look at the images."
)
REALISM_OF_SETS = " FID and KID do: they compare the distributions of the patches of all images."


def write_report(found: Evaluation, page_images: int = 6, force: bool = False) -> None:
    """Writes everything except the coded files, which already exist. Raises DkicError if a file can't be written.

    Args:
        page_images: number of images on the page.
    """

    def write(name: str, content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        write_atomically(found.folder / name, data, force)

    table, lines = table_lines(found.cells), curves(found.rows)
    realism = REALISM + (REALISM_OF_SETS if of_a_set(found.cells) else "")
    write("table.md", markdown(table, notes(found.cells) + [realism] + remarks(found)))
    write("table.csv", as_csv(found.cells))
    write("table.tex", as_latex(found.cells))
    bd, bd_remarks = bd_lines(lines, found.anchor) if found.anchor else ([], [])
    if bd:
        write("bd_rate.md", markdown(bd, bd_remarks))
    charts = {metric: {suffix: chart(lines, metric, suffix) for suffix in ("png", "svg")} for metric in measured(lines)}
    for metric, by_suffix in charts.items():
        for suffix, content in by_suffix.items():
            write(f"rate_distortion_{metric}.{suffix}", content)
    write("measurements.parquet", _parquet([row.columns() for row in found.rows]))
    (found.folder / "figures").mkdir(exist_ok=True)
    for name, image in figures(found):
        file = BytesIO()
        image.save(file, "PNG")
        write(f"figures/{name}.png", file.getvalue())
    chosen = [{"target_bpp": cell.target_bpp} | row.columns() for cell in found.cells for row in cell.chosen]
    write("chosen.parquet", _parquet(chosen))
    codecs = {codec.name: codec for codec in found.codecs}
    data = {
        **compared(found.images, found.cells, codecs, found.folder / "files", page_images),
        "table": table,
        "notes": notes(found.cells),
        "bd": bd,
        "bd_notes": bd_remarks,
        "charts": [{"title": METRICS[metric].label, "source": data_uri("svg+xml", by["svg"])} for metric, by in charts.items()],
        "realism": realism,
        "remarks": remarks(found),
    }
    write("index.html", page(data))


def figures(found: Evaluation) -> Iterator[tuple[str, Image.Image]]:
    """Names and figures: at each target, of the requested images or of `most_different_images`."""
    codecs = {codec.name: codec for codec in found.codecs}
    for target in found.targets:
        cells = [cell for cell in found.cells if cell.target_bpp == target and cell.chosen]
        for image in (found.crops or most_different_images(cells)) if cells else ():
            rows = [row for cell in cells for row in cell.chosen if row.image == image]
            decoded = [(row, decode_file(codecs[row.codec], found.folder / "files", row)) for row in rows]
            original = read_image(found.images[image]).pixels
            crops = found.crops.get(image) or find_crops(original, [pixels for _, pixels in decoded])
            yield f"{target:g}-bpp-{image}", figure(original, crops, decoded)


def remarks(found: Evaluation) -> list[str]:
    """Notes that explain the table."""
    lines = [
        f"{len(found.images)} images; {found.made_on}. All numbers are means over the images, measured on files on disk "
        "that were decoded again. Sizes are whole files. Times are of this machine and include starting the process of external "
        "codecs.",
        f"Qualities are chosen image by image for the best {METRICS[found.allocated_by].label} within the target.",
        *found.about_fid,
    ]
    for codec in found.codecs:
        lines.append(codec.about)
        trained_for = [metric for metric in METRICS.values() if codec.name.removeprefix("dkic:") in metric.models]
        if trained_for:
            names = (f"{metric.label} (as {metric.in_loss})" if metric.in_loss else metric.label for metric in trained_for)
            lines.append(f"The training loss of {codec.name} contains {', '.join(names)}, no other metric here.")
    return lines + [f"{name} was left out: {why}" for name, why in found.left_out.items()]


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    return parquet_bytes({name: [row[name] for row in rows] for name in (rows[0] if rows else ())})
