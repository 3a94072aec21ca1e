"""Memory of this process on the host: giving back what the compiler no longer needs.

XLA compiles in many small allocations, and glibc keeps their pages when they are freed: after a training program,
several times the histories of a small experiment. They are given back after a compilation, so that a process's peak is
that of one thing it does, and not the sum of all.
"""

import contextlib
import ctypes
import gc


def give_back() -> None:
    """Hand pages that are free back to the system, where the C library can (glibc). Takes milliseconds."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
