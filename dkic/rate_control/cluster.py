"""Measures images on a cluster with Ray Data.

    file names -> read on this machine -> measure on any machine -> measurements, in order of completion

The contents of the image files are sent to the workers, and so is the meter with its weights: the machines need dkic and Ray but
no shared file system. Files are read as workers request them, so Ray's memory never holds the whole collection. If a worker dies,
Ray repeats its image on another worker, a few times.
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

from dkic.coding.image_reading import read_image_bytes
from dkic.coding.operating_points import OperatingPoint
from dkic.errors import FAULTS, DkicError, install, sentence
from dkic.evaluation.measurement import Measurement
from dkic.output_file import reason
from dkic.progress import Progress, unseen
from dkic.rate_control.attempts import Attempts
from dkic.rate_control.cached_meter import CachedMeter, changed
from dkic.rate_control.measurement_cache import key_of
from dkic.rate_control.meter import Meter

_CONNECT_SECONDS = 10
# Ray makes a task of each block. With one image a block, little is repeated if a worker dies; more blocks take long to create.
_MOST_BLOCKS = 10_000
_READERS = 4
_DEATHS_AS_THEY_START = 8
# Workers lost in a row with the same image. Workers also die for other reasons: at 30 s an image and one lost machine an hour,
# that is one image in 120, and three in a row for one image in two million.
_MOST_LOST = 3


class ClusterFailed(DkicError):
    """The cluster failed during the run, or its measurements can't be stored."""


def measured_on(
    address: str, cached: CachedMeter, sources: Sequence[str], progress: Progress = unseen
) -> Callable[[str], tuple[str, list[Measurement]]]:
    """Measures images that are not in the cache on a Ray cluster; results are cached as they arrive.

    Args:
        address: "auto" for the cluster of this machine, or "HOST:PORT"; "local" starts one on this machine.
        progress: shows what is looked up and measured.

    Returns:
        A function with the signature, result and errors of `CachedMeter.measure`.

    Raises:
        DkicError: Ray is not installed, or there is no cluster at the address. ClusterFailed: it failed later.
    """
    found: dict[str, tuple[str, list[Measurement | None]]] = {}
    failed: dict[str, str] = {}
    with _connected(address):
        for source in progress(sources, "looking up"):
            try:
                found[source] = cached.look_up(source)
            except FAULTS as error:
                failed[source] = sentence(error)
        rows = [_row(cached, source, *found[source]) for source in found if None in found[source][1]]
        for row in progress(_measured(cached.meter, rows), "measuring", total=len(rows)):
            source = os.fsdecode(row["source"])
            key, measurements = found[source]
            if row["error"]:
                failed[source] = os.fsdecode(row["error"])
            for quality, size, distortion in zip(row["qualities"], row["bytes"], row["distortion"], strict=True):
                point = OperatingPoint(quality, 0)
                measurement = Measurement(int(row["pixels"]), int(size), {cached.meter.distortion: float(distortion)})
                measurements[cached.points.index(point)] = measurement
                try:
                    cached.store(key, point, measurement)
                except DkicError as error:
                    raise ClusterFailed(str(error)) from None

    def measured(source: str) -> tuple[str, list[Measurement]]:
        if source in failed:
            raise DkicError(failed[source])
        key, measurements = found[source]
        return key, [measurement for measurement in measurements if measurement is not None]

    return measured


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # for "local"
    try:
        import ray
        from ray.data import DataContext
    except ImportError as error:
        raise DkicError(f"--ray: needs Ray Data ({reason(error)}); {install('cluster')}") from None
    _check_reachable(address)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # ConnectionError, ValueError, RuntimeError, gRPC's ...
        raise DkicError(f"--ray {address}: no cluster there ({reason(error)}); see `ray status`") from None
    try:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what stops the work is raised as well
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.max_consecutive_actor_init_deaths = _DEATHS_AS_THEY_START
        yield
    except ray.exceptions.RayError as error:
        raise ClusterFailed(
            f"--ray {address}: the cluster failed ({_cause(error)}); its measurements are cached, so run the command again"
        ) from None
    finally:
        ray.shutdown()


def _cause(error: Exception) -> str:
    """The line of a worker's exception, from a report that also holds tracebacks, Ray's own errors and advice."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return ([line for line in named if not line.startswith("ray.")] or named or lines)[-1]


def _check_reachable(address: str) -> None:
    """Ray itself retries an unreachable address for minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():  # ray:// would read the images on another machine
        raise DkicError(f"--ray {address!r}: must be auto or HOST:PORT, on a machine of the cluster, or local")
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise DkicError(f"--ray {address}: no answer ({reason(error)}); see `ray status`") from None


def _row(cached: CachedMeter, source: str, key: str, measurements: Sequence[Measurement | None]) -> dict[str, Any]:
    """The row of an image to measure. File names and errors are bytes, since Ray's strings must be UTF-8."""
    qualities = [point.quality for point, measurement in zip(cached.points, measurements, strict=True) if measurement is None]
    read = {"icc": cached.icc, "background": cached.background}
    names = {"source": os.fsencode(source), "path": os.fsencode(os.path.abspath(source))}
    return names | {"key": key, "qualities": qualities} | read


def _measured(meter: Meter, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    import ray

    if not rows:
        return
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    at_once = min(len(rows), int(ray.cluster_resources().get("CPU", 0)))
    if at_once < 1:
        raise ClusterFailed("--ray: the cluster has no free CPU; see `ray status`")
    images = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS))
    files = images.map(_read, num_cpus=0, concurrency=_READERS, label_selector=here)
    # If its process is lost, counting restarts.
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
    """Measures on one CPU. meter: Ray's reference to a Meter. attempts: Ray's actor of class Attempts."""

    def __init__(self, meter: Any, attempts: Any) -> None:
        import ray

        torch.set_num_threads(1)
        self._meter: Meter = ray.get(meter)
        self._attempts, self._name = attempts, ray.get_runtime_context().get_worker_id()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray

        measurements, error, source = [], os.fsdecode(row["error"]), os.fsdecode(row["source"])
        error = error or ray.get(self._attempts.begin.remote(source, self._name))
        if not error:
            try:
                image = read_image_bytes(row["data"], source, row["background"])
                measurements = [self._meter.measure(image, OperatingPoint(quality, 0)) for quality in row["qualities"]]
            except FAULTS as failed:
                error = sentence(failed)
            ray.get(self._attempts.end.remote(source))
        return {
            "source": row["source"],
            "qualities": row["qualities"][: len(measurements)],
            "pixels": measurements[0].pixels if measurements else 0,
            "bytes": [measurement.bytes for measurement in measurements],
            "distortion": [measurement.scores[self._meter.distortion] for measurement in measurements],
            "error": os.fsencode(error),
        }
