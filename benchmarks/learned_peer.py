"""A learned codec on equal terms: CompressAI's MeanScaleHyperprior, trained as `small` is, on the same photographs.

    python -m benchmarks.learned_peer speed PHOTOS
    python -m benchmarks.learned_peer train PHOTOS --quality 30 --minutes 120 --seconds 0.7 -o peer-q30.pt
    python -m benchmarks.learned_peer compare TEST RUN/small.safetensors peer-q10.pt peer-q30.pt

The loss is that of configs/relay/small_perceptual.toml at one quality, as the peer has one network per rate. The number of steps
is what fits into --minutes at the peer's own speed: give that as --seconds per step, measured on an idle machine (`speed`).
`compare` encodes each photograph with the peer, and with dkic to at most the peer's bits.
"""

import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from compressai.models import MeanScaleHyperprior
from torch import Tensor

import dkic
from benchmarks.equal_time import do_steps, seconds_per_step
from dkic.coding.codec import Codec
from dkic.coding.container import unpack
from dkic.coding.image_formats import images_in
from dkic.coding.image_reading import read_image
from dkic.evaluation.metric_registry import METRICS, Compare, load_metrics
from dkic.evaluation.metrics import batch
from dkic.models.codec_network import TrainingOutput
from dkic.training.along_quality import along
from dkic.training.photos import PhotoFolder
from dkic.training.processes import accelerator_for
from dkic.training.recipe import Recipe
from dkic.training.recipe_file import read_recipe
from dkic.training.staged_run import StagedRun

RECIPE = Path(__file__).resolve().parents[1] / "configs" / "relay" / "small_perceptual.toml"
WIDTH, LATENT_CHANNELS = 128, 192  # mbt2018-mean's at its lower qualities
QUANTILE_STEPS = 2000  # CompressAI trains the tails of z's tables by a loss of their own, which nothing else depends on


class Peer(MeanScaleHyperprior):
    """With what a run asks of a network."""

    variable_rate = False

    def __init__(self) -> None:
        super().__init__(WIDTH, LATENT_CHANNELS)

    def forward(self, x: Tensor, generator: torch.Generator) -> TrainingOutput:
        torch.manual_seed(generator.initial_seed() % 2**63)  # CompressAI draws its noise from the global generator
        y = self.g_a(x)
        z = self.h_a(y)
        z_hat, z_likelihoods = self.entropy_bottleneck(z, training=True)
        scales, means = self.h_s(z_hat).chunk(2, 1)
        y_hat, y_likelihoods = self.gaussian_conditional(y, scales, means=means, training=True)
        with torch.no_grad():
            z_rounded, z_quantized = self.entropy_bottleneck(z, training=False)
            scales, means = self.h_s(z_rounded).chunk(2, 1)
            _, y_quantized = self.gaussian_conditional(y, scales, means=means, training=False)
        bits = bits_of(y_likelihoods) + bits_of(z_likelihoods)
        return TrainingOutput(self.g_s(y_hat), bits, bits_of(y_quantized) + bits_of(z_quantized), y_hat)


def bits_of(likelihoods: Tensor) -> Tensor:
    """Of every image `[N]`."""
    return -likelihoods.log2().sum((1, 2, 3))


class PeerRun(StagedRun):
    """A recipe's run with the peer in the model's place."""

    def new_model(self) -> Peer:  # type: ignore[override]
        with torch.device("cpu"):
            return Peer().float()


def recipe_at(quality: int, steps: int, seed: int) -> Recipe:
    """The relay's recipe at one quality, from nothing: with its weights as single numbers, and Adam at its usual peak."""
    values = read_recipe(RECIPE).to_dict()
    at = torch.tensor([float(quality)])
    values["weights"] = {name: float(along(weight, at)) for name, weight in values["weights"].items()}
    values["rate"] = {"weight": float(along(values["rate"]["weight"], at))}
    values["learning_rate"]["peak"] = 1e-3
    values |= {"optimizer": "adam", "compile": False}
    # A recipe names a preset of ours; of one quality, for those single numbers. The run replaces its network.
    return Recipe.of(values | {"preset": "tiny", "stages": [{"epochs": 1}], "epoch_steps": max(1, steps), "seed": seed})


def run_of(photos: Path, recipe: Recipe) -> PeerRun:
    torch.set_num_threads(1)
    return PeerRun(recipe, PhotoFolder(photos, recipe.crop, least_scale=recipe.least_scale), accelerator_for("cpu"))


