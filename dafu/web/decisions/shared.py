"""Decisions that workers share through Redis, for transactions that come again at another worker.

Only what was asked for over HTTP is kept there, for a while. Without Redis, or while it does not
answer, decisions are found in a worker's memory or in the log: slower, and never wrong.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Final

import msgspec
from msgspec import Struct

from dafu.errors import DafuError
from dafu.web.decisions.asked import Content, Key
from dafu.web.decisions.memory import Made

__all__ = ["Kept", "SharedDecisions", "SharingError"]

logger = logging.getLogger(__name__)

KEPT_SECONDS: Final = 24 * 3600
"""For so long a decision is kept."""

ANSWER_SECONDS: Final = 0.25
"""Redis is not waited for any longer."""

PAUSE_SECONDS: Final = 5.0
"""After a failure it is left alone for so long."""

_MOST_QUEUED: Final = 10_000
_MOST_WRITTEN: Final = 500


class SharingError(DafuError):
    """Redis is configured and can not be used here."""


class Kept(Struct, frozen=True, gc=False):
    """A decision, and what the transaction said that it was made of."""

    made: Made
    content: Content


class SharedDecisions:
    """Keeps decisions in Redis.

    Parameters
    ----------
    url : str
        Of Redis.
    prefix : str
        Before all keys: installations may share a Redis.

    Raises
    ------
    SharingError
        Without the library, or for a URL that it can not use.
    """

    def __init__(self, url: str, prefix: str) -> None:
        try:
            from redis.asyncio import Redis
        except ImportError as exc:
            raise SharingError(
                "web.redis_url needs the extra `redis`: pip install 'dafu[redis]'"
            ) from exc
        try:
            self._redis: Any = Redis.from_url(
                url, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS
            )
        except ValueError as exc:
            raise SharingError(f"web.redis_url can not be used: {exc}") from exc
        self._prefix = f"{prefix}:decision:".encode()
        self._decoder = msgspec.msgpack.Decoder(Kept)
        self._queue: dict[bytes, bytes] = {}
        self._writer: asyncio.Task[None] | None = None
        self._down_until = 0.0
        self._down = False

    def _key(self, key: Key) -> bytes:
        return self._prefix + msgspec.json.encode(key)

    def keep(self, key: Key, made: Made, content: Content) -> None:
        """Write a decision soon; the caller does not wait."""
        if len(self._queue) < _MOST_QUEUED and self._usable():
            self._queue[self._key(key)] = msgspec.msgpack.encode(Kept(made, content))
            if self._writer is None:
                self._writer = asyncio.create_task(self._write())

    async def find(self, key: Key) -> Kept | None:
        """A decision that a worker has kept; None for none, and while Redis does not answer."""
        if not self._usable():
            return None
        try:
            found = await self._redis.get(self._key(key))
            self._note(None)
            return None if found is None else self._decoder.decode(found)
        except self._errors as exc:
            self._note(exc)
            return None
        except msgspec.MsgspecError as exc:  # of another version
            logger.warning("a decision in Redis can not be read: %s", exc)
            return None

    async def _write(self) -> None:
        try:
            while self._queue and self._usable():
                names = list(self._queue)[:_MOST_WRITTEN]
                pipeline = self._redis.pipeline(transaction=False)
                for name in names:
                    pipeline.set(name, self._queue.pop(name), ex=KEPT_SECONDS)
                try:
                    await pipeline.execute()
                    self._note(None)
                except self._errors as exc:
                    self._note(exc)
        finally:
            self._writer = None

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        from redis.exceptions import RedisError

        return RedisError, OSError, TimeoutError

    def _usable(self) -> bool:
        return time.monotonic() >= self._down_until

    def _note(self, error: Exception | None) -> None:
        """Say once that Redis does not answer, and once that it does again."""
        if error is None:
            if self._down:
                logger.info("Redis answers again")
            self._down = False
            return
        self._down_until = time.monotonic() + PAUSE_SECONDS
        self._queue.clear()
        if not self._down:
            logger.warning("Redis does not answer, decisions are not shared: %s", error)
        self._down = True

    async def close(self, _: Any = None) -> None:
        """Write what is queued, and let go of the connection."""
        if self._writer is not None:
            await asyncio.gather(self._writer, return_exceptions=True)
        await self._redis.aclose()
