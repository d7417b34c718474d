"""The packages of the extra `[train]`."""

import sys
from importlib.util import find_spec

from dkic.errors import DkicError, install

PACKAGES = ("pydantic", "accelerate", "tensorboard", "tomllib" if sys.version_info >= (3, 11) else "tomli")


def check_train_extra() -> None:
    """Checks that the packages for training are installed; those of perceptual metrics are checked when the metrics are loaded.

    Raises:
        DkicError: a package is missing.
    """
    for package in PACKAGES:
        if find_spec(package) is None:
            raise DkicError(f"training: needs {package}; {install('train')}")
