"""`Meter` measures the rate and distortion of an image at an operating point."""

from functools import partial
from typing import Literal, get_args

import numpy as np

from dkic.coding.codec import Codec
from dkic.coding.image_data import ImageData
from dkic.coding.operating_points import OperatingPoint
from dkic.errors import DkicError
from dkic.evaluation import metrics
from dkic.evaluation.measurement import Measurement, measure
from dkic.evaluation.metric_registry import Compare
from dkic.losses.lpips import LPIPS

Distortion = Literal["lpips", "mse"]


class Meter:
    """Measures images with one codec and one distortion. Can be pickled, with all its weights.

    Args:
        codec: encodes and decodes.
        distortion: "lpips" (AlexNet) or "mse".
        tile, icc: as in `Codec.compress`.

    Attributes:
        distortion: name of the score.

    Raises:
        DkicError: unknown distortion, or the weights of LPIPS are not available.
    """

    def __init__(
        self, codec: Codec, distortion: Distortion, tile: int | None = None, icc: Literal["keep", "drop"] = "keep"
    ) -> None:
        if distortion not in get_args(Distortion):
            raise DkicError(f"distortion: must be {' or '.join(get_args(Distortion))}, not {distortion}")
        self.distortion = distortion
        self._codec, self._tile, self._icc = codec, tile, icc
        self._network = _network().to(codec.device) if distortion == "lpips" else None
        metric: Compare = metrics.mse if self._network is None else partial(metrics.lpips, network=self._network)
        self._metrics: dict[str, Compare] = {distortion: metric}

    def measure(self, image: ImageData, point: OperatingPoint) -> Measurement:
        """The measurement of an image at an operating point. Raises DkicError: the distortion is not defined for its size."""
        side = 1 if self._network is None else self._network.backbone.min_side
        if min(image.width, image.height) < side:
            raise DkicError(
                f"LPIPS: is not defined for {image.width}x{image.height} pixels, only for sides of {side} or more; "
                "leave the image out, or use --distortion mse"
            )
        encode = partial(self._codec.compress, image, point.quality, tile=self._tile, qstep=point.qstep, icc=self._icc)
        return measure(image.pixels, encode, self._decode, self._metrics, device=self._codec.device)

    def _decode(self, data: bytes) -> np.ndarray:
        return self._codec.decompress(data, "numpy", tile=self._tile)


def _network() -> LPIPS:
    try:
        return LPIPS("alex")
    except DkicError as error:
        raise DkicError(f"{error}; or use --distortion mse") from None
