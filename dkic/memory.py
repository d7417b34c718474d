"""Control of freed memory in the C library.

Keeping freed memory affects the whole process, so programs enable it, never an import of the library. Returning it to the system
has no other effect.
"""

import contextlib
import ctypes

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Makes the process reuse freed memory of any size instead of requesting new memory from the system.

    By default, glibc requests every block above 32 MB from the system and returns it when it is freed. Each of its pages then
    causes a page fault at the next use, which is half of the time of coding an image of 2048x2048. The `dkic` command calls this
    function; call it at the start of your own program that codes or trains on large images. The process then keeps its peak
    memory (except what `give_back_freed_memory` returns), and its peak may be higher because of fragmentation.

    Returns:
        Whether it took effect: False if the C library is not glibc.
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
