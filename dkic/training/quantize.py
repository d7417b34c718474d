"""Quantizing a trained model's entropy networks, for files that decode alike everywhere: `dkic quantize`."""

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

_CALIBRATION_STEPS = 16  # batches whose largest numbers the activation scales span
_MEASURED_QUALITIES = (1.0, 25.0, 50.0, 75.0, 100.0)
_GOLDEN = 0.618034  # its multiples spread evenly over [0, 1)


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
    """Write `model` (a float weights file, or another name of one; see `find_weights`) with quantized entropy networks to `out`.

    The transforms are not trained; the file has them as `save_weights` stores them.

    Args:
        photos: a folder to calibrate the activation scales and to train on.
        device: what trains and measures, see `device_for`. The integers are made of what was trained on the CPU.
        measure: another one, whose rates before and after are told.
        log: takes a line of text. show: is told every step of training.

    Raises:
        DkicError: the model is quantized already, a layer breaks a bound (the message names it), or as `device_for` has it.
        TrainingFailed: a loss is not finite.
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
        round_large(transform)  # as the file will have them, so that what follows is trained for their latents
    seed = settings.seed + 1  # other crops than are trained on
    _calibrate(network, Batches(folder, seed, [range(settings.batch)], default_workers(where), where.type == "cuda", log), where)
    prepare(network)
    untrained = math.nan
    if settings.steps:
        untrained = rate(network) if images else math.nan
        run = QuantizationRun(network, settings, folder, where, workers=default_workers(where), tell=log)
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
    """Bits of y of an image `[1, 3, H, W]`; of a variable-rate network their mean over a few qualities."""
    qualities = [torch.full((1,), q, device=x.device) for q in _MEASURED_QUALITIES] if network.variable_rate else [None]
    latents = latents_of(network, x)
    return sum(network.latent_bits(*latents, quality).quantized_bits.item() for quality in qualities) / len(qualities)


def _images(folder: Path) -> Iterator[Tensor]:
    """`[1, 3, H, W]` each, cut to multiples of 64."""
    for path in images_in(folder).images:
        x = torch.from_numpy(read_image(path).pixels.copy()).permute(2, 0, 1)[None].float() / 255
        h, w = (side // SIZE_MULTIPLE * SIZE_MULTIPLE for side in x.shape[-2:])
        if h and w:
            yield x[..., :h, :w]


def _calibrate(network: CodecNetwork, batches: Batches, device: torch.device) -> None:
    with torch.no_grad(), calibrate(network):
        for i in range(_CALIBRATION_STEPS):
            (crops,) = batches.of(i)
            x = pixels_of(crops, device)
            # Evenly spaced qualities, from another one on in every batch.
            qualities = spread_qualities(i * _GOLDEN % 1, len(x), device) if network.variable_rate else None
            network.latent_bits(*latents_of(network, x), qualities)
