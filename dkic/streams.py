"""Streams: open files of this process (/dev/stdin, /dev/stdout, /dev/fd/3), pipes and character devices.

A stream is read or written once, in order. An open file is used through its descriptor: reopening its path fails for sockets
and truncates the target of `>> file`.
"""

import os
import re
import stat
from typing import IO

_MOST_LINKS = 40  # as in Linux
_OPEN_FILE = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")


def descriptor_of(path: str | os.PathLike[str]) -> int | None:
    """The descriptor that `path` names, after following symbolic links such as /dev/stdout; None for other paths."""
    name = os.path.abspath(path)
    for _ in range(_MOST_LINKS):
        if found := _OPEN_FILE.fullmatch(name):
            return int(found[1])
        try:
            name = os.path.abspath(os.path.join(os.path.dirname(name), os.readlink(name)))
        except (OSError, ValueError):  # not a link
            return None
    return None


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether `path` names an open file, a pipe or a character device."""
    if descriptor_of(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def is_terminal(path: str | os.PathLike[str]) -> bool:
    """Whether `path` names a terminal, such as /dev/tty or an unredirected /dev/stdout."""
    descriptor = descriptor_of(path)
    if descriptor is not None:
        return os.isatty(descriptor)
    try:
        if not stat.S_ISCHR(os.stat(path).st_mode):
            return False
        opened = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except (OSError, ValueError):
        return False
    try:
        return os.isatty(opened)
    finally:
        os.close(opened)


def open_input(path: str | os.PathLike[str]) -> IO[bytes]:
    """`path` opened for reading; an open file is read from its current position. Raises OSError and ValueError as `open` does."""
    return _opened(path, "rb")


def open_stream(path: str | os.PathLike[str]) -> IO[bytes]:
    """A stream opened for writing; an open file is written at its current position. Raises OSError."""
    return _opened(path, "wb")


def _opened(path: str | os.PathLike[str], mode: str) -> IO[bytes]:
    descriptor = descriptor_of(path)
    return open(path if descriptor is None else os.dup(descriptor), mode)
