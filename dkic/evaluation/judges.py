"""Judges: what decoded images are compared by with their originals, and what the shipped weights were trained for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeAlias

from dkic.errors import DkicError, install

if TYPE_CHECKING:
    from torch import Tensor

# uint8 `[N, 3, H, W]` twice -> `[N]`
Compare: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"


@dataclass(frozen=True)
class Judge:
    """label: for tables. digits: decimals there. higher_is_better: else lower is. seen: a loss of the shipped weights has it.

    slow: takes seconds for a file, and so by default judges only the files that are chosen at a target.
    """

    label: str
    digits: int
    higher_is_better: bool
    seen: bool = False
    slow: bool = False


# In the order of tables: first those that no loss has seen.
JUDGES = {
    "ssimulacra2": Judge("SSIMULACRA2", 1, True),
    "dists": Judge("DISTS", 3, False, slow=True),
    "lpips_vgg": Judge("LPIPS (VGG)", 3, False, slow=True),
    "lpips": Judge("LPIPS", 3, False, seen=True),
    "psnr": Judge("PSNR", 2, True, seen=True),
    "ms_ssim": Judge("MS-SSIM", 4, True),
}
ALWAYS = ("lpips", "psnr", "ms_ssim")
SLOW = tuple(name for name, judge in JUDGES.items() if judge.slow)
OPTIONAL = tuple(name for name in JUDGES if name not in ALWAYS)


def load_judges(names: Iterable[str]) -> dict[str, Compare]:
    """The judges of these names, with their weights. Raises DkicError where one can't run here; the message says what to do."""
    return {name: _load(name) for name in names}


def _load(name: str) -> Compare:
    from dkic.evaluation import metrics

    if name in ("lpips", "lpips_vgg"):
        from dkic.losses.lpips import LPIPS

        lpips = LPIPS("alex" if name == "lpips" else "vgg")
        return lambda x, x_hat: metrics.lpips(x, x_hat, lpips)
    if name == "dists":
        from dkic.losses.dists import DISTS

        network = DISTS()
        return lambda x, x_hat: metrics.dists(x, x_hat, network)
    if name == "ssimulacra2" and find_spec("ssimulacra2") is None:
        raise DkicError(f"SSIMULACRA2 needs the package ssimulacra2; {install('eval')}")
    return {"ssimulacra2": metrics.ssimulacra2, "psnr": metrics.psnr, "ms_ssim": metrics.ms_ssim}[name]
