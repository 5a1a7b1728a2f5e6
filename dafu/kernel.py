"""How kernels are compiled: cached on disk by what they are, the long ones without the lock.

Numba looks only at a kernel's own file to tell whether its cached code is still good, not at the
files of the kernels that it calls. So the cache directory carries a hash of every file that holds
kernels: whatever changes in one of them, all are compiled afresh, once.

The cache is in `NUMBA_CACHE_DIR`, else in the user's cache directory.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar, cast

import numba
from numba import njit

F = TypeVar("F", bound=Callable[..., object])

_PACKAGE: Final = Path(__file__).parent
_MARKED: Final = re.compile(rb"^@(long_)?kernel$", re.MULTILINE)
_CONSTANTS: Final = ("columns.py", "schema.py", "rings/*.py", "features/*.py", "models/*.py")
"""Besides the files that hold kernels: those whose constants are compiled into them."""


def cache_directory() -> Path:
    """Where the compiled kernels of exactly this source code are kept."""
    digest = hashlib.sha256()
    constants = {path for pattern in _CONSTANTS for path in _PACKAGE.glob(pattern)}
    for path in sorted(_PACKAGE.rglob("*.py")):
        source = path.read_bytes()
        if path in constants or _MARKED.search(source) or path == Path(__file__):
            digest.update(path.name.encode())
            digest.update(source)
    given = os.environ.get("NUMBA_CACHE_DIR")
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(given) if given else Path(user) / "dafu") / f"kernels-{digest.hexdigest()[:12]}"


numba.config.CACHE_DIR = str(cache_directory())


def kernel(function: F) -> F:
    """Compile a function with numba at its first call; to type checkers it stays what it is.

    It keeps the interpreter lock: a batch calls dozens of kernels that take some microseconds, and
    who lets go of the lock for that waits up to the switch interval, 5 ms, to get it back.
    """
    return cast(F, njit(cache=True)(function))


def long_kernel(function: F) -> F:
    """As `kernel`, for what runs for milliseconds: lets go of the lock, so that other threads, such
    as the one that fetches, work meanwhile."""
    return cast(F, njit(cache=True, nogil=True)(function))
