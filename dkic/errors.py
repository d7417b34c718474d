"""What a user of dkic can do wrong, as exceptions whose message is one sentence."""


class DkicError(ValueError):
    """Something the caller gave can't be used; the message says what, and what would be right."""


class FormatError(DkicError):
    """A .dkic file is damaged, foreign, or from a version this package can't read; the message names the section."""
