"""`dkic info`."""

from collections.abc import Iterable

import click

from dkic.cli.dkic_file import read_dkic
from dkic.cli.messages import failing, listed, print_facts
from dkic.cli.options import read_from
from dkic.errors import DkicError


@click.command()
@click.argument("file", required=False, callback=read_from)
@click.option(
    "--model",
    help="Instead of FILE: the shipped model (small), a preset (base, tiny, paper), a weights file or folder, or owner/name on "
    "the Hub.",
)
def info(file: str | None, model: str | None) -> None:
    """Show the contents of a .dkic FILE, or the size of a model.

    Of a model: its parameters, its operations per pixel, and how it was trained.

    FILE may be - for standard input.
    """
    if (file is None) == (model is None):
        raise click.UsageError("FILE, --model: give exactly one of them")
    if model is not None:
        print_facts(_model_facts(model))
        return
    with failing():
        print_facts(_file_facts(str(file)))


def _file_facts(path: str) -> Iterable[tuple[str, str]]:
    from dkic.coding.container import unpack
    from dkic.entropy.arithmetic import arithmetic_name
    from dkic.shipped_weights import find_by_hash

    data = read_dkic(path)
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
    qstep = f", qstep {header.qstep:+}" if header.qstep else ""
    yield "model", f"{header.model_hash.hex()} ({model}), quality {header.quality}{qstep}"
    yield "arithmetic", arithmetic_name(header.arithmetic)
    yield "image section", f"{len(content.image)} bytes"
    yield "ICC profile", f"{len(content.icc)} bytes" if content.icc else "none"


def _model_facts(model: str) -> Iterable[tuple[str, str]]:
    from dkic.coding.operating_points import named
    from dkic.hub import find_weights
    from dkic.models.complexity import complexity
    from dkic.models.presets import PRESETS
    from dkic.models.weights_file import load_weights
    from dkic.shipped_weights import shipped_models

    if model in PRESETS and model not in shipped_models():
        config = PRESETS[model]
    else:
        found = [load_weights(path) for path in find_weights(model)]
        config = found[0].model.config
        for weights in found:
            yield "weights", f"{weights.path}, quality {named(weights.qualities)}, hash {weights.hash.hex()}"
        if len(found) == 1:
            yield from ((f"trained: {key}", str(value)) for key, value in found[0].about.items())
    cost = complexity(config)
    yield "parameters", f"{cost.parameters / 1e6:.2f} M"
    yield "encoding", f"{cost.encode:.1f} kMAC per pixel"
    yield "decoding", f"{cost.decode:.1f} kMAC per pixel"
    yield "encoding and decoding", f"{cost.total:.1f} kMAC per pixel (shared parts counted once)"
    yield "latent", f"{config.latent_channels} channels in slices of {listed(s.channels for s in config.slices)}"
    yield "passes", listed(s.passes for s in config.slices)
