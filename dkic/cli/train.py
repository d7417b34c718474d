"""`dkic train`."""

from pathlib import Path
from typing import Any, Literal

import click

from dkic.cli.messages import failing
from dkic.cli.options import PATH, THREADS, TRAINING_DEVICE


@click.command(short_help="Train on photographs.")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=PATH)
@click.option("-o", "--out", required=True, metavar="RUN", help="Folder for checkpoint, log and weights.")
@click.option("--config", type=PATH, help="A recipe (TOML), for LPIPS and a discriminator, instead of options.")
@click.option(
    "--start-from",
    metavar="FILE|NAME",
    help="Another RUN/warmed_up.pt, in place of the first stage; or weights, as of --model; with --quality if there are several.",
)
@click.option("--lpips-backbone", type=PATH, help="The file of LPIPS' ImageNet weights.")
@TRAINING_DEVICE
@click.option("--workers", type=click.IntRange(0, 256), help="Processes that decode.  [default: 1; for a GPU 4]")
@click.option("--save-every", type=click.IntRange(1), default=200, show_default=True, help="Steps between checkpoints.")
@click.option("--preset", default="tiny", show_default=True, help="tiny or paper.")
@click.option("--lambda", "lambda_", type=float, default=0.0067, show_default=True, help="Weight of the MSE.")
@click.option("--steps", type=int, default=100_000, show_default=True, help="Length of the learning-rate schedule.")
@click.option("--warmup-steps", type=int, help="First steps, where the rate weighs 1/8.  [default: a quarter of --steps]")
@click.option("--minutes", type=click.FloatRange(min=0), help="Stop, with a checkpoint, after this time.")
@click.option("--batch", type=int, default=8, show_default=True, help="Crops a step.")
@click.option("--crop", type=int, default=128, show_default=True, help="Side of a crop; a multiple of 64.")
@click.option("--lr", "learning_rate", type=float, default=1e-3, show_default=True, help="Adam's peak learning rate.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of crops, noise and first weights.")
@click.option("-q", "--quality", type=click.IntRange(1, 255), default=1, show_default=True, help="Quality of the weights.")
@click.option("--resume", is_flag=True, help="Continue RUN exactly; of its settings only --steps may change.")
@THREADS
@click.pass_context
def train(
    context: click.Context,
    /,
    folders: tuple[Path, ...],
    out: str,
    config: Path | None,
    start_from: str | None,
    lpips_backbone: Path | None,
    minutes: float | None,
    quality: int,
    resume: bool,
    device: Literal["cpu", "cuda"] | None,
    workers: int | None,
    save_every: int,
    **options: Any,
) -> None:
    """Train on the photographs in the folders DIR.

    For rate and mean squared error, loss = bpp + lambda * 255^2 * MSE; or as the recipe in a --config says. Several processes
    may share the work, as torchrun --nproc-per-node 8 -m dkic train starts them. Needs the extra train.
    """
    from tqdm import tqdm

    from dkic.training.extra import check_train_extra

    check_train_extra()
    from dkic.cli.progress import StepBar
    from dkic.cli.training_recipe import recipe_of
    from dkic.training.run import TrainingFailed
    from dkic.training.train import train_folder

    given = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
    if options["warmup_steps"] is None:
        options["warmup_steps"] = options["steps"] // 4
    recipe = recipe_of(Path(out), config, options, given, resume)
    with failing(TrainingFailed), StepBar() as show:
        weights = train_folder(
            folders,
            recipe,
            Path(out),
            quality=quality,
            resume=resume,
            minutes=minutes,
            start_from=start_from,
            lpips_backbone=lpips_backbone,
            device=device,
            workers=workers,
            save_every=save_every,
            log=tqdm.write,
            show=show,
        )
    click.echo(f"{weights}: try it with `dkic compress photo.png -o photo.dkic --model {weights}`")