PHOTOS = click.argument("photos", type=click.Path(exists=True, path_type=Path))


@click.group()
def main() -> None:
    """Train a learned codec of CompressAI as small is trained, and compare them."""


@main.command()
@PHOTOS
def speed(photos: Path) -> None:
    """Measure the seconds a step: the median of 20, after 5 that don't count."""
    click.echo(f"{seconds_per_step(run_of(photos, recipe_at(50, 100, 0))):.3f} s")


@main.command()
@PHOTOS
@click.option("--quality", type=click.IntRange(1, 100), required=True, help="Of small, whose weights of the loss it gets.")
@click.option("--minutes", type=click.FloatRange(min=0.1), default=120.0, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), required=True, help="Of a step.")
@click.option("--seed", default=0, show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
def train(photos: Path, quality: int, minutes: float, seconds: float, seed: int, out: Path) -> None:
    """Train the peer for a quality; writes its state to OUT."""
    run = run_of(photos, recipe_at(quality, int(minutes * 60 / seconds), seed))
    click.echo(f"{run.steps} steps in {minutes:g} minutes")
    do_steps(run, out.stem)
    model = run.trained()
    quantiles = model.entropy_bottleneck.quantiles
    optimizer = torch.optim.Adam([quantiles], 0.05)
    for _ in range(QUANTILE_STEPS):
        optimizer.zero_grad()
        model.aux_loss().backward()
        optimizer.step()
    torch.save(model.state_dict(), out)


@main.command()
@PHOTOS
@click.argument("model")
@click.argument("peers", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def compare(photos: Path, model: str, peers: tuple[Path, ...]) -> None:
    """Print means over PHOTOS of MODEL and of PEERS at equal bits: rate, seconds, metrics."""
    codec, metrics = dkic.load(model), load_metrics(METRICS)
    images = [read_image(path).pixels for path in images_in(photos).images]
    columns = ["codec", "bpp", "encode, s", "decode, s", *(metric.label for metric in METRICS.values())]
    click.echo(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for path in peers:
        peer = peer_of(path)
        theirs = [by_peer(peer, pixels, metrics) for pixels in images]
        ours = [by_dkic(codec, pixels, row[0], metrics) for pixels, row in zip(images, theirs, strict=True)]
        for name, rows in ((path.stem, theirs), (Path(model).stem, ours)):
            click.echo(f"| {name} | {' | '.join(f'{value:.4g}' for value in np.mean(rows, axis=0))} |")


def peer_of(path: Path) -> Peer:
    peer = Peer()
    peer.load_state_dict(torch.load(path, weights_only=True))
    peer.update(force=True)
    return peer.eval()


@torch.inference_mode()
def by_peer(peer: Peer, pixels: np.ndarray, metrics: dict[str, Compare]) -> list[float]:
    """Bits per pixel of the coder's own bytes, seconds, metrics."""
    h, w = pixels.shape[:2]
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    padded = torch.nn.functional.pad(x, (0, -w % 64, 0, -h % 64), mode="replicate")
    coded, encode = timed(lambda: peer.compress(padded))
    decoded, decode = timed(lambda: peer.decompress(coded["strings"], coded["shape"])["x_hat"])
    shown = (decoded[0, :, :h, :w].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    count = sum(len(strings[0]) for strings in coded["strings"])
    return [count * 8 / (h * w), encode, decode, *scores(pixels, shown, metrics)]


def by_dkic(codec: Codec, pixels: np.ndarray, rate: float, metrics: dict[str, Compare]) -> list[float]:
    """The same of dkic's files, which are at most `rate` bits per pixel; encoding once more at the quality that was found."""
    data = codec.compress(pixels, target_bpp=rate)
    quality = unpack(data).header.quality
    _, encode = timed(lambda: codec.compress(pixels, quality))
    shown, decode = timed(lambda: codec.decompress(data, "numpy"))
    return [len(data) * 8 / pixels[..., 0].size, encode, decode, *scores(pixels, shown, metrics)]


def timed(call: Callable[[], object]) -> tuple[object, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def scores(pixels: np.ndarray, shown: np.ndarray, metrics: dict[str, Compare]) -> list[float]:
    pair = batch(pixels, shown)
    return [metric(pair[:1], pair[1:]).item() for metric in metrics.values()]


if __name__ == "__main__":
    main()
