"""Files of a codec at every quality: written to disk, decoded again and measured."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dkic.coding.image_formats import images_in
from dkic.coding.image_reading import read_image
from dkic.errors import DkicError
from dkic.evaluation.codecs import ImageCodec, Unavailable
from dkic.evaluation.measurement import Measurement, measure, score
from dkic.evaluation.metric_registry import METRICS, Compare
from dkic.output_file import reason
from dkic.progress import Progress, unseen


@dataclass(frozen=True, kw_only=True)
class MeasuredFile(Measurement):
    """The measurement of a file on disk. quality: the codec's own setting. file: relative to the folder of files."""

    codec: str
    image: str
    quality: int
    width: int
    height: int
    file: str

    def value(self, column: str) -> Any:
        """A column of the report: a score by its metric's name, or a field."""
        return self.scores.get(column, math.nan) if column in METRICS else getattr(self, column)

    def columns(self) -> dict[str, Any]:
        """The row of the report's tables of files."""
        return {name: self.value(name) for name in COLUMNS}


COLUMNS = (
    *("codec", "image", "quality", "width", "height", "file", "bytes", "bpp"),
    *("psnr", "ms_ssim", "lpips", "lpips_vgg", "dists", "ssimulacra2"),
    *("encode_seconds", "decode_seconds"),
)


def find_images(folder: Path) -> dict[str, Path]:
    """The images in a folder, by their names in the report, in order. Raises DkicError."""
    found: dict[str, Path] = {}
    for path in images_in(folder).images:
        if found.setdefault(path.stem, path) is not path:
            raise DkicError(f"{path}: the name differs from {found[path.stem]} only in its suffix; rename one of them")
    return found


def measure_files(
    codec: ImageCodec,
    images: Mapping[str, Path],
    folder: Path,
    metrics: Mapping[str, Compare],
    force: bool = False,
    progress: Progress = unseen,
) -> list[MeasuredFile]:
    """Encodes every image at every quality of the codec and measures the files.

    Args:
        images: as `find_images` returns them. Their pixels are coded; ICC profiles are ignored.
        folder: gets the files, in a folder of the codec's name.
        metrics: as `load_metrics` returns them; the scores of others are NaN.
        progress: shows the images.

    Raises:
        DkicError: an image can't be read, or a file can't be written.
        Unavailable: the codec can't encode or decode an image.
    """
    place = folder / re.sub(r"[^\w.-]+", "-", codec.name)
    place.mkdir(parents=True, exist_ok=True)
    found: list[MeasuredFile] = []
    for image, path in progress(images.items(), codec.name, unit="image"):
        pixels = read_image(path).pixels
        if not found:  # one-time initialization does not count in an image's time
            with _failing(codec, file=path):
                codec.decode(codec.encode(pixels, codec.qualities[0]))
        height, width = pixels.shape[:2]
        for quality in codec.qualities:
            file = place / f"{image}-q{quality}{codec.suffix}"
            encode = partial(_encode, codec, pixels, quality, file)
            measured = measure(pixels, encode, partial(_decode, codec, pixels.shape, file), metrics, file=file, force=force)
            name = str(file.relative_to(folder))
            found.append(
                MeasuredFile(
                    codec=codec.name, image=image, quality=quality, width=width, height=height, file=name, **vars(measured)
                )
            )
    return found


def with_scores(
    rows: Iterable[MeasuredFile], codec: ImageCodec, images: Mapping[str, Path], folder: Path, metrics: Mapping[str, Compare]
) -> Iterator[MeasuredFile]:
    """The measurements of files in `folder`, with the scores of more metrics. Raises DkicError: an image can't be read."""
    for row in rows:
        more = score(read_image(images[row.image]).pixels, decode_file(codec, folder, row), metrics)
        yield replace(row, scores={**row.scores, **more})


def decode_file(codec: ImageCodec, folder: Path, row: MeasuredFile) -> np.ndarray:
    """The pixels of a measured file, uint8 `[H, W, 3]`."""
    return codec.decode((folder / row.file).read_bytes())


def _encode(codec: ImageCodec, pixels: np.ndarray, quality: int, file: Path) -> bytes:
    with _failing(codec, file):
        return codec.encode(pixels, quality)


def _decode(codec: ImageCodec, shape: tuple[int, ...], file: Path, data: bytes) -> np.ndarray:
    with _failing(codec, file):
        decoded = codec.decode(data)
    if decoded.shape != shape or decoded.dtype != np.uint8:
        raise Unavailable(f"{file} decodes to {decoded.dtype} {list(decoded.shape)}, not {list(shape)}")
    return decoded


@contextmanager
def _failing(codec: ImageCodec, file: Path) -> Iterator[None]:
    """Raises the various errors of codecs as Unavailable."""
    try:
        yield
    except (DkicError, OSError, ValueError, RuntimeError) as error:
        raise Unavailable(f"{file.name}: {codec.name} failed: {reason(error)}") from error
