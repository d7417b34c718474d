"""Reading the .dkic file that a command is given."""

from dkic.errors import DkicError


def read_dkic(path: str) -> bytes:
    """The file's bytes; of another kind of file only the first few."""
    from dkic.coding.container import MAGIC

    try:
        with open(path, "rb") as file:
            start = file.read(len(MAGIC))
            # Not read further where it is something else: it could be a film.
            return start + file.read() if start == MAGIC or len(start) < len(MAGIC) else start
    except (OSError, ValueError) as error:
        raise DkicError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error})") from None
