"""What was coded until its files are written: on disk, for it may be that of 100,000 pictures."""

import os
from pathlib import Path
from tempfile import TemporaryFile


class Spool:
    """Bytes by number, in one file without a name: whatever becomes of the process, nothing of it is left.

    Args:
        folder: on whose disk it is.

    Raises:
        OSError: it can't be written there, as with `put` and `get`.
    """

    def __init__(self, folder: Path) -> None:
        self._file = TemporaryFile(prefix=".dkic-", dir=folder)
        self._places: dict[int, tuple[int, int]] = {}  # begin and length

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, number: int, data: bytes) -> None:
        """In place of what it had by this number, whose room is not used again."""
        self._places[number] = self._file.seek(0, os.SEEK_END), len(data)
        self._file.write(data)
        self._file.flush()

    def get(self, number: int) -> bytes:
        begin, length = self._places[number]
        self._file.seek(begin)
        return self._file.read(length)
