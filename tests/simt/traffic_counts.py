"""The emulator's counts of global memory traffic, as traffic.h prints them."""

from dataclasses import dataclass

SECTOR = 32  # bytes


@dataclass(frozen=True)
class Counts:
    """Accesses of one kind by a kernel to a tensor."""

    requests: int
    bytes: int  # requested by lanes
    sectors: int  # of all requests, distinct per request
    lines: int  # of 128 bytes, distinct per request
    block_sectors: int  # distinct per block
    all_sectors: int  # distinct in total

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def efficiency(self) -> float:
        """Requested bytes per transferred byte."""
        return self.bytes / (SECTOR * self.sectors)


def parse(text: str) -> dict[tuple[str, str, str], Counts]:
    """By kernel, tensor and kind: load, store or atomic."""
    rows = (line.split() for line in text.splitlines())
    return {(kernel, tensor, kind): Counts(*map(int, numbers)) for kernel, tensor, kind, *numbers in rows}
