"""A run's crops, step after step, decoded ahead by worker processes."""

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
    """What a process makes of every step's crops: `micro_batches` parts of them.

    Parts are dealt in turn, so that n processes have the crops and the noise of one process with n times the micro-batches.
    """

    process: int = 0
    processes: int = 1
    micro_batches: int = 1

    def number(self, part: int) -> int:
        """The number of a micro-batch of this process among those of all processes."""
        return part * self.processes + self.process

    def crops(self, batch: int) -> list[range]:
        """Numbers of the crops in each micro-batch of this process. Raises DkicError where they can't be divided equally."""
        size, left = divmod(batch, self.processes * self.micro_batches)
        if left:
            shares = f"{self.processes} processes with {self.micro_batches} micro-batches each"
            raise DkicError(f"batch: must be a multiple of the crops of {shares}, not {batch}")
        numbers = map(self.number, range(self.micro_batches))
        return [range(number * size, (number + 1) * size) for number in numbers]


WHOLE = Share()  # that of one process without micro-batches


class Batches:
    """The crops that a process makes of every step's, in parts: micro-batches.

    They are the same whatever the number of workers and whichever step is the first one asked for.

    Args:
        photos: where crops come from.
        seed: of the run.
        parts: numbers of the crops in each part.
        workers: processes that decode; 0: this one.
        pin: have the pixels in memory that a GPU reads while others compute.
        tell: is given a sentence for each photograph that proves unreadable, once.

    Attributes: `unreadable` are those photographs.
    """

    def __init__(
        self,
        photos: PhotoFolder,
        seed: int,
        parts: Sequence[range],
        workers: int = 0,
        pin: bool = False,
        tell: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.unreadable = set[str]()
        self._all = _Parts(photos, seed, parts)
        self._options = {"num_workers": workers, "pin_memory": pin, "worker_init_fn": _in_worker, "collate_fn": _as_it_is}
        self._parts, self._tell, self._next = len(parts), tell, -1
        self._iterator: Iterator[Crops | DkicError] = iter(())

    def of(self, step: int) -> list[Crops]:
        """The parts of a step's crops. Steps in order are made ahead; another step begins anew."""
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
                self._tell(why)
        return found


class _Parts(Dataset[Crops | DkicError]):
    """All parts of all steps, numbered. An error is an item too: raised in a worker, it would come with a traceback as text."""

    def __init__(self, photos: PhotoFolder, seed: int, parts: Sequence[range]) -> None:
        self.photos, self.seed, self.parts = photos, seed, parts

    def __getitem__(self, index: int) -> Crops | DkicError:
        step, part = divmod(index, len(self.parts))
        try:
            return self.photos.crops(self.seed, step, self.parts[part])
        except DkicError as error:
            return error


def _in_worker(_: int) -> None:
    """Ctrl-C is for the process that trains, which ends a step and then its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    info = get_worker_info()
    assert info is not None
    dataset: Any = info.dataset
    dataset.photos.divide_cache(info.num_workers)


def _as_it_is(item: Crops | DkicError) -> Crops | DkicError:
    return item


def default_workers(device: torch.device) -> int:
    """Processes that decode photographs, where none are asked for: a GPU is faster than one of them."""
    return min(4, os.cpu_count() or 1) if device.type == "cuda" else 1


def pixels_of(crops: Crops, device: torch.device) -> torch.Tensor:
    """`[n, 3, crop, crop]` float32 in [0, 1] on a device, channels_last."""
    return crops.pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
