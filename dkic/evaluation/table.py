"""Table 1 of the paper: each codec at each target rate, reached by allocation, as Markdown, LaTeX and CSV."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dkic.allocation import allocate
from dkic.errors import DkicError, one_line
from dkic.evaluation.measured_files import MeasuredFile
from dkic.evaluation.metric_registry import METRICS
from dkic.table_file import csv_bytes

OF_A_SET = {"fid": "FID", "kid": "KID"}  # not defined for a single image
_DIGITS = {"bpp": 3, "fid": 2, "kid": 5} | {name: metric.digits for name, metric in METRICS.items()}


@dataclass(frozen=True)
class Cell:
    """A codec at a target: means over the images, NaN if not computed.

    chosen: a file of each image, empty if the target is out of reach. note: why something is missing. fid, kid: of all chosen
    files.
    """

    codec: str
    target_bpp: float
    bpp: float
    psnr: float
    ms_ssim: float
    lpips: float
    lpips_vgg: float
    dists: float
    ssimulacra2: float
    encode_seconds: float
    decode_seconds: float
    note: str
    chosen: tuple[MeasuredFile, ...]
    fid: float = math.nan
    kid: float = math.nan


_RATE_AND_QUALITY = ("bpp", *METRICS)
_SECONDS = ("encode_seconds", "decode_seconds")
_MEANS = _RATE_AND_QUALITY + _SECONDS


def at_target(rows: Sequence[MeasuredFile], target_bpp: float, by: str = "lpips") -> Cell:
    """Chooses a quality for each image, for the least mean LPIPS within a mean rate of target_bpp: Eq. 6 of the paper.

    Args:
        rows: of one codec, as `measure_files` returns them.
        by: the metric of METRICS to optimize.

    Raises:
        DkicError: `by` is not defined for one of the images.
    """
    codec = rows[0].codec
    images = list(dict.fromkeys(row.image for row in rows))
    options = np.array(rows, object).reshape(len(images), -1)  # [N, M]; `measure_files` leaves none out
    rate = np.array([row.bpp for row in rows]).reshape(options.shape)
    for row in rows:
        if math.isnan(row.value(by)):
            raise DkicError(
                f"{row.image}: {METRICS[by].label} is not defined for {row.width}x{row.height} pixels; allocate by another metric"
            )
    # PSNR is infinite for a lossless file.
    sign = -1 if METRICS[by].higher_is_better else 1
    distortion = np.array([sign * min(row.value(by), 1e3) for row in rows]).reshape(options.shape)
    least = float(rate.min(axis=1).mean())
    if least > target_bpp:
        note = f"{codec} takes at least {least:.3f} bpp; lower targets are out of reach"
        return Cell(codec=codec, target_bpp=target_bpp, note=note, chosen=(), **dict.fromkeys(_MEANS, math.nan))
    choice = allocate(rate, distortion, target_bpp, kind="mean_bpp", names=images).choice
    return cell_of(codec, target_bpp, tuple(options[range(len(images)), choice]))


def cell_of(codec: str, target_bpp: float, chosen: tuple[MeasuredFile, ...]) -> Cell:
    """The means over the chosen files of a codec at a target, one of each image."""
    means = {name: float(np.mean([row.value(name) for row in chosen])) for name in _MEANS}
    small = [row.image for row in chosen if math.isnan(row.value("ms_ssim"))]
    note = f"no MS-SSIM: {small[0]} has a side below 161 pixels, for which it is not defined" if small else ""
    return Cell(codec=codec, target_bpp=target_bpp, note=note, chosen=chosen, **means)


def table_lines(cells: Sequence[Cell]) -> list[list[str]]:
    """The header; then a row for each codec, as in the paper, with the mean seconds of encoding and decoding."""
    head = ["codec"]
    for target in _targets(cells):
        head += [f"{target:g} bpp: actual", *_heads(cells)]
    return [head + ["encoding, s", "decoding, s"], *_lines(cells)]


def notes(cells: Sequence[Cell]) -> list[str]:
    """The reasons of empty cells."""
    return list(dict.fromkeys(cell.note for cell in cells if cell.note))


def markdown(lines: Sequence[Sequence[str]], remarks: Sequence[str] = ()) -> str:
    """A table, its first row the header, and remarks below it."""
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return text + ("\n" if remarks else "") + "".join(f"* {one_line(remark)}\n" for remark in remarks)


def as_markdown(cells: Sequence[Cell]) -> str:
    return markdown(table_lines(cells), notes(cells))


def as_latex(cells: Sequence[Cell]) -> str:
    """The table as a LaTeX `tabular`; needs booktabs."""
    targets = _targets(cells)
    heads = ["Act BPP", *_heads(cells)]
    n = len(heads)
    groups = "".join(rf" & \multicolumn{{{n}}}{{c}}{{{target:g} bpp}}" for target in targets)
    rules = "".join(rf"\cmidrule(lr){{{2 + n * i}-{1 + n + n * i}}}" for i in range(len(targets)))
    metrics = "".join(f" & {head}" for head in heads) * len(targets)
    body = "".join("    " + " & ".join(map(_latex, line)) + " \\\\\n" for line in _lines(cells))
    return (
        f"\\begin{{tabular}}{{l{'r' * n * len(targets)}rr}}\n    \\toprule\n"
        f"    Method{groups} & \\multicolumn{{2}}{{c}}{{seconds}} \\\\\n    {rules}\n"
        f"    {metrics} & enc. & dec. \\\\\n    \\midrule\n{body}    \\bottomrule\n\\end{{tabular}}\n"
    )


def as_csv(cells: Sequence[Cell]) -> bytes:
    """A row for each codec and target, in full precision; empty if not computed."""
    columns = ("codec", "target_bpp", *_RATE_AND_QUALITY, *of_a_set(cells), *_SECONDS, "note")
    values = ([getattr(cell, name) for name in columns] for cell in cells)
    rows = (["" if isinstance(value, float) and math.isnan(value) else value for value in row] for row in values)
    return csv_bytes([columns, *rows])


def number(value: float, digits: int) -> str:
    """Empty for NaN."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _targets(cells: Iterable[Cell]) -> list[float]:
    return list(dict.fromkeys(cell.target_bpp for cell in cells))


