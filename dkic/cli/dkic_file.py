"""Reading the .dkic files that a command is given."""

from pathlib import Path

from dkic.errors import DkicError
from dkic.output_file import reason
from dkic.streams import open_input


def read_dkic(path: str) -> bytes:
    """The file's bytes; of another kind of file only the first few."""
    from dkic.coding.container import MAGIC

    try:
        with open_input(path) as file:
            start = file.read(len(MAGIC))
            # Not read further where it is something else: it could be a film.
            return start + file.read() if start == MAGIC or len(start) < len(MAGIC) else start
    except (OSError, ValueError) as error:
        raise DkicError(f"{path}: can't be read ({reason(error)})") from None


def dkic_files_in(folder: str) -> list[Path]:
    """The .dkic files in a folder, sorted; hidden files and subfolders are left out. Raises DkicError where there is none."""
    try:
        found = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() == ".dkic" and path.name[0] != ".")
    except OSError as error:
        raise DkicError(f"{folder}: can't be read ({reason(error)})") from None
    if not found:
        raise DkicError(f"{folder}: no .dkic files in it; name another folder, or a file")
    return found
