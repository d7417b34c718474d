"""The command line: `dkic compress`, `decompress`, `info`, `doctor`, `demo`, `train`, `export`, `measure`, `allocate`,
`evaluate`.

Exit status: 0 done; 1 an input failed (the others were done); 2 wrong usage.
"""

import contextlib
import io
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

import dkic
from dkic.errors import DkicError
from dkic.evaluation.evaluate import evaluate
from dkic.inputs import FAULTS, each, identity, output_files, sentence, with_folders_opened
from dkic.memory import keep_freed_memory

if TYPE_CHECKING:
    from dkic.targeting.pictures import Pictures

MODEL = click.option(
    "--model", default="tiny", show_default=True, help="A shipped model's name, a weights file, or a folder of them."
)
INPUTS = click.argument("inputs", metavar="IN...", nargs=-1, required=True)
OUT = click.option("-o", "--out", required=True, metavar="OUT", help="A file; or a folder, where there are several inputs.")
FORCE = click.option("--force", is_flag=True, help="Overwrite files that exist.")


def _set_threads(_context: click.Context, _parameter: click.Parameter, threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _check_tile(_context: click.Context, _parameter: click.Parameter, tile: int | None) -> int | None:
    if tile and tile % 64:
        raise click.BadParameter(f"it must be a multiple of 64, not {tile}")
    return tile


THREADS = click.option(
    "--threads", type=click.IntRange(1, 256), callback=_set_threads, expose_value=False, help="CPU threads; all cores by default."
)


TILE = click.option(
    "--tile",
    type=click.IntRange(min=0),
    callback=_check_tile,
    metavar="PIXELS",
    help="Side of the tiles that bound memory; 0: none.  [default: 1024 above 4 MP]",
)


_DEVICES = click.Choice(["cpu", "cuda"])
DEVICE = click.option("--device", type=_DEVICES, default="cpu", show_default=True, help="What computes.")
TRAINING_DEVICE = click.option("--device", type=_DEVICES, help="Default: a GPU where there is one.")


_FILE = click.Path(path_type=Path)


def main() -> None:
    """Entry point of the `dkic` command."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may hold what the terminal can't show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        cli(prog_name="dkic")
    except DkicError as error:  # what is wrong with an option, before any input was touched
        click.echo(f"dkic: {error}", err=True)
        sys.exit(2)
    except OSError as error:  # a name that no file can have; or nothing more can be printed
        click.echo(f"dkic: {error.filename or 'standard output'}: {error.strerror}", err=True)
        sys.exit(2 if error.filename else 1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(dkic.__version__, prog_name="dkic")
def cli() -> None:
    """Learned image compression: pictures to small .dkic files and back."""
    keep_freed_memory()


@cli.command(short_help="Compress pictures to .dkic files.")
@INPUTS
@OUT
@click.option("--quality", type=int, help="Quality level of the model; the highest by default.")
@click.option(
    "--target-bpp",
    type=click.FloatRange(min=0, min_open=True),
    metavar="BPP",
    help="Choose the levels, for at most so many bits per pixel: all bits divided by all pixels.",
)
@click.option("--mean", is_flag=True, help="With --target-bpp: the mean of the pictures' own bits per pixel.")
@click.option(
    "--distortion",
    type=click.Choice(["lpips", "mse"]),
    help="With --target-bpp and several pictures: what is to be the least.  [default: lpips]",
)
@MODEL
@TILE
@click.option("--verify/--no-verify", default=True, show_default=True, help="Decode the symbols before a file is put in place.")
@DEVICE
@THREADS
@FORCE
def compress(
    inputs: tuple[str, ...],
    out: str,
    quality: int | None,
    target_bpp: float | None,
    mean: bool,
    distortion: Literal["lpips", "mse"] | None,
    model: str,
    tile: int | None,
    verify: bool,
    device: str,
    force: bool,
) -> None:
    """Compress pictures (PNG, JPEG, WebP, TIFF, PPM, BMP) to .dkic files.

    With --target-bpp one picture gets the highest quality level at which its file keeps to it. Of several, or of a folder IN,
    each gets its own level, for the least mean LPIPS (or --distortion mse) of all at that rate. For that they are coded and
    decoded at every level; what is measured is kept in $DKIC_CACHE or ~/.cache/dkic, so that a run that was stopped goes on
    where it was, and other targets take little time.
    """
    if target_bpp is None and (mean or distortion):
        raise click.UsageError(f"{'--mean' if mean else '--distortion'} goes with --target-bpp")
    if target_bpp is not None and not math.isfinite(target_bpp):
        raise click.UsageError(f"--target-bpp: it must be a finite number, not {target_bpp}")
    if target_bpp is not None and quality is not None:
        raise click.UsageError("give either --quality or --target-bpp")
    folders = target_bpp is not None and any(map(os.path.isdir, inputs))
    inputs = with_folders_opened(inputs) if folders else inputs
    targets = output_files(inputs, out, ".dkic", several=folders or len(inputs) > 1)
    from dkic.coding.codec import load
    from dkic.coding.container import unpack
    from dkic.coding.image_io import read_picture
    from dkic.output_file import check_output, write_atomically

    codec = load(model, device)
    if quality is not None and quality not in codec.qualities:
        raise click.UsageError(f"--quality: model {model} has quality {_list(codec.qualities)}, not {quality}")
    if target_bpp is not None and len(inputs) > 1:
        from dkic.targeting.pictures import Pictures

        kind: Literal["mean_bpp", "total_bpp"] = "mean_bpp" if mean else "total_bpp"
        by = distortion or "lpips"
        pictures = Pictures(codec, target_bpp, kind=kind, distortion=by, verify=verify, tile=tile, force=force)
        _compress_together(inputs, targets, pictures)

    def one(source: str, target: Path) -> str:
        check_output(target, force)
        picture = read_picture(source)
        start = time.perf_counter()
        data = codec.compress(picture, quality, target_bpp, verify=verify, tile=tile)
        seconds = time.perf_counter() - start
        write_atomically(target, data, force)
        bpp = len(data) * 8 / (picture.width * picture.height)
        chosen = "" if target_bpp is None else f"quality {unpack(data).header.quality}, "
        done = "encoded and verified" if verify else "encoded"
        return f"{source} -> {target}: {len(data)} bytes, {bpp:.3f} bpp, {chosen}{done} in {seconds:.2f} s"

    sys.exit(each(inputs, targets, one))


def _compress_together(inputs: tuple[str, ...], targets: list[Path], pictures: "Pictures") -> NoReturn:
    """Those that can't be coded are told, and the others brought to the target."""
    status = each(inputs, targets, pictures.measure)
    if not len(pictures):
        sys.exit(status)
    try:
        written, facts = pictures.write()
    except FAULTS as error:
        click.echo(f"dkic: {sentence(error)}", err=True)
        sys.exit(1)
    for file in written:
        size = f"{file.option.bytes} bytes, {file.bpp:.3f} bpp, quality {file.quality}"
        click.echo(f"{file.source} -> {file.target}: {size}")
    _print(facts)
    sys.exit(status)


@cli.command(short_help="Decompress .dkic files to pictures.")
@INPUTS
@OUT
@click.option("--model", help="Weights file or folder, for files that were not made with a shipped model.")
@TILE
@click.option("--salvage", is_flag=True, help="Decode pictures whose metadata is damaged, and say what is lost.")
@DEVICE
@THREADS
@FORCE
def decompress(
    inputs: tuple[str, ...], out: str, model: str | None, tile: int | None, salvage: bool, device: str, force: bool
) -> None:
    """Decompress .dkic files to pictures; the suffix says which kind, PNG in a folder."""
    from tqdm import tqdm

    targets = output_files(inputs, out, ".png", several=len(inputs) > 1)
    from dkic.coding.codec import Codec, load
    from dkic.coding.container import unpack
    from dkic.coding.image_io import picture_suffix, write_picture
    from dkic.models.weights_file import find_by_hash
    from dkic.output_file import check_output

    given = load(model, device) if model else None
    loaded: dict[bytes, Codec] = {}

    def one(source: str, target: Path) -> str:
        check_output(target, force)
        picture_suffix(target)
        file = unpack(_read_dkic(source), salvage=salvage)
        for lost in file.lost:
            tqdm.write(f"dkic: {source}: {lost}", file=sys.stderr)
        model_hash = file.header.model_hash
        codec = given or loaded.get(model_hash)
        if codec is None:
            codec = loaded[model_hash] = load(find_by_hash(model_hash), device)
        start = time.perf_counter()
        picture = codec.decompress(file, "picture", tile=tile)
        seconds = time.perf_counter() - start
        write_picture(picture, target, force)
        return f"{source} -> {target}: {picture.width}x{picture.height}, decoded in {seconds:.2f} s"

    sys.exit(each(inputs, targets, one))


@cli.command()
@click.argument("file", required=False)
@click.option("--model", help="Instead of a file: a preset (tiny, base) or a weights file; its size and cost.")
def info(file: str | None, model: str | None) -> None:
    """What is in a .dkic FILE, or what a model costs."""
    if (file is None) == (model is None):
        raise click.UsageError("give a .dkic file or --model")
    if model is not None:
        _print(_model_facts(model))
        return
    with _failing():
        _print(_file_facts(str(file)))


def _file_facts(path: str) -> Iterable[tuple[str, str]]:
    from dkic.coding.container import unpack
    from dkic.entropy.quantization import arithmetic_name
    from dkic.models.weights_file import find_by_hash

    data = _read_dkic(path)
    try:
        content = unpack(data)
    except DkicError as error:
        raise DkicError(f"{path}: {error}") from None
    header = content.header
    try:
        model = find_by_hash(header.model_hash).stem
    except DkicError:
        model = "not a shipped model"
    yield "size", f"{header.width}x{header.height}" + (", grayscale" if header.grayscale else "")
    yield "bytes", f"{len(data)} ({len(data) * 8 / (header.width * header.height):.3f} bits per pixel)"
    yield "model", f"{header.model_hash.hex()} ({model}), quality {header.quality}"
    yield "arithmetic", arithmetic_name(header.arithmetic)
    yield "picture section", f"{len(content.picture)} bytes"
    yield "ICC profile", f"{len(content.icc)} bytes" if content.icc else "none"


def _model_facts(model: str) -> Iterable[tuple[str, str]]:
    from dkic.models.complexity import complexity
    from dkic.models.config import PRESETS
    from dkic.models.weights_file import find_weights, load_weights

    if model in PRESETS:
        config = PRESETS[model]
    else:
        weights = load_weights(find_weights(model)[0])
        config = weights.model.config
        yield "weights", f"{weights.path}, quality {weights.quality}, hash {weights.hash.hex()}"
        yield from ((f"trained: {key}", str(value)) for key, value in weights.about.items())
    cost = complexity(config)
    yield "parameters", f"{cost.parameters / 1e6:.2f} M"
    yield "encoding", f"{cost.encode:.1f} kMAC per pixel"
    yield "decoding", f"{cost.decode:.1f} kMAC per pixel"
    yield "encoding and decoding", f"{cost.total:.1f} kMAC per pixel (what both share counted once)"
    yield "latent", f"{config.latent_channels} channels in slices of {_list(s.channels for s in config.slices)}"
    yield "passes", _list(s.passes for s in config.slices)


@cli.command()
def doctor() -> None:
    """What is installed, what is missing, and what repairs it."""
    from dkic.doctor import healthy, report

    click.echo(report())
    sys.exit(0 if healthy() else 1)


@cli.command(short_help="Try it on a photograph that comes with dkic.")
@click.option("-o", "--out", default="dkic-demo", show_default=True, help="Folder for the results.")
def demo(out: str) -> None:
    """Compress and decompress a photograph that comes with dkic, and compare."""
    from dkic.demo import run

    with _failing():
        run(Path(out), click.echo)


@cli.command(short_help="Train on photographs.")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=_FILE)
@click.option("--out", required=True, metavar="RUN", help="Folder for checkpoint, log and weights.")
@click.option("--config", type=_FILE, help="A recipe (YAML), for LPIPS and a discriminator, instead of options.")
@click.option(
    "--start-from",
    metavar="FILE|NAME",
    help="With --config: another RUN/warmed_up.pt, in place of the first stage; or weights, as tiny of --quality 3.",
)
@click.option("--lpips-backbone", type=_FILE, help="With --config: the file of LPIPS' ImageNet weights.")
@TRAINING_DEVICE
@click.option("--workers", type=click.IntRange(0, 256), help="Processes that decode.  [default: 1; for a GPU 4]")
@click.option("--save-every", type=click.IntRange(1), default=200, show_default=True, help="Steps between checkpoints.")
@click.option("--preset", default="tiny", show_default=True, help="tiny or base.")
@click.option("--lambda", "lambda_", type=float, default=0.0067, show_default=True, help="Weight of the MSE, after the warm-up.")
@click.option("--steps", type=int, default=100_000, show_default=True, help="Length of the learning-rate schedule.")
@click.option("--warmup-steps", type=int, help="First steps, with 8 times the lambda.  [default: a quarter of --steps]")
@click.option("--minutes", type=click.FloatRange(min=0), help="Stop, with a checkpoint, after this time.")
@click.option("--batch", type=int, default=8, show_default=True, help="Crops a step.")
@click.option("--crop", type=int, default=128, show_default=True, help="Side of a crop; a multiple of 64.")
@click.option("--lr", "learning_rate", type=float, default=1e-3, show_default=True, help="Adam's first learning rate.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of crops, noise and first weights.")
@click.option("--quality", type=click.IntRange(1, 255), default=1, show_default=True, help="Quality level the weights state.")
@click.option("--resume", is_flag=True, help="Continue RUN exactly; of its settings only --steps may change.")
@THREADS
@click.pass_context
def train(
    context: click.Context,
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

    For rate and mean squared error, loss = bpp + lambda * 255^2 * MSE; or as the recipe in a --config says, with which
    several processes may share the work, as torchrun --nproc-per-node 8 -m dkic train starts them.
    """
    from tqdm import tqdm

    from dkic.training.train import TrainingFailed, settings_of, train_folder

    given = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
    if options["warmup_steps"] is None:
        options["warmup_steps"] = options["steps"] // 4
    settings = settings_of(Path(out), options, given, resume, config)
    with _failing(TrainingFailed):
        weights = train_folder(
            folders,
            settings,
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
        )
    click.echo(f"{weights}: try it with `dkic compress photo.png -o photo.dkic --model {weights}`")


@cli.command(short_help="Make a trained model's files decode alike everywhere.")
@click.argument("model", metavar="MODEL")
@click.argument("photos", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="The new weights file.")
@click.option("--measure", metavar="DIR", type=click.Path(path_type=Path), help="Tell what it costs in rate on these pictures.")
@TRAINING_DEVICE
@click.option("--steps", type=int, default=1500, show_default=True, help="Steps of training as integers.")
@click.option("--batch", type=int, default=8, show_default=True, help="Crops a step.")
@click.option("--crop", type=int, default=256, show_default=True, help="Side of a crop; a multiple of 64.")
@click.option("--lr", "learning_rate", type=float, default=2e-4, show_default=True, help="Adam's first learning rate.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of crops and noise.")
@THREADS
@FORCE
def export(
    model: str,
    photos: Path,
    out: Path,
    measure: Path | None,
    device: Literal["cpu", "cuda"] | None,
    force: bool,
    **settings: Any,
) -> None:
    """Turn MODEL's entropy networks into integers.

    They are trained for it on the photographs in DIR; of the transforms large weights are rounded to 8 bits.
    """
    from tqdm import tqdm

    from dkic.training.export import ExportSettings
    from dkic.training.export import export as write

    with _failing():
        write(model, photos, out, ExportSettings(**settings), device=device, force=force, measure=measure, log=tqdm.write)


@cli.command(short_help="Tabulate what pictures cost at every quality, for `dkic allocate`.")
@INPUTS
@click.option("-o", "--out", required=True, metavar="TABLE", type=_FILE, help="A .csv or .parquet file.")
@MODEL
@click.option("--distortion", type=click.Choice(["lpips", "mse"]), default="lpips", show_default=True, help="What is measured.")
@click.option("--ray", metavar="ADDRESS", help="Measure on this Ray cluster: auto, HOST:PORT, or local.")
@TILE
@DEVICE
@THREADS
@FORCE
def measure(
    inputs: tuple[str, ...],
    out: Path,
    model: str,
    distortion: Literal["lpips", "mse"],
    ray: str | None,
    tile: int | None,
    device: str,
    force: bool,
) -> None:
    """Measure bytes and distortion of pictures, or of those in folders IN, at every quality of a model.

    TABLE gets a row for each picture and quality, as `dkic allocate` takes it. What is measured is kept in $DKIC_CACHE or
    ~/.cache/dkic, so that a run that was stopped goes on where it was, and `dkic compress --target-bpp` finds it there.

    With --ray a cluster measures, whose machines need dkic[cluster] and nothing else: pictures and weights are sent to them from
    this one.
    """
    from dkic.allocation.table import check_table, write_table

    if ray is not None and device != "cpu":
        raise click.UsageError("--ray: a cluster measures on CPUs, so --device must be cpu")
    inputs = tuple(dict.fromkeys(with_folders_opened(inputs)))
    for source in inputs:
        if source != source.encode(errors="replace").decode():
            raise click.UsageError(f"{source!r}: a table holds no name that is not UTF-8; rename the file")
    if identity(out) is not None and identity(out) in map(identity, inputs):
        raise click.UsageError(f"-o: {out} is an input itself")
    check_table(out, force)
    from dkic.coding.codec import load
    from dkic.targeting.survey import Survey

    survey = Survey(load(model, device), distortion, tile)
    measured = survey.measure
    if ray is not None:
        from dkic.targeting.cluster import ClusterFailed, measured_on

        with _failing(ClusterFailed):
            measured = measured_on(ray, survey, inputs)
    columns: dict[str, list[Any]] = {name: [] for name in ("image", "quality", "bytes", "pixels", distortion)}

    def one(source: str, _target: Path) -> None:
        _, options = measured(source)
        for quality, option in zip(survey.qualities, options, strict=True):
            row = source, quality, option.bytes, option.pixels, option.distortion
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)

    status = each(inputs, [out] * len(inputs), one)
    if rows := len(columns["image"]):
        with _failing():
            write_table(out, columns, force)
        click.echo(f"{out}: {rows:,} rows, {rows // len(survey.qualities):,} pictures at quality {_list(survey.qualities)}")
    sys.exit(status)


@cli.command(short_help="Choose a quality for each picture within a budget.")
@click.argument("table", metavar="TABLE", type=click.Path(path_type=Path))
@click.option("--target-bpp", type=float, metavar="BPP", help="Budget: all bits divided by all pixels.")
@click.option("--mean", is_flag=True, help="With --target-bpp: the mean of the pictures' own bits per pixel.")
@click.option("--total-bytes", type=float, metavar="N", help="Budget: the sum of all bytes.")
@click.option("-o", "--out", required=True, metavar="PLAN", type=click.Path(path_type=Path), help="A CSV file.")
@click.option("--distortion", default="lpips", show_default=True, help="The column whose sum is to be the least.")
@click.option("--min-quality", type=float, help="The least quality that any picture gets.")
@click.option("--max-bytes", type=float, help="The most bytes that any picture takes.")
@click.option("--max-distortion", type=float, help="The most distortion that any picture gets.")
@click.option("--gap", type=float, default=1e-6, show_default=True, help="How far from the optimum, relative; 0 for it.")
@click.option("--time-limit", type=float, metavar="SECONDS", help="Stop the solver after this time, with the gap it has.")
@FORCE
def allocate(table: Path, target_bpp: float | None, mean: bool, total_bytes: float | None, out: Path, **options: Any) -> None:
    """Choose a quality for each picture, for the least distortion within a budget, with a proof.

    TABLE, CSV or Parquet, has a row for each picture and quality, with the columns image, quality, bytes, lpips (or what
    --distortion names), and pixels, or width and height. PLAN gets the row that is chosen of each picture.
    """
    from dkic.allocation.table import plan

    if (target_bpp is None) == (total_bytes is None):
        raise click.UsageError("give either --target-bpp or --total-bytes")
    if mean and target_bpp is None:
        raise click.UsageError("--mean goes with --target-bpp")
    if out.suffix.lower() != ".csv":
        raise click.UsageError(f"-o: the plan is CSV, so its name must end in .csv, and is {out}")
    if identity(out) is not None and identity(out) == identity(table):
        raise click.UsageError(f"-o: {out} is the table itself")
    kind, budget = ("mean_bpp" if mean else "total_bpp", target_bpp) if total_bytes is None else ("total_bytes", total_bytes)
    with _failing():
        _print(plan(table, out, kind=kind, budget=budget, **options))


cli.add_command(evaluate)


def _read_dkic(path: str) -> bytes:
    from dkic.coding.container import MAGIC

    try:
        with open(path, "rb") as file:
            start = file.read(len(MAGIC))
            # Not read further where it is something else: it could be a film.
            return start + file.read() if start == MAGIC or len(start) < len(MAGIC) else start
    except (OSError, ValueError) as error:
        raise DkicError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error})") from None


@contextlib.contextmanager
def _failing(error: type[DkicError] = DkicError) -> Iterator[None]:
    """What fails with this error, once the work has begun, is one line and the exit status 1."""
    try:
        yield
    except error as failed:
        click.echo(f"dkic: {failed}", err=True)
        sys.exit(1)


def _print(facts: Iterable[tuple[str, str]]) -> None:
    for name, value in facts:
        click.echo(f"{name}: {value}")


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
