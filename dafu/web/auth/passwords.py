"""Passwords: Argon2id, off the event loop, and as long for nobody as for somebody."""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

__all__ = ["MAX_LENGTH", "MIN_LENGTH", "check", "check_apart", "hash_password"]

MIN_LENGTH: Final = 12
MAX_LENGTH: Final = 1024

_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
"""OWASP's recommendation for Argon2id; a check takes some 20 ms and 19 MiB."""

_POOL: Final = ThreadPoolExecutor(1, "passwords")
"""One at a time: who tries passwords may keep this busy, and nothing else."""


def hash_password(password: str) -> str:
    """What to keep of a password."""
    return _HASHER.hash(password)


def check(kept: str | None, password: str) -> bool:
    """Whether a password is the one that was kept; None (nobody) takes as long and is False."""
    if len(password) > MAX_LENGTH:
        return False
    try:
        right = _HASHER.verify(kept or _nobody(), password)
    except (VerificationError, InvalidHashError):
        return False
    return right and kept is not None


async def check_apart(kept: str | None, password: str) -> bool:
    """The same, without holding up the event loop."""
    return await asyncio.get_running_loop().run_in_executor(_POOL, check, kept, password)


@functools.cache
def _nobody() -> str:
    return _HASHER.hash("of a user who does not exist")
