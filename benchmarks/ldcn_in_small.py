"""Whether LDCN improves `small`: its weights are trained further for equal time, with a branch added to each depthwise kernel.

    python -m benchmarks.ldcn_in_small speeds PHOTOS WEIGHTS
    python -m benchmarks.ldcn_in_small train PHOTOS WEIGHTS --branch ldcn --minutes 30 --seconds 0.7 --seed 0 -o RUNS
    python -m benchmarks.ldcn_in_small measure VALIDATION RUNS --csv TABLE
    python -m benchmarks.ldcn_in_small compare TABLE

Branches: "none"; "static", a second depthwise kernel of dilation 2; "ldcn", Lite DCN with 16 channels per group. Branches are
initialized to zero, so all runs start from the same function. A run has as many steps as fit into --minutes at its own speed:
give the speed as --seconds per step, measured on an idle machine (`speeds`), so that other load does not change the result.
`measure` adds the rate-distortion curve of each run to a table, which `compare` reads.
"""

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.equal_time import do_steps, seconds_per_step
from dkic.coding.image_formats import images_in
from dkic.coding.image_reading import read_image
from dkic.evaluation.metric_registry import METRICS, load_metrics
from dkic.evaluation.rate_distortion import Curve, bd_rate
from dkic.models import PRESETS, network_of
from dkic.models.codec_network import CodecNetwork
from dkic.models.trainable import trainable
from dkic.models.variable_rate import ConvBlock
from dkic.models.weights_file import load_weights
from dkic.ops import ldcn
from dkic.training.photos import PhotoFolder
from dkic.training.processes import accelerator_for
from dkic.training.recipe import Recipe
from dkic.training.recipe_file import read_recipe
from dkic.training.staged_run import StagedRun

RECIPE = Path(__file__).resolve().parents[1] / "configs" / "relay" / "small_perceptual.toml"
QUALITIES = (5, 20, 40, 60, 80)
GROUP_CHANNELS = 16
SIDE = 768  # of the center crops of photographs, on which runs are compared
RUN = ("weights", "minutes", "seed", "branch")  # weights: beginning of the SHA-256 of those that a run started from


