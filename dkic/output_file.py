"""Writing a file whole or not at all; or, where there is no file to keep whole, to a pipe or device."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO

from dkic.errors import DkicError
from dkic.streams import descriptor_of, is_stream, open_stream


def write_atomically(
    path: str | os.PathLike[str], data: bytes | Callable[[IO[bytes]], object], force: bool = False
) -> None:
    """Writes `data`, or what `data(file)` writes, to a file in the directory of `path`, which then becomes `path`.

    So `path` is never there in part, and nothing is left behind when writing fails; nor when the process is killed,
    where the file system knows files without names (ext4, XFS, Btrfs and tmpfs do, NFS does not). A symbolic link
    stays one, and what it points to is written. An open file (/dev/stdout), a pipe or a character device is written
    directly, once all of `data` is there. Raises DkicError, which begins with the path, where `check_output`
    or the system does; what `data` raises of its own passes through.
    """
    target = check_output(path, force)
    if is_stream(path):
        _write_stream(path, data)
        return
    part = target.with_name(f".dkic-{secrets.token_hex(8)}.part")
    try:
        nameless = _nameless(target.parent)
        with nameless or open(part, "x+b") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())  # a network's file system says only now that there is no room
            _keep_permissions(file, target)
            if nameless and _named(file, path, target, force):
                return
            if nameless:
                with open(part, "xb") as copy:
                    file.seek(0)
                    shutil.copyfileobj(file, copy)
                    _keep_permissions(copy, target)
        os.replace(part, target)
    except OSError as error:
        raise DkicError(f"{path}: can't be written ({reason(error)})") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


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


def _nameless(folder: Path) -> IO[bytes] | None:
    """A new file without a name, which is gone with the process; None where there can be none.

    Not tempfile's, whose permissions are 0600: it gets those of the umask.
    """
    try:
        return open(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666), "w+b")
    except (AttributeError, OSError):  # not Linux, not such a file system; or what a file with a name fails for as well
        return None


def _keep_permissions(file: IO[bytes], target: Path) -> None:
    """Those of the file that it overwrites."""
    if target.exists():
        os.chmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))


def _named(file: IO[bytes], path: str | os.PathLike[str], target: Path, force: bool) -> bool:
    """Makes a file without a name `target`; False where that can't be, for want of /proc, say."""

    def link(name: Path) -> None:
        # Without a directory's descriptor os.link would link to the entry in /proc, not to what that stands for.
        os.link(f"/proc/self/fd/{file.fileno()}", name, src_dir_fd=file.fileno(), follow_symlinks=True)

    try:
        with contextlib.suppress(FileExistsError):
            link(target)
            return True
        check_output(path, force)
        # To replace a file takes a name in between. It is always the same for a target: where a process was killed between
        # the two steps, the next one finds what that left, a whole file, and puts it in place first.
        part = target.with_name(f".dkic-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}.part")
        while True:
            with contextlib.suppress(FileExistsError):
                link(part)
                break
            with contextlib.suppress(FileNotFoundError):
                os.replace(part, target)
    except OSError:
        return False
    try:
        with contextlib.suppress(FileNotFoundError):  # another process put it in place
            os.replace(part, target)
    except OSError:
        part.unlink()
        raise
    return True


def check_output(path: str | os.PathLike[str], force: bool = False) -> Path:
    """The file that writing to `path` makes, links followed; it is cheap, so call it before long work too.

    A stream (see `dkic.streams`) is written as it is, with `force` and without. Raises DkicError where nothing can be
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
        raise DkicError(f"{path}: this is a directory, and the name of a file is needed")
    if os.path.exists(target) and not os.path.isfile(target):
        raise DkicError(f"{path}: this is neither a regular file, a pipe nor a character device; name another file")
    if os.path.exists(target) and not force:
        raise DkicError(f"{path}: the file exists; overwrite it with --force (force=True in Python)")
    return target


def reason(error: BaseException) -> str:
    """What went wrong, in one line, for a sentence of ours."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text.splitlines()[0]


def make_folder(path: Path) -> None:
    """Makes the folder `path` and those it lies in, where they do not exist. Raises DkicError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DkicError(f"{path}: the folder can't be made ({error.strerror})") from None
