"""write_atomically where processes are killed or get in each other's way, and where files must have names."""

import errno
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from nameless_files import need_nameless_files

from dkic.errors import DkicError
from dkic.output_file import write_atomically

DEATH = "os.kill(os.getpid(), signal.SIGKILL)"


def killed(code: str, folder) -> None:
    """Runs code that ends in DEATH, in a process of its own."""
    code = "import os, signal\nfrom dkic.output_file import write_atomically\n" + code
    assert subprocess.run([sys.executable, "-c", code], cwd=folder).returncode == -signal.SIGKILL


def test_killed_in_the_middle_of_writing(tmp_path):
    need_nameless_files(tmp_path)
    killed(f"write_atomically('a', lambda file: (file.write(bytes(10 ** 6)), {DEATH}))", tmp_path)
    assert os.listdir(tmp_path) == []


def test_killed_between_the_two_steps_of_overwriting(tmp_path):
    """A file is left then, and gone when the same is written again, by which no other is touched."""
    need_nameless_files(tmp_path)
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / ".dkic-0123456789abcdef.part").write_bytes(b"another process's")
    killed(f"os.replace = lambda *_: {DEATH}\nwrite_atomically('a', b'new', force=True)", tmp_path)
    assert (tmp_path / "a").read_bytes() == b"old" and len(os.listdir(tmp_path)) == 3
    write_atomically(tmp_path / "b", b"b")
    write_atomically(tmp_path / "b", b"b again", force=True)
    assert len(os.listdir(tmp_path)) == 4
    write_atomically(tmp_path / "a", b"newer", force=True)
    assert (tmp_path / "a").read_bytes() == b"newer"
    assert sorted(os.listdir(tmp_path)) == [".dkic-0123456789abcdef.part", "a", "b"]


def test_many_at_once(tmp_path):
    path, contents = tmp_path / "a", [bytes([i]) * 10_000 for i in range(200)]
    path.write_bytes(b"old")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_atomically(path, content, force=True), contents))
    assert path.read_bytes() in contents and os.listdir(tmp_path) == ["a"]


def test_a_file_that_came_meanwhile_stays_without_force(tmp_path):
    need_nameless_files(tmp_path)
    with pytest.raises(DkicError, match="a: the file exists; overwrite it with --force"):
        write_atomically(tmp_path / "a", lambda file: (tmp_path / "a").write_bytes(b"precious"))
    assert (tmp_path / "a").read_bytes() == b"precious" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("missing", ["files without names", "links", None])
@pytest.mark.parametrize("there", [False, True])
def test_whatever_the_system_can(tmp_path, monkeypatch, missing, there):
    """Content and permissions, and nothing left behind; and so where writing fails."""
    path, opened = tmp_path / "a", os.open

    def refusing(path, flags, *args, **options):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return opened(path, flags, *args, **options)

    def no_link(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if missing == "files without names":
        monkeypatch.setattr(os, "open", refusing)
    elif missing == "links":
        monkeypatch.setattr(os, "link", no_link)
    before, mode = os.umask(0o027), 0o640
    try:
        if there:
            path.write_bytes(b"old")
            path.chmod(mode := 0o604)
        with pytest.raises(RuntimeError):
            write_atomically(path, failing, force=True)
        assert os.listdir(tmp_path) == ["a"] * there
        write_atomically(path, b"new", force=True)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == mode
    assert os.listdir(tmp_path) == ["a"]


def failing(file) -> None:
    file.write(b"some")
    raise RuntimeError
