"""Reads the .dkic files that are given to a command."""

from pathlib import Path

from dkic.errors import DkicError
from dkic.output_file import reason
from dkic.streams import open_input


def read_dkic(path: str) -> bytes:
    """Contents of a file; only the first bytes if it is not a .dkic file. Raises DkicError."""
    from dkic.coding.container import MAGIC

    try:
        with open_input(path) as file:
            start = file.read(len(MAGIC))
            # Another kind of file is not read to its end: it could be a large video.
            return start + file.read() if start == MAGIC or len(start) < len(MAGIC) else start
    except (OSError, ValueError) as error:
        raise DkicError(f"{path}: can't be read ({reason(error)})") from None


def dkic_files_in(folder: str) -> list[Path]:
    """The .dkic files in a folder, sorted, without hidden files and subfolders. Raises DkicError if there are none."""
    try:
        found = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() == ".dkic" and path.name[0] != ".")
    except OSError as error:
        raise DkicError(f"{folder}: can't be read ({reason(error)})") from None
    if not found:
        raise DkicError(f"{folder}: the folder contains no .dkic files; give another folder, or a file")
    return found
