"""Inputs and outputs of `dkic compress`, `decompress` and `info`: default outputs, `-`, pipes and devices."""

import contextlib
import io
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Result, dkic
from photographs import crop
from PIL import Image
from standard_streams import replace, stdin  # noqa: F401 (a fixture)

from dkic.coding.container import unpack


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DKIC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """images/a.png, images/b.jpg and images/notes.txt."""
    (tmp_path / "images").mkdir()
    Image.fromarray(crop(48, 64)).save(tmp_path / "images/a.png")
    Image.fromarray(crop(50, 30)).save(tmp_path / "images/b.jpg", quality=95)
    (tmp_path / "images/notes.txt").write_text("no image\n")
    return tmp_path / "images"


@pytest.fixture
def coded(folder) -> Path:
    path = folder / "a.dkic"
    assert dkic("compress", folder / "a.png").status == 0
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def wrong_usage(*arguments: object) -> str:
    result = dkic(*arguments)
    assert result.status == 2 and result.out == "", result
    return result.err.splitlines()[-1]


def shown(data: bytes) -> tuple[str | None, tuple[int, int]]:
    """Format and size of an image file's bytes."""
    with Image.open(io.BytesIO(data)) as image:
        return image.format, image.size


# Without -o


def test_outputs_are_next_to_their_inputs(folder):
    result = dkic("compress", folder / "a.png", folder / "b.jpg", "-q", 1)
    assert (result.status, result.err) == (0, "")
    assert [line.partition(": ")[0] for line in result.out.splitlines()] == [
        f"{folder / 'a.png'} -> {folder / 'a.dkic'}",
        f"{folder / 'b.jpg'} -> {folder / 'b.dkic'}",
    ]
    (folder / "a.png").unlink()
    assert dkic("decompress", folder / "a.dkic", folder / "b.dkic").status == 0
    assert names(folder) == ["a.dkic", "a.png", "b.dkic", "b.jpg", "b.png", "notes.txt"]


def test_nothing_is_overwritten_without_force(folder, coded):
    before = coded.read_bytes(), (folder / "a.png").read_bytes()
    for arguments in (("compress", folder / "a.png"), ("decompress", coded)):
        result = dkic(*arguments)
        assert result.status == 1 and "the file exists; overwrite it with --force" in result.err
    assert (coded.read_bytes(), (folder / "a.png").read_bytes()) == before
    assert dkic("compress", folder / "a.png", "-q", 1, "--force").status == 0
    assert unpack(coded.read_bytes()).header.quality == 1


def test_an_input_that_is_its_own_output_is_refused(folder, coded):
    said = wrong_usage("compress", coded, "--force")
    assert said == f"Error: {coded}: is an input itself; name another output with -o"


def test_a_folder_is_compressed_and_decompressed(folder, tmp_path):
    assert dkic("compress", folder, "-q", 1).status == 0
    assert names(folder) == ["a.dkic", "a.png", "b.dkic", "b.jpg", "notes.txt"]
    assert {unpack((folder / name).read_bytes()).header.quality for name in ("a.dkic", "b.dkic")} == {1}
    assert dkic("compress", folder, folder / "a.png", "-o", tmp_path / "twice").status == 2  # two inputs, one output
    assert dkic("compress", folder, "-o", tmp_path / "coded").status == 0
    assert dkic("decompress", tmp_path / "coded", "-o", tmp_path / "back").status == 0
    assert (names(tmp_path / "coded"), names(tmp_path / "back")) == (["a.dkic", "b.dkic"], ["a.png", "b.png"])
    said = wrong_usage("decompress", tmp_path / "back")
    assert f"{tmp_path / 'back'}: the folder contains no .dkic files" in said


def test_short_options(folder):
    assert dkic("compress", folder / "a.png", "-t", 0.8, "-o", folder / "t.dkic").status == 0
    size = (folder / "t.dkic").stat().st_size
    assert size * 8 / 48 / 64 <= 0.8
    assert "--quality: can't be combined with --target-bpp" in wrong_usage("compress", folder / "a.png", "-q", 1, "-t", 0.8)


# Formats


def test_standard_input_is_read_from_its_position(folder, tmp_path):
    """Another process has read a part of it."""
    first, second = folder / "a.png", tmp_path / "second.jpg"
    Image.fromarray(crop(32, 64)).save(second)
    both = tmp_path / "both"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    with open(both, "rb") as file:
        os.lseek(file.fileno(), first.stat().st_size, os.SEEK_SET)
        command = [sys.executable, "-m", "dkic", "compress", "-", "-o", tmp_path / "x.dkic"]
        assert subprocess.run(command, stdin=file).returncode == 0
    header = unpack((tmp_path / "x.dkic").read_bytes()).header
    assert (header.height, header.width) == (32, 64)


