"""The metrics that decoded images are scored by, and which shipped models were trained for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeAlias

from dkic.errors import DkicError, install

if TYPE_CHECKING:
    from torch import Tensor

# uint8 `[N, 3, H, W]` twice -> `[N]`
Compare: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"


@dataclass(frozen=True)
class Metric:
    """label: name in tables. digits: decimals there. higher_is_better: otherwise lower is.

    models: shipped models whose training loss contains the metric, or a relative of it, `in_loss`.
    slow: takes seconds for a file; by default it scores only the files that are chosen at a target.
    """

    label: str
    digits: int
    higher_is_better: bool
    models: tuple[str, ...] = ()
    in_loss: str = ""
    slow: bool = False


# In the order of tables.
METRICS = {
    "ssimulacra2": Metric("SSIMULACRA2", 1, True),
    "dists": Metric("DISTS", 3, False, ("small",), slow=True),
    "lpips_vgg": Metric("LPIPS (VGG)", 3, False, ("small",), slow=True),
    "lpips": Metric("LPIPS", 3, False, ("small",)),
    "psnr": Metric("PSNR", 2, True, ("small",), "MSE"),
    "ms_ssim": Metric("MS-SSIM", 4, True, ("small",), "SSIM at four scales"),
}
ALWAYS = ("lpips", "psnr", "ms_ssim")
SLOW = tuple(name for name, metric in METRICS.items() if metric.slow)
OPTIONAL = tuple(name for name in METRICS if name not in ALWAYS)


def load_metrics(names: Iterable[str]) -> dict[str, Compare]:
    """The metrics of these names, with their weights. Raises DkicError if one can't run here; the message names the repair."""
    return {name: _load(name) for name in names}


def _load(name: str) -> Compare:
    from dkic.evaluation import metrics

    if name in ("lpips", "lpips_vgg"):
        from dkic.losses.lpips import LPIPS

        return partial(metrics.lpips, network=LPIPS("alex" if name == "lpips" else "vgg"))
    if name == "dists":
        from dkic.losses.dists import DISTS

        return partial(metrics.dists, network=DISTS())
    if name == "ssimulacra2" and find_spec("ssimulacra2") is None:
        raise DkicError(f"SSIMULACRA2: needs the package ssimulacra2; {install('eval')}")
    return {"ssimulacra2": metrics.ssimulacra2, "psnr": metrics.psnr, "ms_ssim": metrics.ms_ssim}[name]
