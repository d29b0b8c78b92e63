"""How a process of training holds its memory on a CPU. No torch here."""

import ctypes
import sys
from contextlib import suppress

# Of glibc's malloc.h: the free bytes at the heap's end from which they go back to the system, and the size from which a
# block is taken from the system rather than from the heap (at most 32 MiB).
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3


def reuse_memory() -> None:
    """Keep freed memory for the next step, which allocates the same activations.

    By default much of it goes back to the system, which fills each fresh page with zeros: up to a fifth of a step in
    bfloat16 (docs/lab-book.md). Elsewhere than under glibc this has no effect.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            set_option = ctypes.CDLL(None).mallopt
            for option, value in ((TRIM_THRESHOLD, 2**31 - 1), (MMAP_THRESHOLD, 32 << 20)):
                set_option(option, value)
