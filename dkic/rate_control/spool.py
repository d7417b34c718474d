"""`Spool` stores encoded images on disk until their files are written; 100,000 images would not fit in memory."""

import os
from pathlib import Path
from tempfile import TemporaryFile


class Spool:
    """Bytes by number, in one unnamed file, which the system deletes when the process ends.

    Args:
        folder: on the disk to use.

    Raises:
        OSError: the file can't be written or read; so do `put` and `get`.
    """

    def __init__(self, folder: Path) -> None:
        self._file = TemporaryFile(prefix=".dkic-", dir=folder)
        self._places: dict[int, tuple[int, int]] = {}  # offset and length

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, number: int, data: bytes) -> None:
        """Stores data under a number. Earlier data of this number is replaced; its space is not reused."""
        self._places[number] = self._file.seek(0, os.SEEK_END), len(data)
        self._file.write(data)
        self._file.flush()

    def get(self, number: int) -> bytes:
        """The data of a number."""
        begin, length = self._places[number]
        self._file.seek(begin)
        return self._file.read(length)
