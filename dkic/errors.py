"""What a user of dkic can do wrong, as exceptions whose message is one sentence."""


class DkicError(ValueError):
    """Something the caller gave can't be used; the message says what, and what would be right."""


class FormatError(DkicError):
    """A .dkic file is damaged, foreign, or from a version this package can't read; the message names the section."""


def install(extra: str) -> str:
    """What to do where a package of one of dkic's extras is missing."""
    return f"pip install -e '.[{extra}]' in dkic's source folder"
