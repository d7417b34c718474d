"""Recipes as TOML files."""

import sys
from pathlib import Path

from dkic.errors import DkicError
from dkic.output_file import reason
from dkic.training.recipe import Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_recipe(path: str | Path) -> Recipe:
    """Reads a recipe from a TOML file.

    Raises:
        DkicError: the file can't be read or is not a valid recipe; the message starts with the path.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DkicError(f"{path}: can't be read ({reason(error)})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DkicError(f"{path}: not TOML ({reason(error)})") from None
    try:
        return Recipe.of(values)
    except DkicError as error:
        raise DkicError(f"{path}: {error}") from None
