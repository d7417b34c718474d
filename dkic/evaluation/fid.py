"""FID and KID over patches of 256 pixels, of all images together, as in HiFiC (Mentzer et al. 2020) and MS-ILLM.

Network, statistics and seed are torch-fidelity's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from dkic.evaluation.codecs import Unavailable
from dkic.evaluation.metrics import batch

SIDE = 256  # pixels of a patch
_AT_ONCE = 16  # patches in a batch, to bound memory
_SUBSET = 1000  # patches in a subset of KID, and number of subsets: torch-fidelity's defaults
_SUBSETS = 100
_SEED = 2020
_FEATURES = 2048  # of a patch


def corners(height: int, width: int) -> list[tuple[int, int]]:
    """Top and left of an image's complete patches: a grid from (0, 0), then another from (128, 128)."""
    return [
        (top, left)
        for first in (0, SIDE // 2)
        for top in range(first, height - SIDE + 1, SIDE)
        for left in range(first, width - SIDE + 1, SIDE)
    ]


def features(images: Iterable[np.ndarray], network: nn.Module) -> Iterator[Tensor]:
    """Features of the patches of uint8 `[H, W, 3]` images, in batches of float32 `[N, 2048]`."""
    for pixels in images:
        places = corners(*pixels.shape[:2])
        for start in range(0, len(places), _AT_ONCE):
            some = places[start : start + _AT_ONCE]
            patches = batch(*(pixels[top : top + SIDE, left : left + SIDE] for top, left in some))
            with torch.inference_mode():
                yield network(patches)[0]


class PatchMetrics:
    """FID and KID against one set of originals, whose features are computed once.

    Args:
        network: as `load_inception` returns it.
        originals: uint8 `[H, W, 3]` each.

    Raises:
        Unavailable: the originals have fewer than two patches.
    """

    def __init__(self, network: nn.Module, originals: Iterable[np.ndarray]) -> None:
        from torch_fidelity.metric_fid import fid_features_to_statistics

        self._network = network
        self._counts: list[int] = []  # of each image's patches

        def counted() -> Iterator[np.ndarray]:
            for pixels in originals:
                self._counts.append(len(corners(*pixels.shape[:2])))
                yield pixels

        found = list(features(counted(), network))
        self.patches = sum(self._counts)
        if self.patches < 2:
            raise Unavailable(f"at least two patches of {SIDE}x{SIDE} pixels are needed, and the images have {self.patches}")
        self._features = torch.cat(found)
        self._statistics = fid_features_to_statistics(self._features)

    def __call__(self, decoded: Iterable[np.ndarray]) -> tuple[float, float]:
        """FID and KID of the decoded images, uint8 `[H, W, 3]` each, one for each original."""
        from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
        from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

        own = torch.cat(list(features(decoded, self._network)))
        if len(own) != self.patches:
            raise ValueError(f"decoded: must have {self.patches} patches as the originals have, not {len(own)}")
        fid = fid_statistics_to_metric(fid_features_to_statistics(own), self._statistics, verbose=False)
        size, subsets = self._subsets()
        kid = kid_features_to_metric(
            own, self._features, kid_subset_size=size, kid_subsets=subsets, rng_seed=_SEED, verbose=False
        )
        return fid[KEY_METRIC_FID], kid[KEY_METRIC_KID_MEAN]

    def _subsets(self) -> tuple[int, int]:
        """Size and number of KID's subsets; a single one with all patches if there are few."""
        return (_SUBSET, _SUBSETS) if self.patches > _SUBSET else (self.patches, 1)

    def about(self) -> list[str]:
        """Notes that explain the numbers."""
        size, subsets = self._subsets()
        kid = f"KID is the mean of {subsets} subsets of {size}, seed {_SEED}" if subsets > 1 else "KID uses all of them at once"
        lines = [
            f"FID and KID (torch-fidelity) compare {self.patches} patches of {SIDE}x{SIDE} pixels of all images together: "
            f"a grid, and a second one shifted by {SIDE // 2} pixels down and right; {kid}."
        ]
        if 0 in self._counts:
            small = f"{self._counts.count(0)} of the {len(self._counts)} images"
            lines.append(f"Not in FID and KID, with a side below {SIDE} pixels: {small}.")
        few = f", and fewer than {_FEATURES} patches do not determine its covariances" if self.patches < _FEATURES else ""
        return [
            *lines,
            f"FID has a bias that depends on the number of patches{few}: prefer KID, and compare either only within one table.",
            "KID is unbiased for independent sets. Here both sets show the same images, which lowers it: it can be below 0, "
            "above all with few patches.",
        ]
