"""Protocol with which library functions report progress; commands display it."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Displays progress while an iterable is consumed."""

    def __call__(self, items: Iterable[T], /, what: str, *, unit: str = "file", total: int | None = None) -> Iterable[T]:
        """Wraps an iterable.

        Args:
            items: the items to process.
            what: label of the operation, such as "measuring".
            unit: name of one item.
            total: number of items, if `items` has no length.

        Returns:
            An iterable over the same items.
        """


def unseen(items: Iterable[T], /, what: str, *, unit: str = "file", total: int | None = None) -> Iterable[T]:
    """A `Progress` that displays nothing."""
    return items
