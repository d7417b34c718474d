"""Writing a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

from dkic.errors import DkicError


def write_atomically(
    path: str | os.PathLike[str], data: bytes | Callable[[IO[bytes]], object], force: bool = False
) -> None:
    """Writes `data`, or what `data(file)` writes, to a file beside `path`, then renames that to `path`.

    So `path` is never there in part, and nothing is left behind when writing fails. A symbolic link stays
    one, and what it points to is written. Raises DkicError, which begins with the path, where `check_output`
    or the system does; what `data` raises of its own passes through.
    """
    target = check_output(path, force)
    part = target.with_name(f".dkic-{secrets.token_hex(8)}.part")
    try:
        # Not tempfile's 0600: a new file gets the permissions of the umask, an overwritten one keeps its own.
        with open(part, "x+b") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
        if target.exists():
            shutil.copymode(target, part)
        os.replace(part, target)
    except OSError as error:
        raise DkicError(f"{path}: can't be written ({reason(error)})") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def check_output(path: str | os.PathLike[str], force: bool = False) -> Path:
    """The file that writing to `path` makes, links followed; it is cheap, so call it before long work too.

    Raises DkicError where that can't be: no such directory, or `path` is a directory or a device, or it
    exists and `force` is false.
    """
    try:
        target = Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise DkicError(f"{path}: can't be written ({reason(error)})") from error
    if not os.path.isdir(target.parent):
        raise DkicError(f"{path}: the directory {target.parent} does not exist; make it first")
    if os.path.isdir(target):
        raise DkicError(f"{path}: this is a directory, and the name of a file is needed")
    if os.path.exists(target) and not os.path.isfile(target):
        raise DkicError(f"{path}: this is not a regular file, and dkic writes no other")
    if os.path.exists(target) and not force:
        raise DkicError(f"{path}: the file exists; overwrite it with --force (force=True in Python)")
    return target


def reason(error: BaseException) -> str:
    """What went wrong, in one line, for a sentence of ours."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text.splitlines()[0]