def test_a_format_that_contradicts_the_name(folder, coded, tmp_path):
    out = tmp_path / "out.jpg"
    assert f"{out} has the suffix of another format" in wrong_usage("decompress", coded, "--format", "png", "-o", out)
    assert dkic("decompress", coded, "--format", "jpeg", "-o", out).status == 0
    assert "not a .dkic file name" in wrong_usage("decompress", folder / "a.png")


def test_the_requested_format_is_written(folder, coded, tmp_path):
    assert dkic("decompress", coded, "--format", "jpg").status == 0
    assert shown((folder / "a.jpg").read_bytes()) == ("JPEG", (64, 48))
    assert dkic("decompress", coded, "-o", tmp_path / "no_suffix", "--format", "PPM").status == 0
    assert shown((tmp_path / "no_suffix").read_bytes()) == ("PPM", (64, 48))
    assert "--format: must be one of png, jpg, " in wrong_usage("decompress", coded, "--format", "gif")


# Standard input and output


def test_standard_input_is_compressed_to_standard_output(folder, coded, stdin, capfdbinary):  # noqa: F811
    stdin((folder / "a.png").read_bytes())
    result = dkic("compress", "-")
    assert (result.status, result.out) == (0, "") and result.err.startswith("/dev/stdin -> /dev/stdout: ")
    assert capfdbinary.readouterr().out == coded.read_bytes()


@pytest.mark.parametrize(("options", "image_format"), [((), "PNG"), (("--format", "webp"), "WEBP")])
def test_standard_input_is_decompressed_to_standard_output(coded, stdin, capfdbinary, options, image_format):  # noqa: F811
    stdin(coded.read_bytes())
    result = dkic("decompress", "-", *options)
    assert (result.status, result.out) == (0, "") and result.err.startswith("/dev/stdin -> /dev/stdout: 64x48")
    assert shown(capfdbinary.readouterr().out) == (image_format, (64, 48))


def test_a_file_to_standard_output_and_standard_input_to_a_file(folder, coded, stdin, capfdbinary):  # noqa: F811
    result = dkic("compress", folder / "a.png", "-o", "-")
    assert (result.status, result.out) == (0, "")
    assert capfdbinary.readouterr().out == coded.read_bytes()
    stdin((folder / "a.png").read_bytes())
    result = dkic("compress", "-", "-o", folder / "x.dkic")
    assert result.err == "" and result.out.startswith(f"/dev/stdin -> {folder / 'x.dkic'}: ")
    assert (folder / "x.dkic").read_bytes() == coded.read_bytes()


def test_a_target_for_standard_output(folder, capfdbinary):
    result = dkic("compress", folder / "a.png", "-t", 0.8, "--no-qsteps", "--distortion", "mse", "-o", "-")
    assert (result.status, result.out) == (0, "") and "\nrate: " in result.err
    assert len(capfdbinary.readouterr().out) * 8 / 48 / 64 <= 0.8


def test_info_on_standard_input(coded, stdin):  # noqa: F811
    stdin(coded.read_bytes())
    result = dkic("info", "-")
    assert (result.status, result.err) == (0, "") and result.out.startswith("size: 64x48\n")


def test_an_error_in_standard_input_is_one_line(stdin):  # noqa: F811
    for command, data, said in (
        ("compress", b"this is text\n", "/dev/stdin: not a PNG"),
        ("compress", b"", "/dev/stdin: the file is empty"),
        ("decompress", b"this is text\n", "/dev/stdin: header: "),
    ):
        stdin(data)
        result = dkic(command, "-")
        assert result.status == 1 and len(result.err.splitlines()) == 1 and said in result.err


def test_uses_of_a_stream_that_are_refused(folder, stdin):  # noqa: F811
    stdin((folder / "a.png").read_bytes())
    assert "/dev/stdin: the output of a stream has no name" in wrong_usage("compress", "-", "-o", folder)
    assert "/dev/stdin: the output of a stream has no name" in wrong_usage("compress", "-", folder / "a.png")
    assert "-o /dev/stdout: is not a folder" in wrong_usage("compress", folder / "a.png", folder / "b.jpg", "-o", "-")
    result = dkic("compress", "-", "-t", 1, "--no-qsteps", "--distortion", "mse", "-o", folder / "x.dkic")
    assert result.status == 1 and "/dev/stdin: a stream can be read only once" in result.err
    assert names(folder) == ["a.png", "b.jpg", "notes.txt"]


