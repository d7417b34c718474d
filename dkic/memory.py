"""How the C library treats freed memory.

To keep it is a choice of the whole process, so programs make it, never a library's import; to give it back changes nothing else.
"""

import contextlib
import ctypes

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Makes the process reuse freed memory of any size instead of requesting new memory from the system.

    By default glibc takes every block above 32 MB from the system and gives it back when it is freed. Each of its pages then
    costs a fault at the next use: at 2048x2048 half of the time of coding an image. The `dkic` command calls this; call it
    at the start of a program of your own that codes or trains on large images. The process then holds on to the most memory it
    ever used at once (but for what `give_back_freed_memory` lets go), and may need more at the peak, since blocks of different
    sizes don't always fit into each other's gaps.

    Returns:
        Whether it took effect: False where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))


def give_back_freed_memory() -> None:
    """Returns all freed pages of memory to the system; glibc only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
