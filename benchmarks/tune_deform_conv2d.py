"""Times candidate tiles of deform_conv2d's kernels on this GPU and stores the fastest in dkic's cache folder, for later calls.

python -m benchmarks.tune_deform_conv2d             # float32 and float16, the benchmarks' shapes
python -m benchmarks.tune_deform_conv2d --dry-run   # only prints which kernels serve them
"""

import sys
from pathlib import Path

import click
import torch

from dkic.ops.triton import deform_conv2d as deform_conv2d_triton

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]  # as pytest has them for the other benchmarks

from problem_sizes import DEFORM_CONV2D_PROBLEMS  # noqa: E402


@click.command()
@click.option("--dry-run", is_flag=True, help="Time nothing; no GPU is needed.")
def main(dry_run: bool) -> None:
    """Tune deform_conv2d for the benchmarks' shapes."""
    if not dry_run and not torch.cuda.is_available():
        raise click.ClickException("PyTorch sees no CUDA GPU; print what would be tuned with --dry-run")
    device = "cpu" if dry_run else "cuda"
    for case in DEFORM_CONV2D_PROBLEMS:
        for dtype in (torch.float32, torch.float16):
            tensors = [t.to(device) for t in case.tensors(dtype, position_dtype=torch.float32) if t is not None]
            tensors = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors]
            call = dict(zip(("input", "offset", "weight", "bias", "mask"), tensors, strict=True), **case.geometry)
            if not dry_run:
                deform_conv2d_triton.tune_call(**call)
            click.echo(f"{case}, {str(dtype)[6:]}: {deform_conv2d_triton.explain(**call)}")


if __name__ == "__main__":
    main()
