"""What a user of dkic can do wrong, as exceptions whose message is one sentence; and that sentence for a report or a log."""

from unicodedata import category

_NOT_IN_A_LINE = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories


class DkicError(ValueError):
    """Something the caller gave can't be used; the message says what, and what would be right."""


class FormatError(DkicError):
    """A .dkic file is damaged, foreign, or from a version this package can't read; the message names the section."""


def install(extra: str) -> str:
    """What to do where a package of one of dkic's extras is missing."""
    return f"pip install -e '.[{extra}]' in dkic's source folder"


# What can go wrong with an input, for `sentence`.
FAULTS = (DkicError, OSError, MemoryError, RuntimeError)


def naming(text: str, source: str, *others: str) -> str:
    """A sentence about an input, with its name first where it doesn't begin with that or with one of the others."""
    return text if text.startswith((source, *others)) else f"{source}: {text}"


def one_line(text: str) -> str:
    """`text` in one line: control characters and non-UTF-8 bytes, which file names may hold, are escaped as in Python."""
    return "".join(c.encode("unicode_escape").decode() if category(c) in _NOT_IN_A_LINE else c for c in text)


def sentence(error: Exception) -> str:
    """What to say of one of FAULTS; a mistake of ours is raised again."""
    # torch's are RuntimeErrors, of the CPU's memory and of a GPU's.
    no_memory = isinstance(error, MemoryError) or any(text in str(error) for text in ("can't allocate memory", "out of memory"))
    if isinstance(error, RuntimeError) and not no_memory:
        raise error
    return "not enough memory for this image" if no_memory else str(error)
