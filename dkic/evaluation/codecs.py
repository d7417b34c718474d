"""`ImageCodec`, the interface of the codecs to compare, and their names."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from dkic.errors import DkicError


class Unavailable(DkicError):
    """A codec or a metric can't run here; the message says what is missing and how to repair it."""


class ImageCodec(Protocol):
    """A codec that is ready to run; its constructor raises Unavailable otherwise.

    name: in options and reports. about: encoder, version and settings in one line. suffix: of its files.
    qualities: settings of the encoder that span its useful rates, in rising order of rate.
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
        """uint8 `[H, W, 3]` -> the contents of a file. Raises DkicError if the codec does not support such an image."""
        ...

    def decode(self, data: bytes) -> np.ndarray:
        """The contents of a file -> uint8 `[H, W, 3]`."""
        ...


NAMES = tuple("dkic:MODEL cheng2020-anchor cheng2020-attn bpg444 hevc444 vvc avif jxl webp jpeg jpeg2000".split())
_FAMILIES = {"cheng2020": ("cheng2020-anchor", "cheng2020-attn")}


def expand(names: Iterable[str]) -> list[str]:
    """Names without duplicates, with families (cheng2020) replaced by their members. Raises DkicError for an unknown name."""
    found: dict[str, None] = {}
    for name in names:
        for one in _FAMILIES.get(name, (name,)):
            if one not in NAMES and not (one.startswith("dkic:") and len(one) > len("dkic:")):
                raise DkicError(
                    f"--codec {name}: there is no such codec; give names, separated by spaces: {', '.join((*NAMES, *_FAMILIES))}"
                )
            found[one] = None
    return list(found)


def make_codec(name: str, weights: Sequence[Path] = ()) -> ImageCodec:
    """The codec of a name that `expand` returned.

    Args:
        weights: files of CompressAI's cheng2020 models, if they can't be downloaded.

    Raises:
        Unavailable: it can't run here. DkicError: no such model, or a weights file can't be used.
    """
    # Each module is imported on demand: they need optional packages.
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
