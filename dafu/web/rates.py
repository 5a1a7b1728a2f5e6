"""How many requests a minute a client may make: token buckets, in memory or shared in Redis.

A bucket holds a minute's requests and fills up evenly. It is kept as one number, the time at which
it will be full again (the generic cell rate algorithm; ITU-T I.371, annex A), so that Redis can
change it in one step.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from dafu.errors import DafuError

__all__ = ["MemoryRates", "Rates", "RedisRates", "Verdict", "open_rates", "take"]

logger = logging.getLogger(__name__)

WINDOW: Final = 60.0
_MOST: Final = 100_000
_RETRY_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 0.5
_CONNECT_SECONDS: Final = 1.0
_CONNECTIONS: Final = 8

_SCRIPT: Final = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local window, gap = 60.0, 60.0 / ARGV[1]
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local allowed = full + gap - now <= window + 1e-6
if allowed then
  full = full + gap
  redis.call('SET', KEYS[1], string.format('%.6f', full),
             'PX', math.ceil((full - now) * 1000) + 1)
end
return {allowed and 1 or 0, string.format('%.6f', full - now)}
"""
"""`take`, by Redis's own clock, so that workers' clocks do not matter."""


class Verdict(NamedTuple):
    """Whether a request may go on; how many more may at once; seconds until the next one may, if
    not, and until the bucket is full."""

    allowed: bool
    remaining: int
    retry_after: float
    full_in: float


def take(full_at: float, now: float, per_minute: int) -> tuple[float, Verdict]:
    """Take one out of a bucket.

    Parameters
    ----------
    full_at, now : float
        When it would be full, and the time, in seconds on one clock.
    per_minute : int
        What it holds.

    Returns
    -------
    tuple
        When it will be full then, and the verdict.

    Examples
    --------
    >>> take(0.0, 100.0, 60)
    (101.0, Verdict(allowed=True, remaining=59, retry_after=0.0, full_in=1.0))
    >>> take(160.0, 100.0, 60)
    (160.0, Verdict(allowed=False, remaining=0, retry_after=1.0, full_in=60.0))
    """
    gap = WINDOW / per_minute
    full_at = max(full_at, now)
    allowed = full_at + gap - now <= WINDOW + 1e-6
    if allowed:
        full_at += gap
    return full_at, _verdict(allowed, full_at - now, per_minute)


def _verdict(allowed: bool, full_in: float, per_minute: int) -> Verdict:
    gap = WINDOW / per_minute
    remaining = max(0, math.floor((WINDOW - full_in) / gap + 1e-6))
    retry_after = 0.0 if allowed else max(0.0, full_in + gap - WINDOW)
    return Verdict(allowed, remaining, retry_after, full_in)


class Rates(Protocol):
    """Buckets by name."""

    @property
    def where(self) -> str:
        """Where they are."""
        ...

    @property
    def alone(self) -> int:
        """How often a bucket of this worker alone had to do."""
        ...

    async def take(self, name: str, per_minute: int) -> Verdict:
        """Take one out of a bucket, which is full if nobody has for a while."""
        ...

    async def close(self, _: Any = None) -> None:
        """Let go of what is open."""
        ...


class MemoryRates:
    """Buckets of one worker.

    Parameters
    ----------
    clock : callable
        Monotonic seconds.
    """

    where = "memory"
    alone = 0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: dict[str, float] = {}

    async def take(self, name: str, per_minute: int) -> Verdict:
        """See `Rates`."""
        now = self._clock()
        full_at, verdict = take(self._full_at.get(name, now), now, per_minute)
        # Behind all others: the first ones are those that nobody has asked for longest.
        self._full_at.pop(name, None)
        self._full_at[name] = full_at
        if len(self._full_at) > _MOST:
            self._forget(now)
        return verdict

    async def close(self, _: Any = None) -> None:
        """Nothing is open."""

    def _forget(self, now: float) -> None:
        kept = {name: at for name, at in self._full_at.items() if at > now}
        while len(kept) > _MOST // 2:
            del kept[next(iter(kept))]
        self._full_at = kept


class RedisRates:
    """Buckets of all workers; those of this one alone while Redis does not answer.

    Parameters
    ----------
    url : str
    prefix : str
        Before the names.
    clock : callable
        Monotonic seconds.

    Raises
    ------
    DafuError
        If the client library is missing, or the URL is none.
    """

    def __init__(self, url: str, prefix: str, clock: Callable[[], float] = time.monotonic) -> None:
        try:
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.exceptions import RedisError
        except ModuleNotFoundError:
            raise DafuError(
                "REDIS_URL is set, and the client library is missing: pip install 'dafu[redis]'"
            ) from None
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=_CONNECTIONS,
                timeout=_CONNECT_SECONDS,
                socket_timeout=_ANSWER_SECONDS,
                socket_connect_timeout=_CONNECT_SECONDS,
            )
        except ValueError as exc:
            raise DafuError(f"REDIS_URL is not right: {exc}") from None
        self._redis = Redis.from_pool(pool)
        self._script = self._redis.register_script(_SCRIPT)
        self._errors = (RedisError, OSError, TimeoutError)
        self._prefix = prefix
        self._clock = clock
        self._here = MemoryRates(clock)
        self._try_at = -math.inf
        self.alone = 0

    @property
    def where(self) -> str:
        """Where the buckets are now."""
        return "memory, since Redis does not answer" if self._try_at > 0 else "redis"

    async def take(self, name: str, per_minute: int) -> Verdict:
        """See `Rates`."""
        began = self._clock()
        if began >= self._try_at:
            key = self._prefix + hashlib.sha256(name.encode()).hexdigest()[:32]
            try:
                allowed, full_in = await self._script(keys=[key], args=[per_minute])
            except self._errors as exc:
                if self._try_at < 0:
                    logger.warning(
                        "Redis does not answer (%s): rate limits hold for each worker alone",
                        str(exc) or type(exc).__name__,
                    )
                self._try_at = self._clock() + _RETRY_SECONDS
            else:
                if began >= self._try_at > 0:  # and not one that was under way before
                    logger.warning("Redis answers again: rate limits hold for all workers")
                    self._try_at = -math.inf
                return _verdict(bool(allowed), float(full_in), per_minute)
        self.alone += 1
        return await self._here.take(name, per_minute)

    async def close(self, _: Any = None) -> None:
        """Close the connections."""
        await self._redis.aclose()


def open_rates(url: str | None, prefix: str) -> MemoryRates | RedisRates:
    """Buckets where the settings say."""
    return MemoryRates() if url is None else RedisRates(url, prefix)
