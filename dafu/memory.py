"""How this process gives memory back to the system: late, because the next batch wants it again.

A batch takes some megabytes, in arrays and messages of a few hundred kilobytes each. By default
the C library returns such blocks at once, and the system hands them out again page by page,
zeroed: that costs more than filling them. Other C libraries than glibc are left alone.
"""

from __future__ import annotations

import ctypes
from typing import Final

_MIB: Final = 1024 * 1024

_SETTINGS: Final = (
    (-3, 32 * _MIB),  # M_MMAP_THRESHOLD: below it a block comes from the heap; the largest allowed
    (-1, 256 * _MIB),  # M_TRIM_THRESHOLD: free memory at the heap's end that is kept
    (-2, 16 * _MIB),  # M_TOP_PAD: by how much the heap grows at least
    (-8, 1),  # M_ARENA_MAX: what one thread has freed is there for the other
)
"""Parameters of glibc's mallopt(3), numbered as in its malloc.h."""


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed for what is needed next; whether it understood."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    understood = [mallopt(parameter, value) == 1 for parameter, value in _SETTINGS]
    return all(understood)
