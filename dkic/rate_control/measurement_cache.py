"""What pictures cost at a quality level, kept on disk, so that no run measures again what an earlier one did.

There is a text file for each weights file, `measured-HASH.txt` in dkic's cache folder, with a line for each picture, distortion
and qstep: a key of the picture (see `key_of`), the distortion's name and value, pixels, bytes, and the CRC-32 of all that. Where
the qstep is not 0, it follows the name, as in `lpips@+1`; of a variable-rate model 16 * quality - qstep does. Lines are only ever
appended, each by itself, so that a run may be killed at any time, and several may go on at once; a line that is cut short or
otherwise damaged is passed over. The last one of a picture counts.
"""

import hashlib
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dkic.errors import DkicError
from dkic.output_file import reason
from dkic.streams import is_stream

_KEY_BYTES = 16
_CHUNK = 1 << 20
_READING = 2  # another number where a file is read to other pixels, or coded with another profile, than before


class Measurement(NamedTuple):
    """A picture at a quality level and a qstep: pixels, the file's bytes, the distortion of what it decodes to."""

    pixels: int
    bytes: int
    distortion: float


def picture_key(path: str | Path, icc: str = "keep", background: str | None = None) -> str:
    """`key_of` the file at `path`, whatever it is called. Raises DkicError."""
    if is_stream(path):
        raise DkicError(f"{path}: a stream is read once, and measuring reads its input again; save it to a file first")
    try:
        with open(path, "rb") as file:
            return key_of(iter(lambda: file.read(_CHUNK), b""), icc, background)
    except (OSError, ValueError) as error:
        raise DkicError(f"{path}: can't be read ({reason(error)})") from None


def key_of(chunks: Iterable[bytes], icc: str = "keep", background: str | None = None) -> str:
    """The first 16 bytes of a SHA-256 of an image file's contents, given in chunks, and of how `Codec.compress` takes it."""
    digest = hashlib.sha256(f"{_READING} {icc} {background}\n".encode())
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()[:_KEY_BYTES].hex()


class MeasurementCache:
    """The options measured with one weights file, by one distortion.

    Args:
        folder: where its file is, or will be; made where it is not there.
        model_hash: of the weights. distortion: its name.

    Raises:
        DkicError: the file can't be read or written, as with `add`.
    """

    def __init__(self, folder: Path, model_hash: bytes, distortion: str) -> None:
        self._path = folder / f"measured-{model_hash.hex()}.txt"
        self._distortion = distortion
        self._options: dict[tuple[str, int], Measurement] = {}  # by key and qstep
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a+b") as file:  # now is the time to know that it can be written
                file.seek(0)
                for line in file:
                    self._read(line)
        except OSError as error:
            raise self._unusable(error) from None

    def get(self, key: str, qstep: int = 0) -> Measurement | None:
        """The option of the picture with this key, if it is there."""
        return self._options.get((key, qstep))

    def add(self, key: str, option: Measurement, qstep: int = 0) -> None:
        """Takes it in, and writes it at once."""
        name = f"{self._distortion}@{qstep:+}" if qstep else self._distortion
        line = f"{key} {name} {option.distortion!r} {option.pixels} {option.bytes}".encode()
        try:
            with open(self._path, "ab", buffering=0) as file:
                # The line break before it is for an earlier line that was cut short.
                file.write(b"\n%s %08x\n" % (line, zlib.crc32(line)))
        except OSError as error:
            raise self._unusable(error) from None
        self._options[key, qstep] = option

    def _read(self, line: bytes) -> None:
        content, _, crc = line.rstrip(b"\n").rpartition(b" ")
        if content and crc == b"%08x" % zlib.crc32(content):
            key, name, distortion, pixels, size = content.decode().split(" ")
            name, _, qstep = name.partition("@")
            if name == self._distortion:
                self._options[key, int(qstep or 0)] = Measurement(int(pixels), int(size), float(distortion))

    def _unusable(self, error: OSError) -> DkicError:
        where = "set DKIC_CACHE to a folder that can be written"
        return DkicError(f"{self._path}: what is measured can't be kept there ({reason(error)}); {where}")
