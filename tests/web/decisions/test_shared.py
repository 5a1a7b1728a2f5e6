"""Decisions in a real Redis: kept, found by others, and done without while it is away."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator

import pytest

from dafu.web.decisions import shared
from dafu.web.decisions.asked import Content
from dafu.web.decisions.shared import Kept, SharedDecisions, SharingError
from tests.redis import Redis
from tests.web.decisions.documents import made

CONTENT = Content(1_700_000_000_000, 12.5, "shop")
KEY = ("ada", "t1")


@pytest.fixture
async def two(
    redis: Redis, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[SharedDecisions, SharedDecisions]]:
    one, other = (SharedDecisions(redis.url, request.node.name) for _ in range(2))
    yield one, other
    await one.close()
    await other.close()


async def found(where: SharedDecisions, key: tuple[str, str]) -> Kept:
    async with asyncio.timeout(20):
        while (kept := await where.find(key)) is None:
            await asyncio.sleep(0.01)
    return kept


async def test_another_worker_finds_what_one_has_kept(
    two: tuple[SharedDecisions, SharedDecisions],
) -> None:
    one, other = two
    assert await other.find(KEY) is None
    one.keep(KEY, made("ada", "t1", 7), CONTENT)
    assert await found(other, KEY) == Kept(made("ada", "t1", 7), CONTENT)
    # Ids that would be the same if they were joined are not.
    one.keep(("a", "b:c"), made("a", "b:c"), CONTENT)
    await found(one, ("a", "b:c"))
    assert await other.find(("a:b", "c")) is None


async def test_many_are_written_and_expire(
    two: tuple[SharedDecisions, SharedDecisions], redis: Redis
) -> None:
    one, other = two
    for n in range(1_300):
        one.keep(("ada", f"t{n}"), made("ada", f"t{n}"), CONTENT)
    await found(other, ("ada", "t1299"))
    from redis.asyncio import Redis as Client

    async with Client.from_url(redis.url) as client:
        names = [name async for name in client.scan_iter(match="test_many*")]
        assert len(names) == 1_300
        for name in names[:20]:
            assert 0 < await client.ttl(name) <= 24 * 3600


async def test_installations_share_nothing(redis: Redis) -> None:
    one, other = SharedDecisions(redis.url, "one"), SharedDecisions(redis.url, "other")
    one.keep(KEY, made(*KEY), CONTENT)
    await found(one, KEY)
    assert await other.find(KEY) is None
    await one.close()
    await other.close()


async def test_without_redis_nobody_waits_and_one_line_says_so(
    redis: Redis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "PAUSE_SECONDS", 0.2)
    caplog.set_level(logging.INFO)
    decisions = SharedDecisions(redis.url, "away")
    decisions.keep(KEY, made(*KEY), CONTENT)
    await found(decisions, KEY)
    redis("stop")
    try:
        begin = time.monotonic()
        for _ in range(3):
            for n in range(50):
                decisions.keep(("ada", f"x{n}"), made("ada", f"x{n}"), CONTENT)
                assert await decisions.find(KEY) is None
            await asyncio.sleep(0.25)
        assert time.monotonic() - begin < 30, "it takes longer if each waits for an answer"
    finally:
        redis("start")
    assert caplog.text.count("Redis does not answer, decisions are not shared") == 1
    async with asyncio.timeout(20):
        while (kept := await decisions.find(KEY)) is None:
            decisions.keep(KEY, made(*KEY), CONTENT)  # what was kept in the last pause is gone
            await asyncio.sleep(0.05)
    assert kept.made == made(*KEY)
    assert caplog.text.count("Redis answers again") == 1
    await decisions.close()


async def test_what_another_version_has_written_is_no_decision(
    two: tuple[SharedDecisions, SharedDecisions], redis: Redis
) -> None:
    from redis.asyncio import Redis as Client

    one, _ = two
    async with Client.from_url(redis.url) as client:
        await client.set(one._key(KEY), b"something else")
    assert await one.find(KEY) is None


def test_the_library_and_a_url_that_it_knows_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SharingError, match="can not be used"):
        SharedDecisions("nonsense", "x")
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(SharingError, match=r"dafu\[redis\]"):
        SharedDecisions("redis://127.0.0.1:1/0", "x")
