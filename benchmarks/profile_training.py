"""Time of a training step by kind of operation, by torch.profiler.

    python -m benchmarks.profile_training --threads 1

A table in Markdown: each kind of operation's own time, and its share. On a GPU it is the time of the kernels.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import click
import torch
from torch.profiler import ProfilerActivity, profile

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]  # as pytest has them for the other benchmarks

# Prefixes of operations' names; the first match counts. dkic's ops run inside an autograd operation.
_AUTOGRAD = "GeneratedBackwardFor_dkic"
KINDS = {
    "`ldcn` backward": ("dkic::ldcn_backward", f"{_AUTOGRAD}_ldcn_defaultBackward"),
    "`ldcn` forward": ("dkic::ldcn", f"{_AUTOGRAD}_ldcn_default"),
    "`gaussian_likelihood`, both ways": ("dkic::gaussian", f"{_AUTOGRAD}_gaussian"),
    "convolutions backward": ("aten::convolution_backward", "aten::_slow_conv2d_backward", "ConvolutionBackward"),
    "convolutions forward": ("aten::mkldnn_conv", "aten::_conv", "aten::_slow_conv2d", "aten::thnn_conv", "aten::cudnn_conv"),
    "Adam": ("Optimizer.step", "aten::_fused_adam", "aten::_foreach"),
    "activations": ("aten::relu", "aten::threshold", "aten::leaky_relu", "aten::clamp_min", "aten::sigmoid", "aten::max_pool"),
    "copies, sums, concatenation": ("aten::copy_", "aten::add", "aten::cat", "aten::clone", "aten::fill_", "aten::constant_pad"),
}
REST = "all else"


def kind_of(name: str) -> str:
    return next((kind for kind, begins in KINDS.items() if name.startswith(begins)), REST)


def by_kind(times: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Sums by kind, the largest first, all else last."""
    sums: dict[str, float] = {}
    for name, time in times:
        kind = kind_of(name)
        sums[kind] = sums.get(kind, 0) + time
    return dict(sorted(sums.items(), key=lambda item: (item[0] == REST, -item[1])))


def profiled(gan: bool, device: str | None, steps: int) -> dict[str, float]:
    """Seconds a step, by kind."""
    from training_run import staged_run, step_of

    run = staged_run(gan, device)
    step = step_of(run)
    step()
    on_gpu = run.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as recorded:
        for _ in range(steps):
            step()
    events = recorded.key_averages()
    return by_kind((e.key, (e.self_device_time_total if on_gpu else e.self_cpu_time_total) / steps / 1e6) for e in events)


@click.command()
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--steps", type=int, default=5, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: a GPU where there is one.")
def main(threads: int, steps: int, device: str | None) -> None:
    """Profile the tiny recipe's step in both stages."""
    torch.set_num_threads(threads)
    columns = [profiled(gan, device, steps) for gan in (False, True)]
    print("| kind | first stage | | with discriminator | |\n| --- | --- | --- | --- | --- |")
    totals = [sum(column.values()) for column in columns]
    for kind in columns[1]:
        cells = [
            f"{1e3 * column.get(kind, 0):.0f} ms | {column.get(kind, 0) / total:.0%}"
            for column, total in zip(columns, totals, strict=True)
        ]
        print(f"| {kind} | {' | '.join(cells)} |")
    print(f"| together | {totals[0] * 1e3:.0f} ms | | {totals[1] * 1e3:.0f} ms | |")


if __name__ == "__main__":
    main()
