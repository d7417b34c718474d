"""The cache folder, for data that takes long to compute or download and can be created again."""

import os
from pathlib import Path

from dkic.errors import DkicError


def cache_folder() -> Path:
    """$DKIC_CACHE, else dkic in the user's cache folder ($XDG_CACHE_HOME or ~/.cache). It need not exist.

    Raises DkicError where none of them is known.
    """
    if given := os.environ.get("DKIC_CACHE"):
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dkic"
    except RuntimeError:  # a user whom the system does not know, as in containers
        raise DkicError("the user has no home folder for a cache; set DKIC_CACHE to a folder that can be written") from None
