"""`MeasurementCache` stores the rate and distortion of each image at each operating point on disk.

Each weights file has a text file, `measured-HASH.txt` in dkic's cache folder, with a line for each image, distortion and
operating point: the key of the image (see `key_of`), the distortion's name and value, pixels, bytes, and the CRC-32 of the line
so far. If the operating point's number (see `OperatingPoints.cache_number`) is not 0, it follows the name, as in `lpips@+1`.
Lines are only appended, each in one write, so a run may be killed at any time, and several may run at once. Damaged lines are
ignored. The last line of an image counts.
"""

import hashlib
import zlib
from collections.abc import Iterable
from pathlib import Path

from dkic.errors import DkicError
from dkic.evaluation.measurement import Measurement
from dkic.output_file import reason
from dkic.streams import is_stream

_KEY_BYTES = 16
_CHUNK = 1 << 20
_READING = 2  # to be incremented when a file is read to other pixels, or coded with another profile, than before


def image_key(path: str | Path, icc: str = "keep", background: str | None = None) -> str:
    """`key_of` the file at `path`, independent of its name. Raises DkicError."""
    if is_stream(path):
        raise DkicError(f"{path}: a stream can be read only once, and measuring reads its input twice; save it to a file first")
    try:
        with open(path, "rb") as file:
            return key_of(iter(lambda: file.read(_CHUNK), b""), icc, background)
    except (OSError, ValueError) as error:
        raise DkicError(f"{path}: can't be read ({reason(error)})") from None


def key_of(chunks: Iterable[bytes], icc: str = "keep", background: str | None = None) -> str:
    """First 16 bytes of the SHA-256 of an image file's contents, given in chunks, and of the arguments of `Codec.compress`."""
    digest = hashlib.sha256(f"{_READING} {icc} {background}\n".encode())
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()[:_KEY_BYTES].hex()


class MeasurementCache:
    """Measurements with one weights file and one distortion.

    Args:
        folder: contains the cache file; created if it does not exist.
        model_hash: hash of the weights.
        distortion: name of the score.

    Raises:
        DkicError: the file can't be read or written; so does `add`.
    """

    def __init__(self, folder: Path, model_hash: bytes, distortion: str) -> None:
        self._path = folder / f"measured-{model_hash.hex()}.txt"
        self._distortion = distortion
        self._measurements: dict[tuple[str, int], Measurement] = {}  # by key and number
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a+b") as file:  # fails before the measuring if it can't be written
                file.seek(0)
                for line in file:
                    self._read(line)
        except OSError as error:
            raise self._unusable(error) from None

    def get(self, key: str, number: int = 0) -> Measurement | None:
        """The measurement of the image with this key at the operating point of this number, or None."""
        return self._measurements.get((key, number))

    def add(self, key: str, measurement: Measurement, number: int = 0) -> None:
        """Adds a measurement and writes it immediately."""
        name = f"{self._distortion}@{number:+}" if number else self._distortion
        line = f"{key} {name} {measurement.scores[self._distortion]!r} {measurement.pixels} {measurement.bytes}".encode()
        try:
            with open(self._path, "ab", buffering=0) as file:
                # The line break before it ends an earlier line that was cut short.
                file.write(b"\n%s %08x\n" % (line, zlib.crc32(line)))
        except OSError as error:
            raise self._unusable(error) from None
        self._measurements[key, number] = measurement

    def _read(self, line: bytes) -> None:
        content, _, crc = line.rstrip(b"\n").rpartition(b" ")
        if content and crc == b"%08x" % zlib.crc32(content):
            key, name, distortion, pixels, size = content.decode().split(" ")
            name, _, number = name.partition("@")
            if name == self._distortion:
                self._measurements[key, int(number or 0)] = Measurement(int(pixels), int(size), {name: float(distortion)})

    def _unusable(self, error: OSError) -> DkicError:
        return DkicError(f"{self._path}: can't store measurements ({reason(error)}); set DKIC_CACHE to a writable folder")
