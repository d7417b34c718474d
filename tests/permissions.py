"""Permissions of files that hold for root too."""

import contextlib
import ctypes
from collections.abc import Iterator

_VERSION = 0x20080522  # of capget(2) and capset(2): two words for each of the effective, permitted and inheritable sets
_OVERRIDE = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@contextlib.contextmanager
def permissions_hold() -> Iterator[None]:
    """In this thread; no effect for users other than root."""
    header, sets = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None)
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    sets[0] = effective & ~_OVERRIDE
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0
