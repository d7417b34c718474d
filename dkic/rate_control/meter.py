"""What a picture costs at a quality level: it is coded, decoded and compared."""

from typing import Literal, get_args

from dkic.coding.codec import Codec
from dkic.coding.image_io import Picture
from dkic.errors import DkicError
from dkic.evaluation.metrics import batch, lpips, mse
from dkic.losses.lpips import LPIPS
from dkic.rate_control.measurement_cache import Measurement

Distortion = Literal["lpips", "mse"]


class Meter:
    """Measures pictures. It can be pickled, with all the weights that it needs.

    Args:
        codec: what codes them.
        distortion: "lpips" (by AlexNet) or "mse".
        tile, icc: as `Codec.compress` has them.

    Raises:
        DkicError: LPIPS' weights can't be had.
    """

    def __init__(
        self, codec: Codec, distortion: Distortion, tile: int | None = None, icc: Literal["keep", "drop"] = "keep"
    ) -> None:
        if distortion not in get_args(Distortion):
            raise DkicError(f"distortion must be {' or '.join(get_args(Distortion))}, not {distortion}")
        self._codec, self._tile, self._icc = codec, tile, icc
        self._network = _network().to(codec.device) if distortion == "lpips" else None

    def measure(self, picture: Picture, quality: int, qstep: int = 0) -> Measurement:
        """Of the codec's level `quality`, at that qstep. Raises DkicError: the distortion is not defined for this picture."""
        side = 1 if self._network is None else self._network.backbone.least_side
        if min(picture.width, picture.height) < side:
            raise DkicError(
                f"LPIPS is not defined for {picture.width}x{picture.height} pixels, only for sides of {side} or more; "
                "leave the picture out, or take --distortion mse"
            )
        data = self._codec.compress(picture, quality, tile=self._tile, qstep=qstep, icc=self._icc)
        decoded = self._codec.decompress(data, "numpy", tile=self._tile)
        x, x_hat = (batch(pixels).to(self._codec.device) for pixels in (picture.pixels, decoded))
        distortion = mse(x, x_hat) if self._network is None else lpips(x, x_hat, self._network)
        return Measurement(picture.width * picture.height, len(data), distortion.item())


def _network() -> LPIPS:
    try:
        return LPIPS("alex")
    except DkicError as error:
        raise DkicError(f"{error}; or take --distortion mse") from None