def scored(cells: Iterable[Cell]) -> list[str]:
    """The metrics that were computed."""
    return [name for name in METRICS if any(not math.isnan(getattr(cell, name)) for cell in cells)]


def of_a_set(cells: Iterable[Cell]) -> list[str]:
    """FID and KID if they were computed."""
    return [name for name in OF_A_SET if any(not math.isnan(getattr(cell, name)) for cell in cells)]


def _heads(cells: Sequence[Cell]) -> list[str]:
    return [*(METRICS[name].label for name in scored(cells)), *(OF_A_SET[name] for name in of_a_set(cells))]


def _lines(cells: Sequence[Cell]) -> Iterable[list[str]]:
    """Row of each codec: its name, the numbers for each target, and the mean seconds of all chosen files."""
    names = ("bpp", *scored(cells), *of_a_set(cells))
    for codec in dict.fromkeys(cell.codec for cell in cells):
        own = [cell for cell in cells if cell.codec == codec]
        line = [codec]
        for cell in own:
            line += [number(getattr(cell, name), _DIGITS[name]) for name in names]
        yield line + [_seconds(own, lambda row: row.encode_seconds), _seconds(own, lambda row: row.decode_seconds)]


def _seconds(cells: Iterable[Cell], of: Callable[[MeasuredFile], float]) -> str:
    seconds = [of(row) for cell in cells for row in cell.chosen]
    return f"{np.mean(seconds):.3g}" if seconds else ""


def _latex(text: str) -> str:
    return "".join("\\" + c if c in "_&%#$" else c for c in text)
