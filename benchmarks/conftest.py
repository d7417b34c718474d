"""Times several implementations of one problem, and reports their ratios."""

from collections.abc import Callable, Iterator, Sequence
from statistics import median, quantiles
from time import perf_counter

import pytest
import torch
from problem_sizes import THREADS
from roofline import Work, gpu_of
from source_commit import source_commit

from dkic.doctor import processor
from dkic.memory import keep_freed_memory

OURS = "dkic"
MEDIANS = pytest.StashKey[dict[str, dict[str, float]]]()  # work -> implementation -> seconds
ROOFLINES = pytest.StashKey[dict[str, float]]()  # work -> roofline time in seconds, on a known GPU
BANDWIDTHS = pytest.StashKey[dict[torch.device, float]]()  # bytes a second
COPIED_BYTES = 2**28  # far beyond any cache


def pytest_addoption(parser) -> None:
    parser.addoption("--threads", type=int, default=THREADS, help=f"threads of every implementation ({THREADS})")
    parser.addoption("--few", action="store_true", help="only the rows that give each implementation each parameter value once")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--few"):
        return
    seen: set[tuple[str, ...]] = set()
    kept, left_out = [], []
    for item in items:
        parameters = item.callspec.params
        benchmark = (item.nodeid.partition("[")[0], str(parameters.get("implementation")))
        values = {(*benchmark, name, str(value)) for name, value in parameters.items()}
        (left_out if values <= seen else kept).append(item)
        seen |= values
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


@pytest.fixture(scope="session")
def commit() -> str:
    return source_commit()


@pytest.fixture(autouse=True, scope="session")
def freed_memory() -> None:
    """All implementations reuse freed memory, so that no time depends on what was freed before."""
    keep_freed_memory()


@pytest.fixture(autouse=True)
def threads(request) -> Iterator[None]:
    """All implementations are timed with the same number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.config.getoption("threads"))
    yield
    torch.set_num_threads(before)


def on_device(call: Callable[[], object], seconds: list[float]) -> Callable[[], None]:
    """`call`, waited for; appends the time between two events on the GPU around it.

    Before them the GPU has a gigabyte to fill eight times (3 ms of an H100), which takes it longer than Python takes to launch
    what is timed, and leaves nothing of the inputs in a cache.
    """
    filler = torch.empty(2**30, dtype=torch.uint8, device="cuda")

    def timed() -> None:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(8):
            filler.zero_()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)

    return timed


def until_idle(call: Callable[[], object]) -> Callable[[], None]:
    """`call`, and a wait until the GPU has finished."""

    def timed() -> None:
        call()
        torch.cuda.synchronize()

    return timed


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second read and written by the fastest of ten large copies, with the current number of threads."""
    source = torch.ones(COPIED_BYTES // 8, dtype=torch.float64, device=device)
    target = torch.empty_like(source)
    seconds: list[float] = []

    def copy() -> None:
        target.copy_(source)

    if device.type == "cuda":
        timed = on_device(copy, seconds)
        for _ in range(11):
            timed()
    else:
        for _ in range(11):
            start = perf_counter()
            copy()
            seconds.append(perf_counter() - start)
    return 2 * COPIED_BYTES / min(seconds)


@pytest.fixture
def measure(benchmark, request, commit) -> Callable[..., None]:
    """`measure(work, implementation, call, rounds)`: times `call()`, one call a round, after `warmup` calls.

    Rows of the same `work` form a group. The peer's come first, so that dkic's row can state the ratio of the two medians.
    bytes_moved: bytes that the work must at least read and write; gives GB/s, also relative to a large copy.
    device: of the work. On a GPU, times are measured between two events, or with host_clock by the host until the GPU is idle.
    before: called before each call, not timed.
    parts: operations of the work; on a GPU that roofline.py knows, times are reported relative to the roofline.
    """

    def run(
        work: str,
        implementation: str,
        call: Callable[[], object],
        rounds: int,
        *,
        warmup: int = 1,
        bytes_moved: int | None = None,
        device: str | torch.device = "cpu",
        host_clock: bool = False,
        before: Callable[[], object] | None = None,
        parts: Sequence[Work] = (),
    ) -> None:
        device = torch.device(device)
        benchmark.group = work
        benchmark.extra_info.update(
            implementation=implementation,
            torch=torch.__version__,
            commit=commit,
            cpu=processor(),
            threads=torch.get_num_threads(),
        )
        seconds: list[float] = []
        if device.type == "cuda":
            benchmark.extra_info["gpu"] = torch.cuda.get_device_name(device)
            call = until_idle(call) if host_clock else on_device(call, seconds)
        setup = None if before is None else lambda: before() and None  # pedantic would take a result as arguments
        benchmark.pedantic(call, setup=setup, rounds=rounds, iterations=1, warmup_rounds=warmup)
        if benchmark.disabled:
            return
        seconds = seconds[warmup:] or benchmark.stats.stats.data
        middle = median(seconds)
        medians = request.config.stash.setdefault(MEDIANS, {}).setdefault(work, {})
        medians[implementation] = middle
        fifths = quantiles(seconds, n=5, method="inclusive") if len(seconds) > 1 else [middle]
        benchmark.extra_info.update(median=middle, percentile_20=fifths[0], percentile_80=fifths[-1])
        if bytes_moved is not None:
            bandwidths = request.config.stash.setdefault(BANDWIDTHS, {})
            if device not in bandwidths:
                bandwidths[device] = copy_bandwidth(device)
            speed = bytes_moved / middle
            benchmark.extra_info.update(gb_per_s=speed / 1e9, share_of_copy_bandwidth=speed / bandwidths[device])
        if parts and (gpu := gpu_of(device)):
            roofline = sum(part.roofline_seconds(gpu) for part in parts)
            request.config.stash.setdefault(ROOFLINES, {})[work] = roofline
            benchmark.extra_info.update(roofline_seconds=roofline, times_roofline=middle / roofline)
        if implementation == OURS:
            for peer, other in medians.items():
                if peer != OURS:
                    benchmark.extra_info[f"times_faster_than_{peer}"] = other / middle

    return run


def pytest_terminal_summary(terminalreporter, config) -> None:
    """One line for each work that was timed with dkic and a peer, and for each whose roofline time is known."""
    lines = [
        f"{work}: {OURS} {1e3 * medians[OURS]:.2f} ms, {peer} {1e3 * other:.2f} ms: {other / medians[OURS]:.3g} times faster"
        for work, medians in config.stash.get(MEDIANS, {}).items()
        if OURS in medians
        for peer, other in medians.items()
        if peer != OURS
    ]
    lines += [
        f"{work}: {OURS} {1e6 * medians[OURS]:.1f} µs, {medians[OURS] / roofline:.3g}x the roofline ({1e6 * roofline:.1f} µs)"
        for work, roofline in config.stash.get(ROOFLINES, {}).items()
        if OURS in (medians := config.stash[MEDIANS][work])
    ]
    if lines:
        terminalreporter.section(f"medians of this run, {config.getoption('threads')} threads")
        terminalreporter.write_line("\n".join(lines))
