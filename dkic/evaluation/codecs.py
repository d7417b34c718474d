"""Codecs to compare, all alike: real bytes out of pixels and back, at quality points of their own."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from dkic.errors import DkicError


class Unavailable(DkicError):
    """A codec or a metric can't run here; the message says what is missing and what repairs it."""


class ImageCodec(Protocol):
    """A codec that is ready to run; where that can't be, making it raises Unavailable.

    name: as it is asked for, and printed. about: coder, version and settings, in a line. suffix: of its files.
    qualities: the coder's own settings that span its useful rates, in rising order of rate.
    """

    @property
    def name(self) -> str: ...
    @property
    def about(self) -> str: ...
    @property
    def suffix(self) -> str: ...
    @property
    def qualities(self) -> tuple[int, ...]: ...

    def encode(self, pixels: np.ndarray, quality: int) -> bytes:
        """uint8 `[H, W, 3]` -> the contents of a file. DkicError where the codec takes no such image."""
        ...

    def decode(self, data: bytes) -> np.ndarray:
        """The contents of a file -> uint8 `[H, W, 3]`."""
        ...


NAMES = tuple("dkic:MODEL cheng2020-anchor cheng2020-attn bpg444 hevc444 vvc avif jxl webp jpeg jpeg2000".split())
_FAMILIES = {"cheng2020": ("cheng2020-anchor", "cheng2020-attn")}


def expand(names: Iterable[str]) -> list[str]:
    """Names one by one, families (cheng2020) taken apart, repeated ones once. Raises DkicError for an unknown one."""
    found: dict[str, None] = {}
    for name in names:
        for one in _FAMILIES.get(name, (name,)):
            if one not in NAMES and not (one.startswith("dkic:") and len(one) > len("dkic:")):
                raise DkicError(f"--codec {name}: there is no such codec; there are {', '.join((*NAMES, *_FAMILIES))}")
            found[one] = None
    return list(found)


def make_codec(name: str, weights: Sequence[Path] = ()) -> ImageCodec:
    """The codec of a name that `expand` returned.

    Args:
        weights: files of CompressAI's cheng2020 models, for where they can't be downloaded.

    Raises:
        Unavailable: it can't run here. DkicError: no such model, or a weights file can't be used.
    """
    # Each in a module of its own, imported when asked for: they need packages that not everybody has.
    if name.startswith("dkic:"):
        from dkic.evaluation.learned import Dkic

        return Dkic(name.removeprefix("dkic:"))
    if name.startswith("cheng2020"):
        from dkic.evaluation.learned import Cheng2020

        return Cheng2020(name, weights)
    if name == "bpg444":
        from dkic.evaluation.bpg import Bpg

        return Bpg()
    if name in ("hevc444", "vvc"):
        from dkic.evaluation.by_ffmpeg import by_ffmpeg

        return by_ffmpeg(name)
    from dkic.evaluation.classical import by_pillow

    return by_pillow(name)
