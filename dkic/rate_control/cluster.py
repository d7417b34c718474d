"""A survey on a cluster, by Ray Data.

    names -> read, on this machine -> measure, on any -> what was measured, in the order that it comes in

The bytes of the pictures' files travel, and so does the meter with its weights: the machines need dkic and Ray, and no file
system in common. Files are read as workers ask for more, so that the collection is never in Ray's memory as a whole. What a
worker had when it died Ray gives to another, a few times.
"""

import contextlib
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dkic.coding.image_io import parse_picture
from dkic.coding.operating_points import OperatingPoint
from dkic.errors import FAULTS, DkicError, install, sentence
from dkic.output_file import reason
from dkic.rate_control.attempts import Attempts
from dkic.rate_control.measurement_cache import Measurement, key_of
from dkic.rate_control.meter import Meter
from dkic.rate_control.survey import Survey, changed

_CONNECT_SECONDS = 10
# Ray makes a task of each block. One picture is the least to do again where a worker dies; more blocks would take long to make.
_MOST_BLOCKS = 10_000
_READERS = 4
_DEATHS_AS_THEY_START = 8
# With a picture. Workers die of other things too: at 30 s a picture, and a machine lost in each hour of work, with one picture in
# 120. Three in a row would then be lost with one in two million.
_MOST_LOST = 3


class ClusterFailed(DkicError):
    """It was there, and then not; or what it measured can't be kept."""


def measured_on(address: str, survey: Survey, sources: Sequence[str]) -> Callable[[str], tuple[str, list[Measurement]]]:
    """Has a Ray cluster measure what is not kept of these pictures; it is kept as it comes in.

    Args:
        address: "auto" for the cluster that this machine belongs to, or "HOST:PORT"; "local" starts one of this machine alone.

    Returns:
        What tells of each source as `survey.measure` would, and raises DkicError where it would.

    Raises:
        DkicError: Ray is not installed, or there is no cluster at the address. ClusterFailed: it failed later.
    """
    found: dict[str, tuple[str, list[Measurement | None]]] = {}
    failed: dict[str, str] = {}
    with _connected(address):
        for source in tqdm(sources, unit="file", desc="looking up", disable=None, leave=False):
            try:
                found[source] = survey.look_up(source)
            except FAULTS as error:
                failed[source] = sentence(error)
        rows = [_row(survey, source, *found[source]) for source in found if None in found[source][1]]
        for row in tqdm(_measured(survey.meter, rows), unit="file", desc="measuring", total=len(rows), disable=None):
            source = os.fsdecode(row["source"])
            key, options = found[source]
            if row["error"]:
                failed[source] = os.fsdecode(row["error"])
            for quality, size, distortion in zip(row["qualities"], row["bytes"], row["distortion"], strict=True):
                level = OperatingPoint(quality, 0)
                option = Measurement(int(row["pixels"]), int(size), float(distortion))
                options[survey.levels.index(level)] = option
                try:
                    survey.keep(key, level, option)
                except DkicError as error:
                    raise ClusterFailed(str(error)) from None

    def measured(source: str) -> tuple[str, list[Measurement]]:
        if source in failed:
            raise DkicError(failed[source])
        key, options = found[source]
        return key, [option for option in options if option is not None]

    return measured


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # for "local": nothing is told to anybody
    try:
        import ray
        from ray.data import DataContext
    except ImportError as error:
        raise DkicError(f"--ray needs Ray Data ({reason(error)}); {install('cluster')}") from None
    _knock(address)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # ConnectionError, ValueError, RuntimeError, gRPC's ...
        raise DkicError(f"--ray {address}: no cluster to be had there ({reason(error)}); see `ray status`") from None
    try:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what stops the work is raised as well
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.max_consecutive_actor_init_deaths = _DEATHS_AS_THEY_START
        yield
    except ray.exceptions.RayError as error:
        raise ClusterFailed(f"--ray {address}: the cluster failed ({_cause(error)}); what it measured is kept") from None
    finally:
        ray.shutdown()


def _cause(error: Exception) -> str:
    """What was raised by a worker, of a report with tracebacks, Ray's own errors and advice around it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return ([line for line in named if not line.startswith("ray.")] or named or lines)[-1]


def _knock(address: str) -> None:
    """Ray itself tries for minutes whether somebody is there."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():  # ray:// would have pictures read where they are not
        raise DkicError(f"--ray: it must be auto or HOST:PORT, on a machine of the cluster, or local, not {address!r}")
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise DkicError(f"--ray {address}: nobody answers there ({reason(error)}); see `ray status`") from None


def _row(survey: Survey, source: str, key: str, options: Sequence[Measurement | None]) -> dict[str, Any]:
    """What is to be measured of a picture. Ray's strings are UTF-8, and file names need not be: those, and errors, are bytes."""
    qualities = [point.quality for point, option in zip(survey.levels, options, strict=True) if option is None]
    read = {"icc": survey.icc, "background": survey.background}
    names = {"source": os.fsencode(source), "path": os.fsencode(os.path.abspath(source))}
    return names | {"key": key, "qualities": qualities} | read


def _measured(meter: Meter, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    import ray

    if not rows:
        return
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    at_once = min(len(rows), int(ray.cluster_resources().get("CPU", 0)))
    if at_once < 1:
        raise ClusterFailed("--ray: the cluster has no CPU to measure on; see `ray status`")
    pictures = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS))
    files = pictures.map(_read, num_cpus=0, concurrency=_READERS, label_selector=here)
    # Should its process be lost, it begins to count anew.
    attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, label_selector=here)(Attempts).remote(_MOST_LOST)
    workers: dict[str, Any] = {"num_cpus": 1, "concurrency": (1, len(rows), at_once)}
    worker: Any = _Worker  # Ray makes one in each process
    yield from files.map(worker, fn_constructor_args=(ray.put(meter), attempts), **workers).iter_rows()


def _read(row: dict[str, Any]) -> dict[str, Any]:
    data, error, source = b"", "", os.fsdecode(row["source"])
    try:
        data = Path(os.fsdecode(row["path"])).read_bytes()
        if key_of([data], row["icc"], row["background"]) != row["key"]:
            error = str(changed(source))
    except OSError as failed:
        error = f"{source}: can't be read ({reason(failed)})"
    return row | {"data": data, "error": os.fsencode(error)}


class _Worker:
    """Measures on one CPU. meter: Ray's reference to it. attempts: Ray's actor of that class."""

    def __init__(self, meter: Any, attempts: Any) -> None:
        import ray

        torch.set_num_threads(1)
        self._meter: Meter = ray.get(meter)
        self._attempts, self._name = attempts, ray.get_runtime_context().get_worker_id()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray

        options, error, source = [], os.fsdecode(row["error"]), os.fsdecode(row["source"])
        error = error or ray.get(self._attempts.begin.remote(source, self._name))
        if not error:
            try:
                picture = parse_picture(row["data"], source, row["background"])
                options = [self._meter.measure(picture, quality) for quality in row["qualities"]]
            except FAULTS as failed:
                error = sentence(failed)
            ray.get(self._attempts.end.remote(source))
        return {
            "source": row["source"],
            "qualities": row["qualities"][: len(options)],
            "pixels": options[0].pixels if options else 0,
            "bytes": [option.bytes for option in options],
            "distortion": [option.distortion for option in options],
            "error": os.fsencode(error),
        }
