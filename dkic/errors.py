"""Exceptions with one-line messages, and formatting of error messages."""

from unicodedata import category

_NOT_IN_A_LINE = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories


class DkicError(ValueError):
    """An argument or input is invalid; the message states what is wrong and what to do."""


class FormatError(DkicError):
    """A .dkic file is damaged, of another format, or of a version that this package can't read; the message names the section."""


def install(extra: str) -> str:
    """How to install one of dkic's extras."""
    return f"pip install -e '.[{extra}]' in dkic's source folder"


# Errors that an input may cause, for `sentence`.
FAULTS = (DkicError, OSError, MemoryError, RuntimeError)


def naming(text: str, source: str, *others: str) -> str:
    """The text, prefixed with the input's name unless it begins with that or with one of the others."""
    return text if text.startswith((source, *others)) else f"{source}: {text}"


def one_line(text: str) -> str:
    """`text` in one line: control characters and non-UTF-8 bytes of file names are escaped as in Python."""
    return "".join(c.encode("unicode_escape").decode() if category(c) in _NOT_IN_A_LINE else c for c in text)


def sentence(error: Exception) -> str:
    """The message of one of FAULTS; a bug of dkic is raised again."""
    # PyTorch raises RuntimeError if CPU or GPU memory runs out.
    from_torch = isinstance(error, RuntimeError)
    no_memory = from_torch and any(text in str(error) for text in ("can't allocate memory", "out of memory"))
    no_memory = no_memory or isinstance(error, MemoryError)
    if from_torch and not no_memory:
        raise error
    return "not enough memory for this image" if no_memory else str(error)
