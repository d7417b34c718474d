"""Pictures brought to a rate together: of each the quality level that makes for the least distortion in all, within the rate.

A survey tells what each takes and loses at every level; dkic.allocation chooses; the chosen are coded again. Where a file then
has another size than was measured (in an earlier run with other threads or on another machine, whose transforms round otherwise),
its own size counts, and the choice is made anew: the rate is that of the files as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from dkic.allocation import Allocation, allocate
from dkic.allocation.problem import UNITS
from dkic.coding.codec import Codec
from dkic.errors import DkicError
from dkic.output_file import check_output, reason, write_atomically
from dkic.targeting.measured import Option
from dkic.targeting.meter import Distortion
from dkic.targeting.spool import Spool
from dkic.targeting.survey import Survey, read_unchanged


@dataclass(frozen=True)
class Written:
    """A file: the picture it is of, its quality level, and what was measured of it, the bytes being its own."""

    source: str
    target: Path
    quality: int
    option: Option

    @property
    def bpp(self) -> float:
        return self.option.bytes * 8 / self.option.pixels


class Pictures:
    """Pictures to bring to a rate together: `measure` each, then `write` their files.

    Args:
        codec: of one or more quality levels.
        target_bpp: bits per pixel that the files take at most.
        kind: whether those are all bits by all pixels ("total_bpp"), or the mean of the pictures' own ("mean_bpp").
        distortion: "lpips" (by AlexNet) or "mse", whose sum over the pictures is to be the least.
        verify, tile: as `Codec.compress` has them.
        force: overwrite files that exist.

    Raises:
        DkicError: LPIPS' weights, or a place to keep what is measured, can't be had.
    """

    def __init__(
        self,
        codec: Codec,
        target_bpp: float,
        *,
        kind: Literal["total_bpp", "mean_bpp"] = "total_bpp",
        distortion: Distortion = "lpips",
        verify: bool = True,
        tile: int | None = None,
        force: bool = False,
    ) -> None:
        self._survey = Survey(codec, distortion, tile)
        self._codec, self._target_bpp, self._kind, self._distortion = codec, target_bpp, kind, distortion
        self._verify, self._tile, self._force = verify, tile, force
        self._pictures: list[tuple[str, Path, str]] = []  # source, target, key
        self._options: list[list[Option]] = []  # [N][M]

    def __len__(self) -> int:
        """How many are measured."""
        return len(self._pictures)

    def measure(self, source: str, target: Path) -> None:
        """Measures a picture at every level at which no earlier run did.

        Raises:
            DkicError: the picture can't be coded, the distortion is not defined for it, or there can be no file `target`.
        """
        check_output(target, self._force)
        key, options = self._survey.measure(source)
        self._pictures.append((source, target, key))
        self._options.append(options)

    def write(self) -> tuple[list[Written], Iterator[tuple[str, str]]]:
        """Chooses, and writes the files: none before it is known that all together keep to the target.

        Returns:
            The files, in the order of `measure`, and what came of it, as (name, value).

        Raises:
            DkicError: the target can't be met, and the message says what can; or a file can't be written.
        """
        folder = self._pictures[0][1].parent
        try:
            with Spool(folder) as spool:
                found = self._code_chosen(spool)
                levels = found.choice.tolist()
                for i, (_, target, _) in enumerate(self._pictures):
                    write_atomically(target, spool.get(i), self._force)
        except OSError as error:
            raise DkicError(f"{folder}: can't be written ({reason(error)})") from None
        written = [
            Written(source, target, self._codec.qualities[level], options[level])
            for (source, target, _), options, level in zip(self._pictures, self._options, levels, strict=True)
        ]
        return written, self._facts(written, found)

    def _code_chosen(self, spool: Spool) -> Allocation:
        """Codes each picture at the level chosen, by its number, until the choice is by the sizes of what is coded."""
        coded: dict[int, int] = {}
        while True:
            found = self._allocated()
            to_do = [(i, level) for i, level in enumerate(found.choice.tolist()) if coded.get(i) != level]
            as_measured = True
            for i, level in tqdm(to_do, unit="file", desc="writing", disable=None, leave=False):
                source, _, key = self._pictures[i]
                data = self._coded(source, key, self._codec.qualities[level])
                spool.put(i, data)
                coded[i] = level
                if len(data) != self._options[i][level].bytes:
                    as_measured = False
                    self._options[i][level] = self._options[i][level]._replace(bytes=len(data))
                    self._survey.keep(key, level, self._options[i][level])
            if as_measured:
                return found

    def _coded(self, source: str, key: str, quality: int) -> bytes:
        picture = read_unchanged(source, key)
        try:
            return self._codec.compress(picture, quality, verify=self._verify, tile=self._tile)
        except DkicError as error:
            raise DkicError(f"{source}: {error}") from None

    def _allocated(self) -> Allocation:
        table = np.array(self._options, np.float64)  # [N, M, 3]
        pixels, size, distortion = np.moveaxis(table, 2, 0)
        names = [source for source, _, _ in self._pictures]
        rate = size * 8 / pixels
        return allocate(rate, distortion, self._target_bpp, kind=self._kind, pixels=pixels[:, 0], names=names)

    def _facts(self, written: list[Written], found: Allocation) -> Iterator[tuple[str, str]]:
        size, pixels = (sum(getattr(file.option, name) for file in written) for name in ("bytes", "pixels"))
        rate = size * 8 / pixels if self._kind == "total_bpp" else np.mean([file.bpp for file in written])
        yield "rate", f"{rate:.6g} of {self._target_bpp:.6g} {UNITS[self._kind]} ({size:,} bytes in {len(written):,} files)"
        yield self._distortion, f"{np.mean([file.option.distortion for file in written]):.6g} in the mean"
        yield "gap", f"{found.gap:.2g} (no choice within the rate has less than {found.bound / len(written):.6g} in the mean)"
