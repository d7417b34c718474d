"""Post-training quantization of entropy networks (`dkic quantize`), so that files decode bit-exactly on every machine."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from dkic.coding.image_formats import images_below, images_in
from dkic.coding.image_reading import read_image
from dkic.entropy.arithmetic import Arithmetic
from dkic.errors import DkicError
from dkic.hub import find_weights
from dkic.models.codec_network import CodecNetwork
from dkic.models.dkic import SIZE_MULTIPLE
from dkic.models.int8_weights import round_large
from dkic.models.weights_file import load_weights, save_weights
from dkic.output_file import check_output
from dkic.quantized import calibrate, convert, prepare
from dkic.training.along_quality import spread_qualities
from dkic.training.batches import Batches, default_workers, pixels_of
from dkic.training.device import DeviceName, device_for
from dkic.training.loop import ShowStep, show_nothing, steps_of
from dkic.training.photos import PhotoFolder
from dkic.training.quantization_run import QuantizationRun, QuantizeSettings, latents_of

_CALIBRATION_STEPS = 16  # batches; activation scales cover their largest values
_MEASURED_QUALITIES = (1.0, 25.0, 50.0, 75.0, 100.0)
_GOLDEN = 0.618034  # fractional parts of its multiples are evenly distributed over [0, 1)


def quantize(
    model: str | Path,
    photos: Path,
    out: Path,
    settings: QuantizeSettings,
    *,
    device: DeviceName | None = None,
    force: bool = False,
    measure: Path | None = None,
    log: Callable[[str], None] = lambda line: None,
    show: ShowStep = show_nothing,
) -> None:
    """Quantizes the entropy networks of float weights and writes the result as a weights file.

    Activation scales are calibrated on random crops. With `settings.steps`, quantization-aware training of the entropy networks
    follows. The transforms are not trained; their large weights are rounded to 8 bits.

    Args:
        model: float weights of one quality; see `find_weights`.
        photos: folder of photographs for calibration and training.
        out: path of the weights file to write.
        settings: see `QuantizeSettings`.
        device: device of calibration, training and measurement; see `device_for`. The conversion to integers runs on the CPU.
        force: whether to overwrite `out`.
        measure: folder of images; the bitrate of y on them, before and after, is logged.
        log: called with each line of the report.
        show: called after each training step; see `ShowStep`.

    Raises:
        DkicError: the model is quantized already or has several qualities, a quantized layer exceeds a bound (the message names
            the layer), a folder or `out` is not usable; or see `device_for`.
        TrainingFailed: a loss or gradient is not finite.
    """
    path, *others = find_weights(model)
    if others:
        raise DkicError(f"{model}: has {len(others) + 1} qualities; quantize their files one by one")
    weights = load_weights(path)
    if weights.arithmetic == Arithmetic.EXACT:
        raise DkicError(f"{path}: its entropy networks are quantized already; give float weights")
    check_output(out, force)
    where = device_for(device)
    network = weights.model.float().to(where)
    folder = PhotoFolder(photos, settings.crop)
    for given, find in ((photos, images_below), (measure, images_in)):
        if given and (skipped := find(given).skipped()):
            log(f"{given}: {skipped}")
    images = list(_images(measure)) if measure else []
    if measure and not images:
        raise DkicError(f"{measure}: must have an image of at least {SIZE_MULTIPLE}x{SIZE_MULTIPLE} pixels")

    def rate(network: CodecNetwork) -> float:
        with torch.inference_mode():
            bits = sum(_bits_of(network, x.to(where)) for x in images)
        return bits / sum(x[0, 0].numel() for x in images)

    before = rate(network) if images else math.nan
    for transform in network.transforms():
        round_large(transform)  # to the values in the file, so that training sees the latents that they compute
    seed = settings.seed + 1  # crops that differ from those of training
    _calibrate(network, Batches(folder, seed, [range(settings.batch)], default_workers(where), where.type == "cuda", log), where)
    prepare(network)
    untrained = math.nan
    if settings.steps:
        untrained = rate(network) if images else math.nan
        run = QuantizationRun(network, settings, folder, where, workers=default_workers(where), warn=log)
        for _ in steps_of(run, show=show):
            pass
        network.requires_grad_(False)
    convert(network.cpu())
    network.eval()
    about = weights.about | {"quantized": {"from": weights.hash.hex(), **vars(settings), "photographs": len(folder)}}
    save_weights(out, network, weights.quality, about, weights.tables)
    if images:
        after = rate(load_weights(out).model.to(where))
        log(f"bits of y in {len(images)} images of {measure}: float {before:.5f} a pixel, quantized {after:.5f}")
        untrained_cost = f" (before training {untrained / before - 1:+.2%})" if settings.steps else ""
        log(f"cost: {after / before - 1:+.2%}{untrained_cost}")


def _bits_of(network: CodecNetwork, x: Tensor) -> float:
    """Bits of y of an image `[1, 3, H, W]`; for a variable-rate network, their mean over `_MEASURED_QUALITIES`."""
    qualities = [torch.full((1,), q, device=x.device) for q in _MEASURED_QUALITIES] if network.variable_rate else [None]
    latents = latents_of(network, x)
    return sum(network.latent_bits(*latents, quality).quantized_bits.item() for quality in qualities) / len(qualities)


def _images(folder: Path) -> Iterator[Tensor]:
    """Yields images `[1, 3, H, W]`, float32 in [0, 1], cropped to multiples of 64 pixels; smaller images are skipped."""
    for path in images_in(folder).images:
        x = torch.from_numpy(read_image(path).pixels.copy()).permute(2, 0, 1)[None].float() / 255
        h, w = (side // SIZE_MULTIPLE * SIZE_MULTIPLE for side in x.shape[-2:])
        if h and w:
            yield x[..., :h, :w]


def _calibrate(network: CodecNetwork, batches: Batches, device: torch.device) -> None:
    """Calibrates the activation scales on `_CALIBRATION_STEPS` batches."""
    with torch.no_grad(), calibrate(network):
        for i in range(_CALIBRATION_STEPS):
            (crops,) = batches.of(i)
            x = pixels_of(crops, device)
            # Evenly spaced qualities, with another offset in each batch.
            qualities = spread_qualities(i * _GOLDEN % 1, len(x), device) if network.variable_rate else None
            network.latent_bits(*latents_of(network, x), qualities)
