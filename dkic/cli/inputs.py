"""Inputs of a command, their output files, and the loop over them."""

import os
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click

from dkic.errors import FAULTS, naming, one_line, sentence
from dkic.streams import descriptor_of, is_stream, is_terminal

STDIN, STDOUT = "/dev/stdin", "/dev/stdout"  # what `-` stands for


def with_folders_opened(inputs: tuple[str, ...], files_in: Callable[[str], Sequence[Path]] | None = None) -> tuple[str, ...]:
    """The inputs, with each folder replaced by the files that `files_in` finds in it.

    By default these are its images, and the number of other files is printed to standard error.
    """
    files_in = files_in or _images_in
    return tuple(str(path) for given in inputs for path in (files_in(given) if os.path.isdir(given) else [given]))


def _images_in(folder: str) -> list[Path]:
    from dkic.coding.image_formats import images_in

    found = images_in(folder)
    if skipped := found.skipped():
        click.echo(one_line(f"dkic: {folder}: {skipped}"), err=True)
    return found.images


def print_notes(source: str, notes: Iterable[str]) -> None:
    """Prints what was dropped from an image, to standard error."""
    from tqdm import tqdm

    for note in notes:
        tqdm.write(one_line(f"dkic: {source}: {note}"), file=sys.stderr)


def output_files(inputs: tuple[str, ...], out: str | None, suffix: str, several: bool) -> list[Path]:
    """The output file of each input.

    Args:
        inputs: files and streams (see `dkic.streams`).
        out: a file, or a folder, which is created. A folder if `several`. None: beside each input; standard output for a stream.
        suffix: of outputs that are named after their inputs.

    Raises:
        click.UsageError: two inputs have the same output, an output is an input, a stream's output has no name, or the output
            is a terminal.
    """
    if out == "":
        raise click.UsageError("-o: must not be empty")
    folder = None
    if out is None and not several and is_stream(inputs[0]):
        targets = [Path(STDOUT)]
    elif out is None:
        targets = [_named_by(source, Path(source).parent, suffix) for source in inputs]
    elif not several and not Path(out).is_dir() and not out.endswith("/"):
        targets = [Path(out)]
    else:
        folder = Path(out)
        if folder.exists() and not folder.is_dir():
            raise click.UsageError(f"-o {out}: is not a folder; several outputs need one")
        targets = [_named_by(source, folder, suffix) for source in inputs]
    _check_distinct(inputs, targets, "" if out is None else "-o: ")
    for target in targets:
        refuse_terminal(target)
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.UsageError(f"-o {out}: the folder can't be created ({error.strerror})") from None
    return targets


def _named_by(source: str, folder: Path, suffix: str) -> Path:
    if is_stream(source):
        raise click.UsageError(f"{source}: the output of a stream has no name; give the stream alone, and name a file with -o")
    return folder / (Path(source).stem + suffix)


def _check_distinct(inputs: tuple[str, ...], targets: list[Path], option: str) -> None:
    files = {identity(source) for source in inputs} - {None}
    source_of: dict[Path, str] = {}
    for source, target in zip(inputs, targets, strict=True):
        if source_of.setdefault(target, source) is not source:
            raise click.UsageError(
                f"{target}: would be the output of both {source_of[target]} and {source}; give them separately"
            )
        if identity(target) in files:
            raise click.UsageError(f"{option}{target}: is an input itself; name another output with -o")


def refuse_terminal(target: Path) -> None:
    """Raises click.UsageError if `target` is a terminal: outputs are binary."""
    if is_terminal(target):
        raise click.UsageError(f"{target}: binary data is not written to a terminal; redirect it, or name a file with -o")


def on_stdout(*targets: str | Path) -> bool:
    """Whether one of the outputs is standard output; messages then go to standard error."""
    return any(descriptor_of(target) == 1 for target in targets)


def identity(path: str | Path) -> tuple[int, int] | None:
    """Device and inode of a regular file, the same for all its names; None if there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def each(inputs: tuple[str, ...], targets: list[Path], one: Callable[[str, Path], str | None]) -> int:
    """Calls `one` for every input; an error is printed as one line. Returns the exit status: 1 if there was an error.

    The result of `one` is printed, to standard error if an output is standard output.
    """
    from tqdm import tqdm

    messages = sys.stderr if on_stdout(*targets) else sys.stdout

    failed = False
    pairs = list(zip(inputs, targets, strict=True))
    for source, target in tqdm(pairs, unit="file", disable=None if len(pairs) > 1 else True):
        try:
            said = one(source, target)
        except FAULTS as error:
            failed = True
            tqdm.write(one_line(f"dkic: {naming(sentence(error), source, str(target))}"), file=sys.stderr)
        else:
            if said is not None:
                tqdm.write(one_line(said), file=messages)
    return 1 if failed else 0
