"""Quantizing a trained model's entropy networks, for files that decode alike everywhere: `dkic quantize`."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dkic.coding.image_formats import images_below, images_in
from dkic.coding.image_reading import read_image
from dkic.entropy.quantization import Arithmetic
from dkic.errors import DkicError
from dkic.models.codec_network import CodecNetwork
from dkic.models.dkic import SIZE_MULTIPLE
from dkic.models.int8_weights import round_large
from dkic.models.weights_file import find_weights, load_weights, save_weights
from dkic.output_file import check_output
from dkic.quantized import calibrating, convert, simulate
from dkic.training.along_quality import spread_qualities
from dkic.training.batches import Batches, default_workers, pixels_of
from dkic.training.device import DeviceName, device_for
from dkic.training.photos import PhotoFolder
from dkic.training.run import check_finite
from dkic.training.schedule import cosine

_CALIBRATION_STEPS = 16  # batches whose largest numbers the activation scales span
_MEASURED_QUALITIES = (1.0, 25.0, 50.0, 75.0, 100.0)
_GOLDEN = 0.618034  # its multiples spread evenly over [0, 1)


@dataclass(frozen=True)
class QuantizeSettings:
    """How h_s and the context are trained on as integers, by Adam for the bits of y; all other parts are rounded alone.

    The learning rate falls from `learning_rate` to 1% of it along a cosine over the steps. Crops are drawn from (seed, step).
    """

    # Rounding alone costs the levels of tiny 0.1 to 0.9% of y's bits. 1000 steps of 128x128 made 2.4% of one's 0.4%, 250 of
    # 256x256 at a quarter of the learning rate 0.7% of 0.6%; less well trained networks gained by them.
    steps: int = 0
    batch: int = 8
    crop: int = 256
    learning_rate: float = 2e-4
    clip_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.crop < SIZE_MULTIPLE or self.crop % SIZE_MULTIPLE:
            raise DkicError(f"--crop must be a multiple of {SIZE_MULTIPLE}, not {self.crop}")
        if self.steps < 0 or self.batch < 1:
            raise DkicError(f"--steps must be at least 0 and --batch at least 1, not {self.steps} and {self.batch}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise DkicError(f"--lr must be above 0, not {self.learning_rate}")


def quantize(
    model: str | Path,
    photos: Path,
    out: Path,
    settings: QuantizeSettings,
    *,
    device: DeviceName | None = None,
    force: bool = False,
    measure: Path | None = None,
    log: Callable[[str], None] = print,
) -> None:
    """Write `model` (a float weights file, or the name of shipped ones) with quantized entropy networks to `out`.

    The transforms are not trained; the file has them as `save_weights` stores them.

    Args:
        photos: a folder to calibrate the activation scales and to train on.
        device: what trains and measures, see `device_for`. The integers are made of what was trained on the CPU.
        measure: another one, whose rates before and after are told.
        log: takes a line of text.

    Raises:
        DkicError: the model is quantized already, a layer breaks a bound (the message names it), or as `device_for` has it.
        TrainingFailed: a loss is not finite.
    """
    path, *others = find_weights(model)
    if others:
        raise DkicError(f"{model} has {len(others) + 1} quality levels; quantize their files one by one")
    weights = load_weights(path)
    if weights.arithmetic == Arithmetic.EXACT:
        raise DkicError(f"{path}: its entropy networks are quantized already")
    check_output(out, force)
    where = device_for(device)
    network = weights.model.float().to(where)
    folder = PhotoFolder(photos, settings.crop)
    for given, find in ((photos, images_below), (measure, images_in)):
        if given and (skipped := find(given).skipped()):
            log(f"{given}: {skipped}")
    pictures = list(_pictures(measure)) if measure else []
    if measure and not pictures:
        raise DkicError(f"{measure}: no rate can be measured, as all its pictures are below {SIZE_MULTIPLE}x{SIZE_MULTIPLE}")

    def rate(network: CodecNetwork) -> float:
        with torch.inference_mode():
            bits = sum(_bits_of(network, x.to(where)) for x in pictures)
        return bits / sum(x[0, 0].numel() for x in pictures)

    def crops_of(seed: int) -> Callable[[int], Tensor]:
        """What gives the crops of each step, decoded ahead by processes of its own, which end when it is let go."""
        batches = Batches(folder, seed, [range(settings.batch)], default_workers(where), where.type == "cuda", log)

        def crops(step: int) -> Tensor:
            (one,) = batches.of(step)
            return pixels_of(one, where)

        return crops

    before = rate(network) if pictures else math.nan
    for transform in network.transforms():
        round_large(transform)  # as the file will have them, so that what follows is trained for their latents
    _calibrate(network, crops_of(settings.seed + 1))  # other crops than are trained on
    simulate(network)
    untrained = math.nan
    if settings.steps:
        untrained = rate(network) if pictures else math.nan
        _train(network, crops_of(settings.seed), settings)
    convert(network.cpu())
    network.eval()
    about = weights.about | {"quantized": {"from": weights.hash.hex(), **vars(settings), "photographs": len(folder)}}
    save_weights(out, network, weights.quality, about, weights.tables)
    if pictures:
        after = rate(load_weights(out).model.to(where))
        log(f"bits of y in {len(pictures)} pictures of {measure}: float {before:.5f} a pixel, quantized {after:.5f}")
        untrained_cost = f" (before training {untrained / before - 1:+.2%})" if settings.steps else ""
        log(f"cost: {after / before - 1:+.2%}{untrained_cost}")


def _latents(network: CodecNetwork, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """y and z_hat."""
    with torch.no_grad():
        y = network.analyse(x.contiguous(memory_format=torch.channels_last))
        z = network.hyper_latent(y)
        return y, None if z is None else z.round()


def _bits_of(network: CodecNetwork, x: Tensor) -> float:
    """Bits of y of an image `[1, 3, H, W]`; of a variable-rate network their mean over a few qualities."""
    qualities = [torch.full((1,), q, device=x.device) for q in _MEASURED_QUALITIES] if network.variable_rate else [None]
    latents = _latents(network, x)
    return sum(network.latent_bits(*latents, quality).quantized_bits.item() for quality in qualities) / len(qualities)


def _qualities(network: CodecNetwork, n: int, step: int, device: torch.device) -> Tensor | None:
    """`[n]`, evenly spaced from another one on at every step; None for a network of one quality."""
    if not network.variable_rate:
        return None
    return spread_qualities(step * _GOLDEN % 1, n, device)


def _pictures(folder: Path) -> Iterator[Tensor]:
    """`[1, 3, H, W]` each, cut to multiples of 64."""
    for path in images_in(folder).images:
        x = torch.from_numpy(read_image(path).pixels.copy()).permute(2, 0, 1)[None].float() / 255
        h, w = (side // SIZE_MULTIPLE * SIZE_MULTIPLE for side in x.shape[-2:])
        if h and w:
            yield x[..., :h, :w]


def _calibrate(network: CodecNetwork, crops: Callable[[int], Tensor]) -> None:
    with torch.no_grad(), calibrating(network):
        for i in range(_CALIBRATION_STEPS):
            x = crops(i)
            network.latent_bits(*_latents(network, x), _qualities(network, len(x), i, x.device))


def _train(network: CodecNetwork, crops: Callable[[int], Tensor], settings: QuantizeSettings) -> None:
    parameters = [p for part in network.entropy_networks().values() for p in part.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, settings.learning_rate)
    with tqdm(range(settings.steps), unit="step", mininterval=1) as progress:
        for i in progress:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * cosine(i, settings.steps)
            x = crops(i)
            noise = torch.Generator(x.device).manual_seed(settings.seed * 1_000_003 + i)
            out = network.latent_bits(*_latents(network, x), _qualities(network, len(x), i, x.device), noise)
            loss = out.bits.sum() / x[:, 0].numel()
            check_finite("loss", loss.item(), i, "--lr")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            check_finite("gradient", nn.utils.clip_grad_norm_(parameters, settings.clip_norm).item(), i, "--lr")
            optimizer.step()
            progress.set_postfix_str(f"bpp of y {out.quantized_bits.sum().item() / x[:, 0].numel():.3f}")
    for parameter in parameters:
        parameter.requires_grad_(False)
