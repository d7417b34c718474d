"""What codecs make of pictures: files on disk, decoded again, their size, distortion and seconds."""

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from dkic.coding.image_formats import images_in
from dkic.coding.image_io import read_picture
from dkic.errors import DkicError
from dkic.evaluation.codecs import ImageCodec, Unavailable
from dkic.evaluation.judges import JUDGES, Compare
from dkic.evaluation.metrics import batch
from dkic.output_file import reason, write_atomically


@dataclass(frozen=True)
class Measurement:
    """A file: codec, picture, quality setting; pixels; bytes on disk; distortions, NaN where not defined; seconds."""

    codec: str
    image: str
    quality: int
    width: int
    height: int
    file: str
    bytes: int
    bpp: float
    psnr: float
    ms_ssim: float
    lpips: float
    lpips_vgg: float
    dists: float
    ssimulacra2: float
    encode_seconds: float
    decode_seconds: float


COLUMNS = tuple(field.name for field in fields(Measurement))


def find_pictures(folder: Path) -> dict[str, Path]:
    """The pictures in a folder, by the names they have in the report, in order. Raises DkicError."""
    found: dict[str, Path] = {}
    for path in images_in(folder).images:
        if found.setdefault(path.stem, path) is not path:
            raise DkicError(f"{path} and {found[path.stem]} differ in their suffix alone; give them names of their own")
    return found


def measure(
    codec: ImageCodec,
    pictures: Mapping[str, Path],
    folder: Path,
    judges: Mapping[str, Compare],
    force: bool = False,
    done: Callable[[str], object] = lambda image: None,
) -> list[Measurement]:
    """Every picture at every quality of the codec.

    Args:
        pictures: as `find_pictures` has them. What they mean is their pixels: ICC profiles are left out.
        folder: gets the files, in a folder of the codec's name.
        judges: as `load_judges` returns them; a column without one is NaN.
        done: called after each picture.

    Raises:
        DkicError: a picture can't be read, or a file not written.
        Unavailable: the codec can't code or decode a picture.
    """
    place = folder / re.sub(r"[^\w.-]+", "-", codec.name)
    place.mkdir(parents=True, exist_ok=True)
    found: list[Measurement] = []
    for image, path in pictures.items():
        pixels = read_picture(path).pixels
        if not found:  # what is done only once is no part of a picture's time
            with _failing(codec, file=path):
                codec.decode(codec.encode(pixels, codec.qualities[0]))
        height, width = pixels.shape[:2]
        files = [place / f"{image}-q{quality}{codec.suffix}" for quality in codec.qualities]
        decoded, seconds = [], []
        for quality, file in zip(codec.qualities, files, strict=True):
            result, *took = _coded(codec, pixels, quality, file, force)
            decoded.append(result)
            seconds.append(took)
        judged = _judged(pixels, decoded, judges)
        for quality, file, values, (encoding, decoding) in zip(codec.qualities, files, judged, seconds, strict=True):
            size, name = file.stat().st_size, str(file.relative_to(folder))
            bpp = size * 8 / (width * height)
            row: dict[str, Any] = {"codec": codec.name, "image": image, "quality": quality, "file": name, **values}
            row |= {"width": width, "height": height, "bytes": size, "bpp": bpp}
            row |= {"encode_seconds": encoding, "decode_seconds": decoding}
            found.append(Measurement(**row))
        done(image)
    return found


def judged(
    rows: Iterable[Measurement], codec: ImageCodec, pictures: Mapping[str, Path], folder: Path, judges: Mapping[str, Compare]
) -> Iterator[Measurement]:
    """The measurements of files in `folder`, with the values of more judges. Raises DkicError: a picture can't be read."""
    for row in rows:
        x, x_hat = batch(read_picture(pictures[row.image]).pixels), batch(decode_file(codec, folder, row))
        values: dict[str, Any] = {name: judge(x, x_hat).item() for name, judge in judges.items()}
        yield replace(row, **values)


def decode_file(codec: ImageCodec, folder: Path, row: Measurement) -> np.ndarray:
    """The pixels of a measured file, uint8 `[H, W, 3]`."""
    return codec.decode((folder / row.file).read_bytes())


def _coded(codec: ImageCodec, pixels: np.ndarray, quality: int, file: Path, force: bool) -> tuple[np.ndarray, float, float]:
    """Writes the file; what it decodes to, and the seconds of encoding and decoding."""
    with _failing(codec, file):
        start = time.perf_counter()
        data = codec.encode(pixels, quality)
        encode_seconds = time.perf_counter() - start
    write_atomically(file, data, force)
    data = file.read_bytes()
    with _failing(codec, file):
        start = time.perf_counter()
        decoded = codec.decode(data)
        decode_seconds = time.perf_counter() - start
    if decoded.shape != pixels.shape or decoded.dtype != np.uint8:
        raise Unavailable(f"{file} decodes to {decoded.dtype} {list(decoded.shape)}, not {list(pixels.shape)}")
    return decoded, encode_seconds, decode_seconds


@contextmanager
def _failing(codec: ImageCodec, file: Path) -> Iterator[None]:
    """What coders raise, each its own, as Unavailable."""
    try:
        yield
    except (DkicError, OSError, ValueError, RuntimeError) as error:
        raise Unavailable(f"{file.name}: {codec.name} failed: {reason(error)}") from error


def _judged(pixels: np.ndarray, decoded: list[np.ndarray], judges: Mapping[str, Compare]) -> Iterator[dict[str, float]]:
    """Each judge's value of each decoded picture, one by one for the sake of memory: "lpips_vgg" takes 0.7 GB for 768x512."""
    x = batch(pixels)
    for own in decoded:
        x_hat = batch(own)
        yield {name: judges[name](x, x_hat).item() if name in judges else math.nan for name in JUDGES}
