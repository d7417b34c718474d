"""The devices of benchmarks: the CPU, and a GPU where there is one."""

from typing import Any

import pytest

from dkic.ops import backends

ON = {"cpu": "", "cuda": ", GPU"}  # suffix of a benchmark's name


def devices(backend: str) -> list[Any]:
    """Values of the parameter `device`; "cuda" is skipped if the op backend ("cuda" or "triton") is not usable."""
    reason = backends.unavailable_reason(backend)
    return ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(reason is not None, reason=str(reason)))]
