"""How kernels are compiled: without the interpreter lock, and cached on disk by what they are.

Numba looks only at a kernel's own file to tell whether its cached code is still good, not at the
files of the kernels that it calls. So the cache directory carries a hash of every file that holds
kernels: whatever changes in one of them, all are compiled afresh, once.

The cache is in `NUMBA_CACHE_DIR`, else in the user's cache directory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar, cast

import numba
from numba import njit

F = TypeVar("F", bound=Callable[..., object])

_PACKAGE: Final = Path(__file__).parent
_CONSTANTS: Final = ("columns.py", "schema.py", "rings/*.py", "features/*.py", "models/*.py")
"""Besides the files that hold kernels: those whose constants are compiled into them."""


def cache_directory() -> Path:
    """Where the compiled kernels of exactly this source code are kept."""
    digest = hashlib.sha256()
    constants = {path for pattern in _CONSTANTS for path in _PACKAGE.glob(pattern)}
    for path in sorted(_PACKAGE.rglob("*.py")):
        source = path.read_bytes()
        if path in constants or b"\n@kernel\n" in source or path == Path(__file__):
            digest.update(path.name.encode())
            digest.update(source)
    given = os.environ.get("NUMBA_CACHE_DIR")
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(given) if given else Path(user) / "dafu") / f"kernels-{digest.hexdigest()[:12]}"


numba.config.CACHE_DIR = str(cache_directory())


def kernel(function: F) -> F:
    """Compile a function with numba at its first call; to type checkers it stays what it is."""
    return cast(F, njit(cache=True, nogil=True)(function))
