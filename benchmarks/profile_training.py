"""Time of a training step by kind of operation, by torch.profiler.

    python -m benchmarks.profile_training --threads 1

A table in Markdown: each kind of operation's own time, and its share. On a GPU it is the time of the kernels. Then the number of
operations of a step (on a GPU, of kernels), its time, and the loss of the last step, which --compile changes by rounding alone.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch.profiler import ProfilerActivity, profile

from dkic.training.step_result import StepResult

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
    for name, seconds in times:
        kind = kind_of(name)
        sums[kind] = sums.get(kind, 0) + seconds
    return dict(sorted(sums.items(), key=lambda item: (item[0] == REST, -item[1])))


@dataclass(frozen=True)
class Profile:
    """Of a step: seconds by kind of operation, operations, seconds without the profiler; and the loss of the last step."""

    kinds: dict[str, float]
    operations: float
    seconds: float
    loss: float


def profiled(gan: bool, device: str | None, steps: int, compiled: bool) -> Profile:
    from training_run import staged_run, step_of

    run = staged_run(gan, device, compiled)
    step = step_of(run)
    for _ in range(3):  # CUDA graphs are recorded at the second call
        step()
    seconds, loss = timed(step, steps)
    on_gpu = run.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as recorded:
        for _ in range(steps):
            step()
    events = [(e.key, e.self_device_time_total if on_gpu else e.self_cpu_time_total, e.count) for e in recorded.key_averages()]
    counted = sum(count for name, spent, count in events if spent and (on_gpu or name.startswith(("aten::", "dkic::"))))
    return Profile(by_kind((name, spent / steps / 1e6) for name, spent, _ in events), counted / steps, seconds, loss)


def timed(step: Callable[[], StepResult], steps: int) -> tuple[float, float]:
    """The median of a step's seconds, with all of its kernels: its figures are read from the GPU. And the last loss."""
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        result = step()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result.loss


@click.command()
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--steps", type=int, default=5, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: a GPU where there is one.")
@click.option("--compile", "compiled", is_flag=True, help="With the recipe's networks compiled.")
def main(threads: int, steps: int, device: str | None, compiled: bool) -> None:
    """Profile the tiny recipe's step in both stages."""
    torch.set_num_threads(threads)
    profiles = [profiled(gan, device, steps, compiled) for gan in (False, True)]
    columns = [found.kinds for found in profiles]
    print("| kind | first stage | | with discriminator | |\n| --- | --- | --- | --- | --- |")
    totals = [sum(column.values()) for column in columns]
    for kind in columns[1]:
        cells = [
            f"{1e3 * column.get(kind, 0):.0f} ms | {column.get(kind, 0) / total:.0%}"
            for column, total in zip(columns, totals, strict=True)
        ]
        print(f"| {kind} | {' | '.join(cells)} |")
    print(f"| together | {totals[0] * 1e3:.0f} ms | | {totals[1] * 1e3:.0f} ms | |")
    print(f"| operations | {' | | '.join(f'{found.operations:.0f}' for found in profiles)} | |")
    print(f"| a step | {' | | '.join(f'{found.seconds * 1e3:.1f} ms' for found in profiles)} | |")
    print(f"| loss | {' | | '.join(f'{found.loss:.5f}' for found in profiles)} | |")


if __name__ == "__main__":
    main()