def test_binary_data_on_a_terminal_is_refused(folder, coded):
    _, terminal = pty.openpty()
    for command, source in (("compress", folder / "a.png"), ("decompress", coded)):
        for out in (os.ttyname(terminal), f"/dev/fd/{terminal}"):
            assert f"{out}: binary data is not written to a terminal" in wrong_usage(command, source, "-o", out)
    with contextlib.ExitStack() as restored:
        replace(restored, terminal)
        for command in ("compress", "decompress", "info"):
            assert "/dev/stdin is a terminal; redirect it, or give a file" in wrong_usage(command, "-")


# Pipes and devices


def test_a_pipe_is_read_and_written(folder, coded):
    given, taken = os.pipe(), os.pipe()
    with open(given[1], "wb") as file:
        file.write((folder / "a.png").read_bytes())
    result = dkic("compress", f"/dev/fd/{given[0]}", "-o", f"/dev/fd/{taken[1]}")
    os.close(given[0])
    os.close(taken[1])
    assert result.status == 0 and result.out.startswith(f"/dev/fd/{given[0]} -> /dev/fd/{taken[1]}: ")
    with open(taken[0], "rb") as file:
        assert file.read() == coded.read_bytes()


def test_a_named_pipe_is_written(folder, coded):
    for command, source in (("compress", folder / "a.png"), ("decompress", coded)):
        pipe = folder / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # else opening waits for the writer
        assert dkic(command, source, "-o", pipe).status == 0
        with open(reader, "rb") as file:
            data = file.read()
        assert data == coded.read_bytes() if command == "compress" else shown(data) == ("PNG", (64, 48))
        assert pipe.is_fifo()
        pipe.unlink()


def test_an_open_file_is_written_at_its_position(folder, coded):
    """As `dkic compress a.png -o /dev/stdout >> log` has it."""
    with open(folder / "log", "ab") as file:
        file.write(b"before")
        file.flush()
        assert dkic("compress", folder / "a.png", "-o", f"/dev/fd/{file.fileno()}").status == 0
        file.write(b"after")
    assert (folder / "log").read_bytes() == b"before" + coded.read_bytes() + b"after"


def test_sockets_are_read_and_written(folder, coded):
    """The paths of sockets can't be opened."""
    (ours, theirs), (taken, taking) = socket.socketpair(), socket.socketpair()
    ours.sendall((folder / "a.png").read_bytes())
    ours.close()
    result = dkic("compress", f"/dev/fd/{theirs.fileno()}", "-o", f"/dev/fd/{taking.fileno()}")
    theirs.close()
    taking.close()
    with taken, taken.makefile("rb") as file:
        assert result.status == 0 and file.read() == coded.read_bytes()


def test_devices(folder):
    assert dkic("compress", folder / "a.png", "-o", "/dev/null").status == 0
    assert dkic("decompress", "/dev/null", "-o", "/dev/null").status == 1
    result = dkic("compress", folder / "a.png", "-o", "/dev/full")
    assert (result.status, result.err) == (1, "dkic: /dev/full: can't be written (No space left on device)\n")


def test_a_closed_descriptor_is_refused(folder):
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.close(descriptor)
    result = dkic("compress", folder / "a.png", "-o", f"/dev/fd/{descriptor}")
    assert (result.status, result.err) == (1, f"dkic: /dev/fd/{descriptor}: can't be written (Bad file descriptor)\n")


# As processes


def shell(command: str, folder: Path) -> Result:
    command = f'set -o pipefail; dkic() {{ "{sys.executable}" -m dkic "$@"; }}; {command}'
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return Result(done.returncode, done.stdout, done.stderr)


def test_a_pipeline(folder, coded):
    result = shell("dkic compress - < a.png | dkic decompress - > x.png", folder)
    assert (result.status, result.out) == (0, "") and len(result.err.splitlines()) == 2
    assert dkic("decompress", coded, "-o", folder / "y.png").status == 0
    assert (folder / "x.png").read_bytes() == (folder / "y.png").read_bytes()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("decompress a.dkic -o - --format bmp", "dkic: /dev/stdout: can't be written (Broken pipe)\n"),
        ("info a.dkic", ""),
    ],
)
def test_a_reader_that_closes_the_pipe(folder, coded, command, said):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "dkic", *command.split()], cwd=folder, stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, said)
