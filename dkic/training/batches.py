"""Batches of random crops for each step of a run, prefetched by worker processes."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dkic.errors import DkicError
from dkic.training.photos import Crops, PhotoFolder


class Share(NamedTuple):
    """The micro-batches of one process among those of all processes.

    Micro-batches are numbered across processes in round-robin order. So n processes use the same crops and noise as one process
    with n times the micro-batches.

    Attributes:
        process: index of the process.
        processes: number of processes.
        micro_batches: micro-batches per step of each process.
    """

    process: int = 0
    processes: int = 1
    micro_batches: int = 1

    def number(self, part: int) -> int:
        """Global index of this process's micro-batch `part`."""
        return part * self.processes + self.process

    def crops(self, batch: int) -> list[range]:
        """Indexes of the crops in each micro-batch of this process.

        Args:
            batch: crops per step over all processes.

        Raises:
            DkicError: `batch` is not divisible by the number of micro-batches of all processes.
        """
        size, left = divmod(batch, self.processes * self.micro_batches)
        if left:
            shares = f"{self.processes} processes with {self.micro_batches} micro-batches each"
            raise DkicError(f"batch: must be a multiple of the crops of {shares}, not {batch}")
        numbers = map(self.number, range(self.micro_batches))
        return [range(number * size, (number + 1) * size) for number in numbers]


WHOLE = Share()  # one process, one micro-batch


class Batches:
    """The micro-batches of one process for each step.

    The crops depend neither on the number of workers nor on the step that is requested first.

    Args:
        photos: source of the crops.
        seed: seed of the run.
        parts: indexes of the crops in each micro-batch.
        workers: worker processes of the `DataLoader`; 0 decodes in this process.
        pin: whether to use pinned memory, for asynchronous copies to a GPU.
        warn: called once with a message for each photograph that can't be read.

    Attributes:
        unreadable: paths of the photographs that can't be read, found so far.
    """

    def __init__(
        self,
        photos: PhotoFolder,
        seed: int,
        parts: Sequence[range],
        workers: int = 0,
        pin: bool = False,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.unreadable = set[str]()
        self._all = _Parts(photos, seed, parts)
        self._options = {"num_workers": workers, "pin_memory": pin, "worker_init_fn": _init_worker, "collate_fn": _identity}
        self._parts, self._warn, self._next = len(parts), warn, -1
        self._iterator: Iterator[Crops | DkicError] = iter(())

    def of(self, step: int) -> list[Crops]:
        """The micro-batches of a step. Consecutive steps are prefetched; any other step restarts the workers.

        Raises:
            DkicError: none of the photographs can be read.
        """
        if step != self._next:
            indexes = range(step * self._parts, sys.maxsize)
            self._iterator = iter(DataLoader(self._all, batch_size=None, sampler=indexes, **self._options))  # type: ignore
        found: list[Crops] = []
        for _ in range(self._parts):
            crops = next(self._iterator)
            if isinstance(crops, DkicError):
                raise crops
            found.append(crops)
        self._next = step + 1
        for path, why in (item for crops in found for item in crops.unreadable.items()):
            if path not in self.unreadable:
                self.unreadable.add(path)
                self._warn(why)
        return found


class _Parts(Dataset[Crops | DkicError]):
    """The micro-batches of all steps. Errors are returned as items: `DataLoader` adds a traceback to the text of raised ones."""

    def __init__(self, photos: PhotoFolder, seed: int, parts: Sequence[range]) -> None:
        self.photos, self.seed, self.parts = photos, seed, parts

    def __getitem__(self, index: int) -> Crops | DkicError:
        step, part = divmod(index, len(self.parts))
        try:
            return self.photos.crops(self.seed, step, self.parts[part])
        except DkicError as error:
            return error


def _init_worker(_: int) -> None:
    """Ignores Ctrl-C, which the training process handles: it finishes the step and stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    info = get_worker_info()
    assert info is not None
    dataset: Any = info.dataset
    dataset.photos.divide_cache(info.num_workers)


def _identity(item: Crops | DkicError) -> Crops | DkicError:
    return item


def default_workers(device: torch.device) -> int:
    """Default number of worker processes: at most 4 for a GPU, which one worker can't keep busy; else 1."""
    return min(4, os.cpu_count() or 1) if device.type == "cuda" else 1


def pixels_of(crops: Crops, device: torch.device) -> torch.Tensor:
    """Crops as float32 `[n, 3, crop, crop]` in [0, 1] on `device`, in channels_last memory format."""
    return crops.pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
