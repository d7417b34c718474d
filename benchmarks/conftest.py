"""Timing two implementations of one problem beside each other, and telling their ratio."""

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import quantiles

import pytest
import torch
from problem_sizes import THREADS

OURS = "dkic"
MEDIANS = pytest.StashKey[dict[str, dict[str, float]]]()  # work -> implementation -> seconds


def cpu_name() -> str:
    """The processor's name as the kernel has it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """All is timed with the same number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def measure(benchmark, request) -> Callable[..., None]:
    """`measure(work, implementation, call, rounds)`: times `call()`, one call a round, after one to warm up.

    Rows of the same `work` form a group. The peer's come first, so that our row can state the ratio of the two medians.
    """

    def run(work: str, implementation: str, call: Callable[[], object], rounds: int) -> None:
        benchmark.group = work
        benchmark.extra_info.update(
            implementation=implementation, torch=torch.__version__, cpu=cpu_name(), threads=torch.get_num_threads()
        )
        benchmark.pedantic(call, rounds=rounds, iterations=1, warmup_rounds=1)
        if benchmark.disabled:
            return
        stats = benchmark.stats.stats
        medians = request.config.stash.setdefault(MEDIANS, {}).setdefault(work, {})
        medians[implementation] = stats.median
        fifths = quantiles(stats.data, n=5, method="inclusive")
        benchmark.extra_info.update(percentile_20=fifths[0], percentile_80=fifths[-1])
        if implementation == OURS:
            for peer, median in medians.items():
                if peer != OURS:
                    benchmark.extra_info[f"times_faster_than_{peer}"] = median / stats.median

    return run


def pytest_terminal_summary(terminalreporter, config) -> None:
    """One line for each work that was timed with us and with a peer."""
    lines = [
        f"{work}: {OURS} {1e3 * medians[OURS]:.2f} ms, {peer} {1e3 * median:.2f} ms: {median / medians[OURS]:.1f} times faster"
        for work, medians in config.stash.get(MEDIANS, {}).items()
        if OURS in medians
        for peer, median in medians.items()
        if peer != OURS
    ]
    if lines:
        terminalreporter.section(f"medians of this run, {THREADS} threads")
        terminalreporter.write_line("\n".join(lines))
