"""The emulator's counts of global memory traffic, as traffic.h prints them."""

from dataclasses import dataclass

SECTOR = 32  # bytes


@dataclass(frozen=True)
class Counts:
    """A kernel's accesses of one kind to one tensor."""

    requests: int
    bytes: int  # that lanes ask for
    sectors: int  # of all requests: each once in a request
    lines: int  # of 128 bytes, likewise
    block_sectors: int  # each once in a block
    all_sectors: int  # each once

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def efficiency(self) -> float:
        """The share of what the requests' sectors hold that lanes asked for."""
        return self.bytes / (SECTOR * self.sectors)


def parse(text: str) -> dict[tuple[str, str, str], Counts]:
    """By kernel, tensor and kind: load, store or atomic."""
    rows = (line.split() for line in text.splitlines())
    return {(kernel, tensor, kind): Counts(*map(int, numbers)) for kernel, tensor, kind, *numbers in rows}
