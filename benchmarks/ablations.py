"""Ablations: `tiny` trained with its LDCN blocks or its slices of increasing width replaced; and BD-rates.

    python -m benchmarks.ablations train PHOTOS --variant tiny --out RUNS       # then convolutions, then equal-slices
    python -m benchmarks.ablations compare HELD_OUT RUNS

A variant has as many parameters as tiny, and as many steps as fit into --minutes at its own speed. Give the speed as --seconds a
step, measured on an idle machine (`speeds PHOTOS` measures all variants), so that other load does not change the result. Six
tenths of the steps are common to all rates; then a tenth goes to each of four.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.equal_time import do_steps, seconds_per_step
from dkic.coding.image_formats import images_in
from dkic.coding.image_reading import read_image
from dkic.errors import DkicError
from dkic.evaluation.rate_distortion import Curve, bd_rate
from dkic.losses.lpips import LPIPS
from dkic.models import DKIC, PRESETS
from dkic.models.config import ModelConfig, SliceSpec
from dkic.nn.ldcn_block import LDCNBlock, plus_branch
from dkic.training.photos import PhotoFolder
from dkic.training.processes import accelerator_for
from dkic.training.recipe import Recipe
from dkic.training.staged_run import StagedRun
from dkic.training.step_result import psnr_of

TINY = PRESETS["tiny"]
# Five slices of equal width, each in the two passes of a checkerboard: a symmetric space-channel context. The context's width
# is chosen for about as many parameters as tiny.
EQUAL_SLICES = replace(TINY, slices=tuple(SliceSpec(c, 2) for c in (26, 26, 26, 25, 25)), context_channels=91)
# Targets and lambdas of the shipped qualities 2 to 5.
RATES = {"2": (0.055, 1.87), "3": (0.1, 0.765), "4": (0.18, 0.306), "5": (0.32, 0.1275)}
COMMON, EACH = 0.6, 0.1  # of the minutes
_EPOCHS = 20  # that a run is divided into


class ConvolutionBlock(nn.Module):
    """x + 1x1(relu(3x3(x))), with the inner width that gives an LDCN block's number of parameters."""

    def __init__(self, channels: int, like: nn.Module) -> None:
        super().__init__()
        inside = round((parameters(like) - channels) / (channels * 10 + 1))
        self.body = nn.Sequential(nn.Conv2d(channels, inside, 3, padding=1), nn.ReLU(), nn.Conv2d(inside, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return plus_branch(x, self.body(x))


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def convolutions(config: ModelConfig) -> DKIC:
    """The model with every LDCN block, also in the hyper-synthesis, replaced by a convolution block."""
    model = DKIC(config)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, LDCNBlock):
                setattr(parent, name, ConvolutionBlock(child.value.in_channels, child))
    return model


def equal_slices(_: ModelConfig) -> DKIC:
    return DKIC(EQUAL_SLICES)


VARIANTS: dict[str, Callable[[ModelConfig], DKIC]] = {
    "tiny": DKIC,
    "convolutions": convolutions,
    "equal-slices": equal_slices,
}


class VariantRun(StagedRun):
    """The recipe's run of a variant."""

    def __init__(self, variant: str, recipe: Recipe, photos: PhotoFolder, device: str | None) -> None:
        self.variant = variant
        super().__init__(recipe, photos, accelerator_for(device))

    def new_model(self) -> DKIC:
        return VARIANTS[self.variant](self.config)


def recipe_of(rate: str, steps: int, common: bool) -> Recipe:
    """Recipe of the common part, from initial weights, or of one rate."""
    target, lambda_alpha = RATES[rate]
    first = {"epochs": _EPOCHS // 5, "target_factor": 5.0, "lambda_factor": 0.25}  # before the rate has its full weight
    stages = [first, {"epochs": _EPOCHS - _EPOCHS // 5}] if common else [{"epochs": _EPOCHS}]
    rates, falls = ([1e-3, 5e-4], [13]) if common else ([3e-4, 1e-4, 3e-5], [10, 16])
    return Recipe.of(
        {
            "preset": "tiny",
            "batch": 8,
            "crop": 128,
            "epoch_steps": max(1, steps // _EPOCHS),
            "precision": "bfloat16",
            "ema": 0.99,
            "lpips_shifts": 16,
            "least_scale": 0.4,
            "weights": {"mse": 0.0007, "lpips": 1.0, "gan": 0.0},
            "rate": {"target": target, "lambda_alpha": lambda_alpha, "lambda_beta": lambda_alpha * 0.353},
            "learning_rate": {"values": rates, "epochs": falls},
            "stages": stages,
        }
    )


@click.group()
def main() -> None:
    """Train variants of tiny for the same time, and compare them."""


@main.command()
@click.argument("photos", type=click.Path(path_type=Path))
@click.option("--variant", type=click.Choice(list(VARIANTS)), required=True)
@click.option("--minutes", type=click.FloatRange(min=0.1), default=30.0, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), required=True, help="Of a step.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: a GPU where there is one.")
def train(photos: Path, variant: str, minutes: float, seconds: float, out: Path, threads: int, device: str | None) -> None:
    """Train a variant on PHOTOS; writes a file for each rate to OUT."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    try:
        folder = PhotoFolder(photos, 128, least_scale=0.4)
        steps = int(minutes * 60 / seconds)
        click.echo(f"{variant}: {steps} steps in {minutes:g} minutes")
        common = VariantRun(variant, recipe_of("3", int(steps * COMMON), True), folder, device)
        do_steps(common, variant)
        for rate in RATES:
            run = VariantRun(variant, recipe_of(rate, int(steps * EACH), False), folder, device)
            run.start_with(common.trained())
            do_steps(run, variant)
            torch.save(run.trained().state_dict(), out / f"{variant}-{rate}.pt")
    except DkicError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.argument("photos", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: a GPU where there is one.")
def speeds(photos: Path, threads: int, device: str | None) -> None:
    """Measure the seconds a step of each variant, twice, alternating."""
    torch.set_num_threads(threads)
    try:
        folder = PhotoFolder(photos, 128, least_scale=0.4)
        for variant in [*VARIANTS, *VARIANTS]:
            run = VariantRun(variant, recipe_of("3", 100, True), folder, device)
            click.echo(f"{variant}: {seconds_per_step(run, 30):.3f} s")
    except DkicError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.argument("photos", type=click.Path(path_type=Path))
@click.argument("runs", type=click.Path(path_type=Path))
def compare(photos: Path, runs: Path) -> None:
    """Print the rate and distortion of each variant in RUNS on PHOTOS, and BD-rates against tiny."""
    try:
        images = [torch.from_numpy(read_image(path).pixels.copy()) for path in images_in(photos).images]
        found = [curve_of(name, runs, images) for name in VARIANTS if list(runs.glob(f"{name}-*.pt"))]
    except (DkicError, OSError) as error:
        raise click.ClickException(str(error)) from None
    if not found or found[0].codec != "tiny":
        raise click.ClickException(f"{runs}: there is no run of tiny, against which others are compared")
    click.echo("| variant | parameters | bits per pixel | LPIPS | PSNR | BD-rate: LPIPS | PSNR |")
    click.echo("| --- | --- | --- | --- | --- | --- | --- |")
    for curve in found:
        by = [f"{bd_rate(curve, found[0], metric)[0]:+.1f} %" for metric in ("lpips", "psnr")]
        cells = [" ".join(f"{v:.{n}f}" for v in values) for n, values in _columns(curve)]
        click.echo(f"| {curve.codec} | {parameters(VARIANTS[curve.codec](TINY)):,} | {' | '.join(cells + by)} |")


def _columns(curve: Curve) -> list[tuple[int, np.ndarray]]:
    return [(3, curve.bpp), (3, curve.values["lpips"]), (2, curve.values["psnr"])]


@torch.inference_mode()
def curve_of(variant: str, runs: Path, images: list[Tensor]) -> Curve:
    """Means over the images (sides are multiples of 64); rates are those of the rounded latent."""
    network, points = LPIPS("alex"), []
    for rate in RATES:
        model = VARIANTS[variant](TINY).eval()
        model.load_state_dict(torch.load(runs / f"{variant}-{rate}.pt", weights_only=True))
        figures = []
        for pixels in images:
            x = (pixels.permute(2, 0, 1)[None].float() / 255).contiguous(memory_format=torch.channels_last)
            out = model(x)
            shown = (out.x_hat.clamp(0, 1) * 255).round() / 255
            bpp = out.quantized_bits.item() / x[0, 0].numel()
            mse = (shown - x).square().mean().item()
            figures.append((bpp, network(x, shown).item(), psnr_of(mse)))
        points.append(np.mean(figures, axis=0))
    bpp, lpips, psnr = np.array(points).T
    return Curve(variant, bpp, {"lpips": lpips, "psnr": psnr})


if __name__ == "__main__":
    main()
