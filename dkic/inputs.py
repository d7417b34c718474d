"""The inputs of a command, the file that each becomes, and doing them one by one."""

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import click

from dkic.errors import DkicError

# What can go wrong with an input, for `sentence`.
FAULTS = (DkicError, OSError, MemoryError, RuntimeError)


def with_folders_opened(inputs: tuple[str, ...]) -> tuple[str, ...]:
    """The inputs, with the images of folders in their place; how many other files are there goes to standard error."""
    from dkic.coding.image_formats import images_in

    opened: list[str] = []
    for given in inputs:
        if not os.path.isdir(given):
            opened.append(given)
            continue
        found = images_in(given)
        opened += map(str, found.images)
        if skipped := found.skipped():
            click.echo(f"dkic: {given}: {skipped}", err=True)
    return tuple(opened)


def tell_notes(source: str, notes: Iterable[str]) -> None:
    """What was left out of an image, to standard error."""
    from tqdm import tqdm

    for note in notes:
        tqdm.write(f"dkic: {source}: {note}", file=sys.stderr)


def output_files(inputs: tuple[str, ...], out: str, suffix: str, several: bool) -> list[Path]:
    """The output of every input, in a folder where `several`; a usage error where two would get the same, or it is an input."""
    if not out:
        raise click.UsageError("-o: the name of the output is empty")
    if not several and not Path(out).is_dir() and not out.endswith("/"):
        targets = [Path(out)]
    else:
        folder = Path(out)
        if folder.exists() and not folder.is_dir():
            raise click.UsageError(f"-o: {out} must be a folder, and it is a file")
        targets = [folder / (Path(source).stem + suffix) for source in inputs]
    files = {identity(source) for source in inputs} - {None}
    source_of: dict[Path, str] = {}
    for source, target in zip(inputs, targets, strict=True):
        if source_of.setdefault(target, source) is not source:
            raise click.UsageError(f"{source_of[target]} and {source} would both become {target}")
        if identity(target) in files:
            raise click.UsageError(f"-o: {target} is an input itself")
    if targets[0] != Path(out):
        try:
            Path(out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.UsageError(f"-o: the folder {out} can't be made ({error.strerror})") from None
    return targets


def identity(path: str | Path) -> tuple[int, int] | None:
    """What tells a file from all others, whatever it is called; None where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def each(inputs: tuple[str, ...], targets: list[Path], one: Callable[[str, Path], str | None]) -> int:
    """Do every input; what fails is one line. Returns the exit status: 1 where one did."""
    from tqdm import tqdm

    failed = False
    pairs = list(zip(inputs, targets, strict=True))
    for source, target in tqdm(pairs, unit="file", disable=None if len(pairs) > 1 else True):
        try:
            said = one(source, target)
        except FAULTS as error:
            failed = True
            tqdm.write(f"dkic: {naming(sentence(error), source, str(target))}", file=sys.stderr)
        else:
            if said is not None:
                tqdm.write(said)
    return 1 if failed else 0


def naming(text: str, source: str, *others: str) -> str:
    """A sentence about an input, with its name first where it doesn't begin with that or with one of the others."""
    return text if text.startswith((source, *others)) else f"{source}: {text}"


def sentence(error: Exception) -> str:
    """What to say of one of FAULTS; a mistake of ours is raised again."""
    # torch's are RuntimeErrors, of the CPU's memory and of a GPU's.
    no_memory = isinstance(error, MemoryError) or any(text in str(error) for text in ("can't allocate memory", "out of memory"))
    if isinstance(error, RuntimeError) and not no_memory:
        raise error
    return "not enough memory for this picture" if no_memory else str(error)