class StaticBranch(nn.Module):
    """A depthwise 3x3 kernel of dilation 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=2, dilation=2, groups=channels)
        nn.init.zeros_(self.depthwise.weight)
        nn.init.zeros_(self.depthwise.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.depthwise(x)


class LdcnBranch(nn.Module):
    """Lite DCN with a linear mask; offsets and masks come from a depthwise 3x3 and a 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.taps = channels // GROUP_CHANNELS * 9
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.offset_mask = nn.Conv2d(channels, self.taps * 3, 1)
        nn.init.zeros_(self.offset_mask.weight)
        nn.init.zeros_(self.offset_mask.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        offset, mask = self.offset_mask(self.depthwise(x)).split((self.taps * 2, self.taps), 1)
        return ldcn(x, offset, mask)


BRANCHES: dict[str, Callable[[int], nn.Module] | None] = {"none": None, "static": StaticBranch, "ldcn": LdcnBranch}


class Sum(nn.Module):
    """kernel(x) + branch(x)."""

    def __init__(self, kernel: nn.Module, branch: nn.Module) -> None:
        super().__init__()
        self.kernel, self.branch = kernel, branch

    def forward(self, x: Tensor) -> Tensor:
        return self.kernel(x) + self.branch(x)


def with_branches(model: CodecNetwork, branch: str) -> CodecNetwork:
    """The model with a branch added to each depthwise kernel of its transforms."""
    make = BRANCHES[branch]
    for block in [module for module in model.modules() if isinstance(module, ConvBlock)] if make else []:
        block.depthwise = Sum(block.depthwise, make(block.depthwise.in_channels))  # type: ignore[assignment, misc]
    return model


class BranchRun(StagedRun):
    """The relay's recipe for a model with branches."""

    def __init__(self, branch: str, weights: str, recipe: Recipe, photos: PhotoFolder, device: str | None) -> None:
        self.branch = branch
        self.start = trainable(load_weights(Path(weights)))
        super().__init__(recipe, photos, accelerator_for(device))

    def new_model(self) -> CodecNetwork:
        model = super().new_model()
        model.load_state_dict(self.start.state_dict())
        return with_branches(model, self.branch)


def recipe_of(steps: int, seed: int) -> Recipe:
    """The relay's schedule for this number of steps."""
    recipe = read_recipe(RECIPE)
    epochs = sum(stage.epochs for stage in recipe.stages)
    return Recipe.of(recipe.to_dict() | {"epoch_steps": max(1, steps // epochs), "seed": seed})


def folder_of(photos: Path) -> PhotoFolder:
    recipe = read_recipe(RECIPE)
    return PhotoFolder(photos, recipe.crop, least_scale=recipe.least_scale)


PHOTOS = click.argument("photos", type=click.Path(exists=True, path_type=Path))
WEIGHTS = click.argument("weights")
DEVICE = click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: a GPU where there is one.")


@click.group()
def main() -> None:
    """Train small with branches for as long, and compare the branches."""


@main.command()
@PHOTOS
@WEIGHTS
@DEVICE
def speeds(photos: Path, weights: str, device: str | None) -> None:
    """Measure the seconds a step with each branch, twice, alternating: the median of 20, after 5 that don't count."""
    torch.set_num_threads(1)
    folder = folder_of(photos)
    for branch in [*BRANCHES, *BRANCHES]:
        run = BranchRun(branch, weights, recipe_of(100, 0), folder, device)
        click.echo(f"{branch}: {seconds_per_step(run):.3f} s")


@main.command()
@PHOTOS
@WEIGHTS
@click.option("--branch", type=click.Choice(list(BRANCHES)), required=True)
@click.option("--minutes", type=click.FloatRange(min=0.1), default=30.0, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), required=True, help="Of a step.")
@click.option("--seed", default=0, show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
@DEVICE
def train(
    photos: Path, weights: str, branch: str, minutes: float, seconds: float, seed: int, out: Path, device: str | None
) -> None:
    """Train with a branch; writes WEIGHTS-MINUTES-SEED-BRANCH.pt to OUT, WEIGHTS being the beginning of their hash."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    run = BranchRun(branch, weights, recipe_of(int(minutes * 60 / seconds), seed), folder_of(photos), device)
    click.echo(f"{branch}: {run.steps} steps in {minutes:g} minutes")
    do_steps(run, branch)
    start = hashlib.sha256(Path(weights).read_bytes()).hexdigest()[:8]
    torch.save(run.trained().state_dict(), out / f"{start}-{minutes:g}-{seed}-{branch}.pt")


@main.command()
@PHOTOS
@click.argument("runs", type=click.Path(exists=True, path_type=Path))
@click.option("--csv", "table", type=click.Path(path_type=Path), required=True)
def measure(photos: Path, runs: Path, table: Path) -> None:
    """Add the curves of the runs in RUNS, on the middle of the PHOTOS, to a table, unless they are there."""
    images = [middle_of(read_image(path).pixels) for path in images_in(photos).images]
    measured = curves(table)
    for path in sorted(runs.glob("*.pt")):
        run = tuple(path.stem.split("-"))
        if run in measured:
            continue
        curve = curve_of(path, run[-1], images)
        new = not table.exists()
        with table.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow([*RUN, "quality", "bpp", *METRICS])
            for quality, *values in zip(QUALITIES, curve.bpp, *curve.values.values(), strict=True):
                writer.writerow([*run, quality, *(f"{value:.5g}" for value in values)])


@main.command()
@click.argument("table", type=click.Path(exists=True, path_type=Path))
def compare(table: Path) -> None:
    """Print BD-rates of each run against the run without a branch of the same start, minutes and seed, by each metric."""
    found = curves(table)
    click.echo(f"| {' | '.join(RUN)} | {' | '.join(metric.label for metric in METRICS.values())} |")
    click.echo(f"|{' --- |' * (len(RUN) + len(METRICS))}")
    for run, curve in found.items():
        anchor = found.get((*run[:-1], "none"))
        if anchor is not None and curve is not anchor:
            rates = [bd_rate(curve, anchor, metric)[0] for metric in METRICS]
            click.echo(f"| {' | '.join(run)} | {' | '.join(f'{rate:+.1f} %' for rate in rates)} |")


def curves(table: Path) -> dict[tuple[str, ...], Curve]:
    """The curves in a table, by run."""
    if not table.exists():
        return {}
    points: dict[tuple[str, ...], list[dict[str, str]]] = {}
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            points.setdefault(tuple(row[name] for name in RUN), []).append(row)
    return {
        run: Curve(run[-1], column(rows, "bpp"), {name: column(rows, name) for name in METRICS}) for run, rows in points.items()
    }


def column(rows: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])


def middle_of(pixels: np.ndarray) -> Tensor:
    """uint8 `[H, W, 3]` -> float `[1, 3, h, w]` in [0, 1], sides multiples of 32 up to SIDE."""
    h, w = (min(size // 32 * 32, SIDE) for size in pixels.shape[:2])
    top, left = (pixels.shape[0] - h) // 2, (pixels.shape[1] - w) // 2
    x = torch.from_numpy(pixels[top : top + h, left : left + w].copy()).permute(2, 0, 1)[None].float() / 255
    return x.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def curve_of(path: Path, branch: str, images: list[Tensor]) -> Curve:
    """Means over the images at QUALITIES; rates are those of the rounded latent."""
    model = with_branches(network_of(PRESETS["small"]), branch).eval()
    model.load_state_dict(torch.load(path, weights_only=True))
    compare_by, points = load_metrics(METRICS), []
    for quality in QUALITIES:
        figures = []
        for x in images:
            out = model(x, None, torch.tensor([float(quality)]))
            shown, original = ((t.clamp(0, 1) * 255).round().to(torch.uint8) for t in (out.x_hat, x))
            bpp = out.quantized_bits.item() / x[0, 0].numel()
            figures.append([bpp, *(metric(original, shown).item() for metric in compare_by.values())])
        points.append(np.mean(figures, axis=0))
    bpp, *values = np.array(points).T
    return Curve(path.stem, bpp, dict(zip(METRICS, values, strict=True)))


if __name__ == "__main__":
    main()
