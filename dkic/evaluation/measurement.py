"""Rate and distortion of an image at an operating point: the loop that encodes, decodes and scores it."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from dkic.evaluation.metric_registry import Compare
from dkic.evaluation.metrics import batch
from dkic.output_file import write_atomically


@dataclass(frozen=True)
class Measurement:
    """Rate and distortion of an image at an operating point.

    pixels: of the image. bytes: size of its file. scores: by metric; NaN where a metric is not defined for the image.
    encode_seconds, decode_seconds: wall time; NaN if not measured in this process. They don't take part in comparisons.
    """

    pixels: int
    bytes: int
    scores: Mapping[str, float]
    encode_seconds: float = field(default=math.nan, compare=False, kw_only=True)
    decode_seconds: float = field(default=math.nan, compare=False, kw_only=True)

    @property
    def bpp(self) -> float:
        """Bits per pixel."""
        return self.bytes * 8 / self.pixels


def measure(
    pixels: np.ndarray,
    encode: Callable[[], bytes],
    decode: Callable[[bytes], np.ndarray],
    metrics: Mapping[str, Compare],
    *,
    file: Path | None = None,
    force: bool = False,
    device: torch.device | str = "cpu",
) -> Measurement:
    """Encodes, decodes and scores an image once.

    Args:
        pixels: the image, uint8 `[H, W, 3]`.
        encode: returns the contents of its file.
        decode: file contents -> uint8 `[H, W, 3]`.
        metrics: by the names that the scores get.
        file: store the file contents here and decode what is read back; `force` overwrites an existing file.
        device: where the metrics compute.

    Raises:
        DkicError: `file` can't be written. Errors of `encode` and `decode` pass through.
    """
    start = time.perf_counter()
    data = encode()
    encode_seconds = time.perf_counter() - start
    if file is not None:
        write_atomically(file, data, force)
        data = file.read_bytes()
    start = time.perf_counter()
    decoded = decode(data)
    decode_seconds = time.perf_counter() - start
    return Measurement(
        pixels=pixels.shape[0] * pixels.shape[1],
        bytes=len(data),
        scores=score(pixels, decoded, metrics, device),
        encode_seconds=encode_seconds,
        decode_seconds=decode_seconds,
    )


def score(
    pixels: np.ndarray, decoded: np.ndarray, metrics: Mapping[str, Compare], device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Each metric of a decoded image against the original, uint8 `[H, W, 3]` both."""
    x, x_hat = (batch(image).to(device) for image in (pixels, decoded))
    return {name: metric(x, x_hat).item() for name, metric in metrics.items()}
