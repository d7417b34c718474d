"""The cache folder, for data that takes long to compute or download and can be created again."""

import os
from pathlib import Path

from dkic.errors import DkicError


def cache_folder() -> Path:
    """$DKIC_CACHE, else the folder dkic in the user's cache folder ($XDG_CACHE_HOME or ~/.cache). It may not exist yet.

    Raises DkicError if the user has no home folder.
    """
    if given := os.environ.get("DKIC_CACHE"):
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dkic"
    except RuntimeError:  # a user without an entry in the system's database, as in containers
        raise DkicError("cache: the user has no home folder for it; set DKIC_CACHE to a folder that can be written") from None
