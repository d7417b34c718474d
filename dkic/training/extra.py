"""The packages that training needs beside dkic's own."""

import sys
from importlib.util import find_spec

from dkic.errors import DkicError, install

PACKAGES = ("pydantic", "accelerate", "tensorboard", "tomllib" if sys.version_info >= (3, 11) else "tomli")


def check_train_extra() -> None:
    """Raises DkicError where one is missing. Those of the judges that a recipe weighs are looked for when these are loaded."""
    for package in PACKAGES:
        if find_spec(package) is None:
            raise DkicError(f"training: needs {package}; {install('train')}")
