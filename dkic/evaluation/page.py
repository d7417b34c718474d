"""The report's page: a self-contained HTML file that compares two codecs on an image with a slider and zoom."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dkic.coding.image_reading import read_image
from dkic.evaluation.codecs import ImageCodec
from dkic.evaluation.measured_files import MeasuredFile, decode_file
from dkic.evaluation.metric_registry import METRICS
from dkic.evaluation.table import Cell, number

_TEMPLATE = Path(__file__).with_name("page.html")
_SHOWN_DIRECTLY = {".jpg": "jpeg", ".webp": "webp", ".avif": "avif"}  # supported by browsers; other files become lossless WebP


def compared(
    paths: Mapping[str, Path], cells: Sequence[Cell], codecs: Mapping[str, ImageCodec], files: Path, count: int
) -> dict[str, Any]:
    """Data of the slider: targets, the first `count` images with their chosen files, each file once as a data URI."""
    shown: dict[str, str] = {}
    images: dict[str, Any] = {}
    for name, path in islice(paths.items(), count):
        original = read_image(path).pixels
        shown[f"original {name}"] = _lossless(original)
        height, width = original.shape[:2]
        targets: dict[str, dict[str, Any]] = {}
        for cell in cells:
            at = targets.setdefault(f"{cell.target_bpp:g}", {})
            for row in (row for row in cell.chosen if row.image == name):
                at[cell.codec] = {"file": row.file, "caption": f"{row.bpp:.3f} bpp: {_scores(row)}"}
                if row.file not in shown:
                    kind = _SHOWN_DIRECTLY.get(Path(row.file).suffix)
                    content = (files / row.file).read_bytes() if kind else b""
                    shown[row.file] = data_uri(kind, content) if kind else _lossless(decode_file(codecs[row.codec], files, row))
        images[name] = {"width": width, "height": height, "original": {"file": f"original {name}"}, "targets": targets}
    return {"images": images, "targets": list(dict.fromkeys(f"{cell.target_bpp:g}" for cell in cells)), "files": shown}


def page(data: Mapping[str, Any]) -> str:
    """The page with its data: the result of `compared`, and tables, charts and remarks as page.html reads them."""
    # A script element ends at the first "</script", wherever it is.
    text = json.dumps(data, allow_nan=False).replace("</", "<\\/")
    return _TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/", text)


def data_uri(kind: str, content: bytes) -> str:
    """kind: what follows "image/" in the media type."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _scores(row: MeasuredFile) -> str:
    """The scores of a file as text."""
    shown = ((metric, number(row.value(name), metric.digits)) for name, metric in METRICS.items())
    return ", ".join(f"{metric.label} {value}" for metric, value in shown if value)


def _lossless(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    # PNG where WebP's limit of 16383 pixels a side is exceeded.
    if max(pixels.shape[:2]) < 1 << 14:
        Image.fromarray(pixels).save(file, "WEBP", lossless=True, method=2, quality=50)
        return data_uri("webp", file.getvalue())
    Image.fromarray(pixels).save(file, "PNG")
    return data_uri("png", file.getvalue())
