"""Learned codecs on equal terms: models of CompressAI, trained as `small` is, on the same photographs.

    python -m benchmarks.learned_peer speed PHOTOS mbt2018-mean
    python -m benchmarks.learned_peer train PHOTOS mbt2018-mean --quality 30 --minutes 34 --seconds 0.4 -o mbt2018-mean-q30.pt
    python -m benchmarks.learned_peer compare TEST RUN/small.safetensors mbt2018-mean-q10.pt mbt2018-mean-q30.pt

The loss is that of configs/relay/small_mse.toml, or of another recipe (--config), at one quality, as the peers have one network
per rate. The number of steps is what fits into --minutes at the peer's own speed: give that as --seconds per step, measured on
an idle machine (`speed`). `compare` encodes each photograph with the peer, and with dkic to at most the peer's bits.
"""

import importlib.metadata
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck
from compressai.models import CompressionModel, Elic2022Official, MeanScaleHyperprior
from torch import Tensor, nn

import dkic
from benchmarks.equal_time import do_steps, seconds_per_step
from benchmarks.source_commit import source_commit
from benchmarks.stored_table import StoredTable
from dkic.coding.codec import Codec
from dkic.coding.container import unpack
from dkic.coding.image_formats import images_in
from dkic.coding.image_reading import read_image
from dkic.doctor import processor
from dkic.evaluation.metric_registry import METRICS, Compare, load_metrics
from dkic.evaluation.metrics import batch
from dkic.models.codec_network import TrainingOutput
from dkic.training.along_quality import along
from dkic.training.photos import PhotoFolder
from dkic.training.processes import accelerator_for
from dkic.training.recipe import Recipe
from dkic.training.recipe_file import read_recipe
from dkic.training.staged_run import StagedRun

RECIPE = Path(__file__).resolve().parents[1] / "configs" / "relay" / "small_mse.toml"
QUANTILE_STEPS = 2000  # CompressAI trains the tails of z's tables by a loss of their own, which nothing else depends on
DIGITS = (3, 2, 2, *(metric.digits for metric in METRICS.values()))  # of rate, seconds and metrics
# mbt2018-mean has the widths of its lower qualities; ELIC half of its own.
PEERS: dict[str, Callable[[], CompressionModel]] = {
    "mbt2018-mean": lambda: MeanScaleHyperprior(128, 192),
    "elic": lambda: Elic2022Official(96, 160, [8, 8, 16, 32, 96]),
}


class Peer(nn.Module):
    """A model of CompressAI, with what a run asks of a network."""

    variable_rate = False

    def __init__(self, name: str) -> None:
        super().__init__()
        self.codec = PEERS[name]()

    @property
    def g_a(self) -> nn.Module:
        return self.codec.g_a

    @property
    def g_s(self) -> nn.Module:
        return self.codec.g_s

    def forward(self, x: Tensor, generator: torch.Generator) -> TrainingOutput:
        """The rate of the rounded latent, which only the log contains, is given as that with noise."""
        torch.manual_seed(generator.initial_seed() % 2**63)  # CompressAI draws its noise from the global generator
        out = self.codec(x)
        bits = sum((bits_of(likelihoods) for likelihoods in out["likelihoods"].values()), x.new_zeros(len(x)))
        return TrainingOutput(out["x_hat"], bits, bits.detach(), out["x_hat"][:0])


def bits_of(likelihoods: Tensor) -> Tensor:
    """Of every image `[N]`."""
    return -likelihoods.log2().sum((1, 2, 3))


class PeerRun(StagedRun):
    """A recipe's run with the peer in the model's place."""

    def __init__(self, name: str, recipe: Recipe, photos: PhotoFolder) -> None:
        self.name = name
        super().__init__(recipe, photos, accelerator_for("cpu"))

    def new_model(self) -> Peer:  # type: ignore[override]
        with torch.device("cpu"):
            return Peer(self.name).float()


