"""How a process of training holds its memory on a CPU. No torch here."""

import ctypes
import os
import sys
from contextlib import suppress

# Of glibc's malloc.h: the number of blocks outside the heap; the free bytes at the heap's end from which they go back
# to the system; the bytes by which the heap grows.
MMAP_MAX, TRIM_THRESHOLD, TOP_PAD = -4, -1, -2


def reuse_memory() -> None:
    """Keep freed memory for the next step, in huge pages where the system has them.

    Every step allocates the same activations. By default they come from fresh pages each time, and the system fills
    each with zeros: a tenth of a step in float32 and a fifth in bfloat16 (docs/lab-book.md). Elsewhere than under glibc
    this has no effect.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it once, at its first tensor
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            set_option = ctypes.CDLL(None).mallopt
            for option, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, 64 << 20)):
                set_option(option, value)
