"""Settings for all tests, and which of them CI may skip."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

# The problems are small: more threads cost more than they give, and on a busy machine wait for each other (a test of 5 s took
# minutes). Before torch is imported, so that processes which tests start inherit it; what is about threads sets its own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Beginnings of reasons, as regular expressions: hardware that a machine lacks, and tests that others on it make redundant.
# Whatever can be installed is installed in CI.
ALLOWED_SKIPS = (
    r"torch \S+ (is built without CUDA|sees no (CUDA|ROCm) GPU)",
    r"dkic's CUDA kernels are (not built|built for compute capability)",
    r"dkic's CUDA kernels do not run on torch \S+, which is built for ROCm",
    r"the CUDA kernels are not built for compute capability",
    r"there is no second GPU",
    r"the GPU has \d+ GB of free memory",
    r"needs \d+ GiB of free GPU memory",
    r"the emulator switches stacks in x86-64 assembly",
    r"this CPU has no (avx2|avx512)",
    r"all tests here are by (default|avx2|avx512)",
)


# Units of more than half a minute of CPU time, the longest first; they start first with -n, so that no process ends long after
# the others. (pytest-xdist begins with the files of many tests, and these have few.)
LONG_UNITS = (
    "tests/ops/test_deform_conv2d_triton.py",
    "tests/simt/test_ldcn_simt.py",
    "tests/ops/test_deform_conv2d_compile.py",
    "tests/training/test_stages.py",
    "tests/rate_control/test_cluster.py",
    "tests/training/test_processes.py",
    "tests/ops/test_gaussian_likelihood_triton.py",
    "tests/evaluation",
    "tests/ops/test_triton_compile.py",
    "tests/ops/test_ldcn_triton.py",
    "tests/compressai_bridge/test_bit_exact.py",
    "tests/simt/test_ldcn_warp.py",
    "tests/ops/test_instruction_sets.py",
    "tests/ops/test_deform_conv2d_native.py",
    "tests/simt/test_ldcn_op.py",
    "tests/training/test_along_quality.py",
    "tests/coding/test_tiles.py",
    "tests/simt/test_ldcn_traffic.py",
    "tests/ops/test_aotinductor.py",
    "tests/fuzz/test_fuzz.py",
    "tests/test_codec_onnx.py",
    "tests/docs/test_examples.py",
)


def unit_of(nodeid: str) -> str:
    """The tests that run in one process, since they share what takes long to make: those of a file, or of tests/evaluation."""
    return "tests/evaluation" if nodeid.startswith("tests/evaluation/") else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    config.option.loadscopereorder = False  # pytest_collection_modifyitems has done it
    return Scheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if missing := [unit for unit in LONG_UNITS if not (Path(__file__).parents[1] / unit).exists()]:
        raise pytest.UsageError(f"tests/conftest.py: LONG_UNITS has {', '.join(missing)}, which are not there; correct the list")
    if hasattr(config, "workerinput"):  # a process of pytest-xdist
        place = {unit: i for i, unit in enumerate(LONG_UNITS)}
        items.sort(key=lambda item: place.get(unit_of(item.nodeid), len(place)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    return _skip_allowed((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    return _skip_allowed((yield))


def _skip_allowed(report: pytest.TestReport | pytest.CollectReport) -> pytest.TestReport | pytest.CollectReport:
    """With CI=true, a report of a skip for a reason that is not in ALLOWED_SKIPS becomes one of a failure."""
    if os.environ.get("CI") == "true" and report.skipped and isinstance(report.longrepr, tuple):  # an xfail has no tuple
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not re.match("|".join(ALLOWED_SKIPS), reason):
            repair = "install what it needs, or add the reason to ALLOWED_SKIPS in tests/conftest.py"
            report.outcome = "failed"
            report.longrepr = f"{report.nodeid}: skipped in CI ({reason}); {repair}"
    return report
