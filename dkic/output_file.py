"""Atomic writing of files, and writing to pipes and devices."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO

from dkic.errors import DkicError
from dkic.streams import descriptor_of, is_stream, open_stream


def write_atomically(path: str | os.PathLike[str], data: bytes | Callable[[IO[bytes]], object], force: bool = False) -> None:
    """Writes `data`, or what `data(file)` writes, to a temporary file beside `path`, which then becomes `path`.

    `path` is never incomplete. Nothing is left behind if writing fails; the temporary file that a killed process leaves
    is removed by the next one that writes to the same path. A symbolic link is kept, and its target is written. An open
    file (/dev/stdout), a pipe or a character device is written directly, after all of `data` exists. Raises DkicError, which
    begins with the path, if `check_output` or the system raises; errors of `data` pass through.
    """
    target = check_output(path, force)
    if is_stream(path):
        _write_stream(path, data)
        return
    try:
        part, file = _temporary_file(target)
        with file:
            try:
                if callable(data):
                    data(file)
                else:
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())  # network file systems report a full disk only now
                _set_permissions(file, target)
                if force:
                    os.replace(part, target)
                else:
                    _put_in_place(part, target, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    part.unlink()  # while it is locked; afterwards it may be another process' file of the same name
                raise
    except OSError as error:
        raise DkicError(f"{path}: can't be written ({reason(error)})") from error


def _put_in_place(part: Path, target: Path, path: str | os.PathLike[str]) -> None:
    """Renames the file, unless the name has been taken. Raises DkicError."""
    try:
        os.link(part, target)
    except FileExistsError:
        check_output(path)
        raise
    except OSError:  # a file system without hard links
        check_output(path)
        os.replace(part, target)
    else:
        part.unlink()


def _temporary_file(target: Path) -> tuple[Path, IO[bytes]]:
    """A new file in the target's folder, locked. Its name is fixed, so that a leftover is found and removed.

    The name is random if another process is writing to the same target, or the name is taken otherwise.
    """
    name = f".dkic-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}"
    part = target.with_name(f"{name}.part")
    with contextlib.suppress(OSError):
        _remove_if_left(part)
    with contextlib.suppress(FileExistsError):
        file = open(part, "x+b")
        if _owned(file, part, created=True):
            return part, file
        file.close()
    part = target.with_name(f"{name}-{secrets.token_hex(8)}.part")
    return part, open(part, "x+b")


def _remove_if_left(part: Path) -> None:
    """Removes a temporary file that no process writes to. Raises OSError.

    It is never written to: in a folder that others can write to, it may be a link, or somebody else's file.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a lock over a network needs it open for writing
    with open(os.open(part, flags), "rb", buffering=0) as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode) and _owned(file, part, created=False):
            part.unlink()


def _owned(file: IO[bytes], part: Path, created: bool) -> bool:
    """Whether an open file is now locked by this process and still has its name."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return created
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(part))
    except FileNotFoundError:
        return False


def _write_stream(path: str | os.PathLike[str], data: bytes | Callable[[IO[bytes]], object]) -> None:
    if callable(data):
        content = io.BytesIO()  # writers may seek
        data(content)
        data = content.getvalue()
    try:
        with open_stream(path) as file:
            file.write(data)
    except OSError as error:
        raise DkicError(f"{path}: can't be written ({reason(error)})") from error


def _set_permissions(file: IO[bytes], target: Path) -> None:
    """Permissions of the file that is overwritten, or those of the umask."""
    if target.exists():
        os.chmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))


def check_output(path: str | os.PathLike[str], force: bool = False) -> Path:
    """The file that writing to `path` creates, after following links. Cheap: call it before long computations.

    A stream (see `dkic.streams`) is always accepted. Raises DkicError if nothing can be
    written: no such directory, `path` is a directory, a block device or a socket, an open file that was closed, or a
    file that exists, and `force` is false.
    """
    try:
        if is_stream(path):
            if (descriptor := descriptor_of(path)) is not None:
                os.fstat(descriptor)
            return Path(path)
        target = Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise DkicError(f"{path}: can't be written ({reason(error)})") from error
    if not os.path.isdir(target.parent):
        raise DkicError(f"{path}: the directory {target.parent} does not exist; make it first")
    if os.path.isdir(target):
        raise DkicError(f"{path}: this is a directory; give the name of a file")
    if os.path.exists(target) and not os.path.isfile(target):
        raise DkicError(f"{path}: this is neither a regular file, a pipe nor a character device; name another file")
    if os.path.exists(target) and not force:
        raise DkicError(f"{path}: the file exists; overwrite it with --force (force=True in Python)")
    return target


def reason(error: BaseException) -> str:
    """The reason of an error, in one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text.splitlines()[0]


def make_folder(path: Path) -> None:
    """Creates the folder `path` and its parents if they do not exist. Raises DkicError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DkicError(f"{path}: the folder can't be made ({error.strerror})") from None
