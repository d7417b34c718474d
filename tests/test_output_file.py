"""write_atomically when processes are killed, and with concurrent writers."""

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from dkic.errors import DkicError
from dkic.output_file import write_atomically

DEATH = "os.kill(os.getpid(), signal.SIGKILL)"


def killed(code: str, folder) -> None:
    """Runs code that ends in DEATH, in a new process."""
    code = "import os, signal\nfrom dkic.output_file import write_atomically\n" + code
    assert subprocess.run([sys.executable, "-c", code], cwd=folder).returncode == -signal.SIGKILL


def test_killed_in_the_middle_of_writing(tmp_path):
    """No file of that name exists. The leftover is removed when the file is written again; other files are not touched."""
    (tmp_path / ".dkic-0123456789abcdef.part").write_bytes(b"another file's")
    killed(f"write_atomically('a', lambda file: (file.write(bytes(10 ** 6)), file.flush(), {DEATH}))", tmp_path)
    assert len(os.listdir(tmp_path)) == 2 and not (tmp_path / "a").exists()
    write_atomically(tmp_path / "b", b"b")
    assert len(os.listdir(tmp_path)) == 3
    write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == [".dkic-0123456789abcdef.part", "a", "b"]


def test_killed_before_a_file_is_overwritten(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    killed(f"os.replace = lambda *_: {DEATH}\nwrite_atomically('a', b'new', force=True)", tmp_path)
    assert (tmp_path / "a").read_bytes() == b"old" and len(os.listdir(tmp_path)) == 2
    write_atomically(tmp_path / "a", b"newer", force=True)
    assert (tmp_path / "a").read_bytes() == b"newer" and os.listdir(tmp_path) == ["a"]


def test_another_process_writes_the_same_file(tmp_path):
    """Each process writes a complete file; the last one remains."""

    def meanwhile(file):
        file.write(b"first")
        write_atomically(tmp_path / "a", b"second", force=True)
        assert (tmp_path / "a").read_bytes() == b"second"

    write_atomically(tmp_path / "a", meanwhile, force=True)
    assert (tmp_path / "a").read_bytes() == b"first" and os.listdir(tmp_path) == ["a"]


def test_many_concurrent_writers(tmp_path):
    path, contents = tmp_path / "a", [bytes([i]) * 10_000 for i in range(200)]
    path.write_bytes(b"old")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_atomically(path, content, force=True), contents))
    assert path.read_bytes() in contents and os.listdir(tmp_path) == ["a"]


def test_a_file_created_meanwhile_is_kept_without_force(tmp_path):
    with pytest.raises(DkicError, match="a: the file exists; overwrite it with --force"):
        write_atomically(tmp_path / "a", lambda file: (tmp_path / "a").write_bytes(b"precious"))
    assert (tmp_path / "a").read_bytes() == b"precious" and os.listdir(tmp_path) == ["a"]


def temporary_name(folder) -> str:
    """That of the temporary file of `a`."""
    names: list[str] = []
    write_atomically(folder / "a", lambda file: names.extend(os.listdir(folder)))
    (folder / "a").unlink()
    return names[0]


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_with_the_temporary_name_is_not_followed(tmp_path, link):
    """Any user who may write to the folder could create one."""
    (tmp_path / "out").mkdir()
    name, precious = temporary_name(tmp_path / "out"), tmp_path / "precious"
    precious.write_bytes(b"precious")
    link(precious, tmp_path / "out" / name)
    write_atomically(tmp_path / "out" / "a", b"new")
    assert precious.read_bytes() == b"precious"
    written = tmp_path / "out" / "a"
    assert written.read_bytes() == b"new" and not written.is_symlink() and written.stat().st_nlink == 1


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_other_files_with_the_temporary_name(tmp_path, make):
    make(tmp_path / temporary_name(tmp_path))
    write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_permissions_of_a_leftover_file_are_not_inherited(tmp_path):
    left = tmp_path / temporary_name(tmp_path)
    left.touch()
    left.chmod(0o666)
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "a", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600 and os.listdir(tmp_path) == ["a"]


def test_a_failure_leaves_the_temporary_file_of_another_writer(tmp_path, monkeypatch):
    """The failed file is removed while it is locked, so no other writer uses its name yet."""
    name, removed_while_locked = temporary_name(tmp_path), []
    unlink = type(tmp_path).unlink

    def checked(path, *options) -> None:
        with open(path, "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                removed_while_locked.append(path.name)
        unlink(path, *options)

    monkeypatch.setattr(type(tmp_path), "unlink", checked)
    with pytest.raises(RuntimeError):
        write_atomically(tmp_path / "a", failing)
    assert removed_while_locked == [name] and os.listdir(tmp_path) == []


@pytest.mark.parametrize("links", [True, False])
def test_a_file_created_at_the_last_moment_is_kept_without_force(tmp_path, monkeypatch, links):
    def arrives(*_):
        (tmp_path / "a").write_bytes(b"precious")
        raise FileExistsError(errno.EEXIST, "File exists") if links else PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", arrives)
    with pytest.raises(DkicError, match="a: the file exists; overwrite it with --force"):
        write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"precious" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize("there", [False, True])
def test_content_and_permissions(tmp_path, monkeypatch, locks, there):
    """No file is left behind, also if writing fails, and on a file system without locks."""
    path = tmp_path / "a"
    if not locks:

        def no_lock(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", no_lock)
    before, mode = os.umask(0o027), 0o640
    try:
        if there:
            path.write_bytes(b"old")
            path.chmod(mode := 0o604)
        with pytest.raises(RuntimeError):
            write_atomically(path, failing, force=True)
        assert [name for name in os.listdir(tmp_path) if name == "a"] == ["a"] * there
        write_atomically(path, b"new", force=True)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == mode
    assert len(os.listdir(tmp_path)) == 1


def failing(file) -> None:
    file.write(b"some")
    raise RuntimeError
