"""Time and memory of dkic, AVIF and HEVC on one photograph in three sizes, at equal file sizes.

    python -m benchmarks.image_sizes PHOTO --quality 40 --threads 2 > benchmarks/results/image_sizes.csv

A StoredTable: seconds to encode and to decode, medians of complete calls from pixels in memory to bytes and back (for HEVC
including the start of ffmpeg); and the peak memory of both beyond a process with Python and torch, including the model's weights
(for HEVC the memory of ffmpeg). The peers use the setting with the nearest file size.
"""

import contextlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image, ImageOps

from benchmarks.source_commit import source_commit
from benchmarks.stored_table import StoredTable
from dkic.coding.image_reading import read_image
from dkic.doctor import processor
from dkic.errors import DkicError
from dkic.evaluation.by_ffmpeg import ByFfmpeg
from dkic.evaluation.classical import ByPillow
from dkic.evaluation.codecs import ImageCodec, make_codec
from dkic.memory import give_back_freed_memory, keep_freed_memory

SIZES = ((768, 512), (1920, 1080), (3840, 2160))
OURS = "dkic:small"
PEERS = {"AVIF, libaom speed 4": ("avif", 4), "AVIF, libaom speed 6": ("avif", 6), "HEVC 4:4:4, x265 veryslow": ("hevc444", None)}
# From few to many bits, beyond the settings of an evaluation.
SETTINGS = {"avif": range(1, 100), "hevc444": range(51, 0, -1)}


def codec_of(name: str, speed: int | None) -> ImageCodec:
    """A codec of the evaluation; speed: AVIF's, instead of the default."""
    codec = make_codec(name)
    if speed is None:
        return codec
    assert isinstance(codec, ByPillow)
    return replace(codec, options=lambda quality: codec.options(quality) | {"speed": speed})


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The photograph scaled to cover a size, and cropped to it from the center."""
    return np.asarray(ImageOps.fit(Image.fromarray(pixels), size, Image.Resampling.LANCZOS))


def nearest_setting(codec: ImageCodec, settings: range, pixels: np.ndarray, size: int) -> int:
    """The setting whose file has the number of bytes nearest to `size`, by bisection."""
    sizes: dict[int, int] = {}

    def size_at(i: int) -> int:
        if i not in sizes:
            sizes[i] = len(codec.encode(pixels, settings[i]))
        return sizes[i]

    low, high = 0, len(settings) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size_at(middle) <= size else (low, middle)
    return settings[min((low, high), key=lambda i: abs(size_at(i) - size))]


def seconds(call: Callable[[], object]) -> float:
    """The median time of the calls that fit into 6 seconds, at least three."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < 6:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _status(pid: int | str, key: str) -> int:
    """Bytes of a process' memory, from a key of /proc/PID/status."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


@contextlib.contextmanager
def most_memory_of(program: str) -> Iterator[list[int]]:
    """Context manager: peak memory of processes of this program that are started inside; sampled every millisecond."""
    found, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.001):
            for children in Path("/proc/self/task").glob("*/children"):
                with contextlib.suppress(OSError, ValueError):  # a process that has ended
                    for pid in children.read_text().split():
                        # Before exec it is still a copy of this process.
                        if Path(f"/proc/{pid}/exe").resolve() == Path(program).resolve():
                            found[0] = max(found[0], _status(pid, "VmHWM"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def memory(name: str, speed: int | None, setting: int, path: Path) -> int:
    """Peak memory of encoding and of decoding in bytes, beyond this process' memory before."""
    pixels = read_image(path).pixels
    give_back_freed_memory()  # of decoding the photograph
    if name == "hevc444":
        codec = make_codec(name)
        assert isinstance(codec, ByFfmpeg)
        with most_memory_of(codec.executable) as found:
            codec.decode(codec.encode(pixels, setting))
        return found[0]
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = _status("self", "VmRSS")
    codec = codec_of(name, speed)
    codec.decode(codec.encode(pixels, setting))
    return _status("self", "VmHWM") - before


@click.command()
@click.argument("photo", type=click.Path(path_type=Path))
@click.option("--quality", type=int, default=40, show_default=True, help="Of dkic, as dkic evaluate has them.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--memory-of", nargs=3, hidden=True, help="For a process of its own: codec, speed and setting, of PHOTO as it is.")
def main(photo: Path, quality: int, threads: int, memory_of: tuple[str, str, str] | None) -> None:
    """Time the codecs on PHOTO, of at least 3840x2160 pixels if nothing is to be enlarged."""
    keep_freed_memory()  # as the `dkic` command does
    torch.set_num_threads(threads)
    if memory_of:
        name, speed, setting = memory_of
        print(memory(name, int(speed) if speed != "-" else None, int(setting), photo))
        return
    try:
        with tempfile.TemporaryDirectory() as folder:
            print(measured(read_image(photo).pixels, quality, threads, Path(folder)).text(), end="")
    except DkicError as error:
        raise click.ClickException(str(error)) from None


def measured(photo: np.ndarray, quality: int, threads: int, folder: Path) -> StoredTable:
    """The table; folder: gets the photograph in each size."""
    if quality not in (known := make_codec(OURS).qualities):
        raise DkicError(f"--quality: {quality} is not evaluated; give one of {', '.join(map(str, known))}")
    codecs = {f"dkic, quality {quality}": (OURS, None), **PEERS}
    cells: dict[str, list[str]] = {label: [] for label in codecs}
    for size in SIZES:
        pixels = resized(photo, size)
        path = folder / f"{size[0]}x{size[1]}.png"
        Image.fromarray(pixels).save(path)
        ours = len(make_codec(OURS).encode(pixels, quality))
        for label, (name, speed) in codecs.items():
            codec = codec_of(name, speed)
            setting = quality if name == OURS else nearest_setting(codec, SETTINGS[name], pixels, ours)
            data = codec.encode(pixels, setting)
            assert codec.decode(data).shape == pixels.shape
            took = [seconds(partial(codec.encode, pixels, setting)), seconds(partial(codec.decode, data))]
            held = _in_a_process(path, threads, name, speed, setting)
            bpp = len(data) * 8 / pixels[..., 0].size
            cells[label].append(f"{took[0]:.2f} / {took[1]:.2f} s, {held / 1e6:.0f} MB")
            at = f"{size[0]}x{size[1]}, setting {setting}, {bpp:.3f} bits per pixel"
            print(f"{label}, {at}: {cells[label][-1]}", file=sys.stderr)
    command = f"python -m benchmarks.image_sizes PHOTO --quality {quality} --threads {threads}"
    machine = f"{processor()}, {threads} thread{'s' * (threads > 1)}"
    columns = ("codec", *(f"{width}x{height}" for width, height in SIZES))
    rows = tuple((label, *row) for label, row in cells.items())
    return StoredTable(command, machine, f"PyTorch {torch.__version__}", source_commit(), columns, rows)


def _in_a_process(path: Path, threads: int, name: str, speed: int | None, setting: int) -> int:
    what = [name, "-" if speed is None else str(speed), str(setting)]
    command = [sys.executable, "-m", "benchmarks.image_sizes", str(path), "--threads", str(threads), "--memory-of", *what]
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


if __name__ == "__main__":
    main()
