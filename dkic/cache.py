"""Where dkic keeps what takes long to make or to fetch and can be had again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$DKIC_CACHE, else dkic in the user's cache folder ($XDG_CACHE_HOME or ~/.cache). It need not exist."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("DKIC_CACHE") or caches / "dkic")
