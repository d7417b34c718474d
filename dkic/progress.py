"""Progress of long work. A library function tells how far it is; who calls it may show it."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Shows progress while items are taken."""

    def __call__(self, items: Iterable[T], /, what: str, *, unit: str = "file", total: int | None = None) -> Iterable[T]:
        """Returns an iterable of the items.

        Args:
            what: happens to them, as "measuring". unit: what an item is. total: their number, where `items` has no length.
        """


def unseen(items: Iterable[T], /, what: str, *, unit: str = "file", total: int | None = None) -> Iterable[T]:
    """The items; shows nothing."""
    return items