def recipe_at(config: Path, quality: int, steps: int, seed: int, peak: float) -> Recipe:
    """A recipe of `small` at one quality: its weights as single numbers, its stages scaled to `steps`, and Adam."""
    values = read_recipe(config).to_dict()
    at = torch.tensor([float(quality)])
    values["weights"] = {name: float(along(weight, at)) for name, weight in values["weights"].items()}
    values["rate"] = {"weight": float(along(values["rate"]["weight"], at))}
    values["learning_rate"]["peak"] = peak
    epochs = sum(stage["epochs"] for stage in values["stages"])
    # A recipe names a preset of ours; of one quality, for those single numbers. The run replaces its network.
    return Recipe.of(values | {"optimizer": "adam", "preset": "tiny", "epoch_steps": max(1, steps // epochs), "seed": seed})


def run_of(name: str, photos: Path, recipe: Recipe) -> PeerRun:
    torch.set_num_threads(1)
    return PeerRun(name, recipe, PhotoFolder(photos, recipe.crop, least_scale=recipe.least_scale))


PHOTOS = click.argument("photos", type=click.Path(exists=True, path_type=Path))
NAME = click.argument("name", type=click.Choice(list(PEERS)))
CONFIG = click.option(
    "--config", type=click.Path(exists=True, path_type=Path), default=RECIPE, show_default="configs/relay/small_mse.toml"
)


@click.group()
def main() -> None:
    """Train learned codecs of CompressAI as small is trained, and compare them."""


@main.command()
@PHOTOS
@NAME
@CONFIG
def speed(photos: Path, name: str, config: Path) -> None:
    """Measure the seconds a step: the median of 20, after 5 that don't count."""
    click.echo(f"{seconds_per_step(run_of(name, photos, recipe_at(config, 50, 100, 0, 1e-3))):.3f} s")


@main.command()
@PHOTOS
@NAME
@CONFIG
@click.option("--quality", type=click.IntRange(1, 100), required=True, help="Of small, whose weights of the loss it gets.")
@click.option("--minutes", type=click.FloatRange(min=0.1), default=34.0, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), required=True, help="Of a step.")
@click.option("--peak", default=1e-3, show_default=True, help="Adam's peak learning rate.")
@click.option("--seed", default=0, show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
def train(
    photos: Path, name: str, config: Path, quality: int, minutes: float, seconds: float, peak: float, seed: int, out: Path
) -> None:
    """Train the peer NAME for a quality; writes its state to OUT."""
    run = run_of(name, photos, recipe_at(config, quality, int(minutes * 60 / seconds), seed, peak))
    click.echo(f"{run.steps} steps in {minutes:g} minutes")
    do_steps(run, out.stem)
    codec = run.trained().codec  # type: ignore[attr-defined]
    bottlenecks = [module for module in codec.modules() if isinstance(module, EntropyBottleneck)]
    optimizer = torch.optim.Adam([bottleneck.quantiles for bottleneck in bottlenecks], 0.05)
    for _ in range(QUANTILE_STEPS):
        optimizer.zero_grad()
        codec.aux_loss().backward()
        optimizer.step()
    torch.save({"name": name, "state": codec.state_dict()}, out)


@main.command()
@PHOTOS
@click.argument("model")
@click.argument("peers", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--threads", default=2, show_default=True)
def compare(photos: Path, model: str, peers: tuple[Path, ...], threads: int) -> None:
    """Print means over PHOTOS of MODEL and of PEERS at equal bits, as a stored table: rate, seconds, metrics."""
    torch.set_num_threads(threads)
    codec, metrics = dkic.load(model), load_metrics(METRICS)
    images = [read_image(path).pixels for path in images_in(photos).images]
    table = []
    for path in peers:
        peer = peer_of(path)
        theirs = [by_peer(peer, pixels, metrics) for pixels in images]
        ours = [by_dkic(codec, pixels, row[0], metrics) for pixels, row in zip(images, theirs, strict=True)]
        for name, rows in ((path.stem, theirs), (f"dkic, {Path(model).stem}", ours)):
            table.append((name, *(f"{value:.{digits}f}" for value, digits in zip(np.mean(rows, axis=0), DIGITS, strict=True))))
    columns = ("codec", "bits per pixel", "encode, s", "decode, s", *(metric.label for metric in METRICS.values()))
    command = f"python -m benchmarks.learned_peer compare PHOTOS {Path(model).name} {' '.join(path.name for path in peers)}"
    machine = f"{processor()}, {threads} thread{'s' * (threads > 1)}"
    versions = f"PyTorch {torch.__version__}, compressai {importlib.metadata.version('compressai')}"
    click.echo(StoredTable(command, machine, versions, source_commit(), columns, tuple(table)).text(), nl=False)


def peer_of(path: Path) -> CompressionModel:
    saved = torch.load(path, weights_only=True)
    codec = PEERS[saved["name"]]()
    codec.load_state_dict(saved["state"])
    codec.update(force=True)
    return codec.eval()


@torch.inference_mode()
def by_peer(peer: CompressionModel, pixels: np.ndarray, metrics: dict[str, Compare]) -> list[float]:
    """Bits per pixel of the coder's own bytes, seconds, metrics."""
    h, w = pixels.shape[:2]
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    padded = torch.nn.functional.pad(x, (0, -w % 64, 0, -h % 64), mode="replicate")
    coded, encode = timed(lambda: peer.compress(padded))
    decoded, decode = timed(lambda: peer.decompress(coded["strings"], coded["shape"])["x_hat"])
    shown = (decoded[0, :, :h, :w].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return [size_of(coded["strings"]) * 8 / (h * w), encode, decode, *scores(pixels, shown, metrics)]


def size_of(strings: list[Any] | bytes) -> int:
    """Bytes of all strings in nested lists."""
    return len(strings) if isinstance(strings, bytes) else sum(map(size_of, strings))


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
