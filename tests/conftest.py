"""Settings for all tests, and which of them CI may skip."""

import os
import re
from collections.abc import Iterator

import pytest

# The problems are small: more threads cost more than they give, and on a busy machine wait for each other (a test of 5 s took
# minutes). Before torch is imported, so that processes which tests start inherit it; what is about threads sets its own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Beginnings of reasons, as regular expressions: hardware that a machine lacks, and tests that others on it make redundant.
# Whatever can be installed is installed in CI.
ALLOWED_SKIPS = (
    r"torch \S+ (is built without CUDA|sees no CUDA GPU)",
    r"dkic's CUDA kernels are (not built|built for compute capability)",
    r"the CUDA kernels are not built for compute capability",
    r"there is no second GPU",
    r"the GPU has \d+ GB of free memory",
    r"needs \d+ GiB of free GPU memory",
    r"the emulator switches stacks in x86-64 assembly",
    r"this CPU has no (avx2|avx512)",
    r"all tests here are by (default|avx2|avx512)",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With -n, the tests of a file run in one process, since they share what is dear to make."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


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
