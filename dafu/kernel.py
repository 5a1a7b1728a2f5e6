"""How kernels are compiled: cached on disk, without the interpreter lock, typed as written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile a function with numba at its first call; to type checkers it stays what it is."""
    return cast(F, njit(cache=True, nogil=True)(function))
