"""Token buckets, in memory and in a real Redis, against a plain bucket that drips."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dafu.errors import DafuError
from dafu.web.rates import WINDOW, MemoryRates, RedisRates, open_rates, take
from tests.redis import Redis


class Bucket:
    """The textbook's: tokens that are added with time, and taken one by one."""

    def __init__(self, per_minute: int) -> None:
        self.most, self.tokens, self.at = float(per_minute), float(per_minute), 0.0

    def take(self, now: float) -> tuple[bool, float]:
        self.tokens = min(self.most, self.tokens + (now - self.at) * self.most / WINDOW)
        self.at = now
        allowed = self.tokens >= 1 - 1e-5
        if allowed:
            self.tokens -= 1
        return allowed, self.tokens


@given(st.integers(1, 50), st.lists(st.floats(0.0, 20.0), max_size=60))
def test_it_is_the_textbooks_bucket(per_minute: int, gaps: list[float]) -> None:
    bucket, full_at, now = Bucket(per_minute), 0.0, 0.0
    for gap in gaps:
        now += gap
        allowed, left = bucket.take(now)
        full_at, verdict = take(full_at, now, per_minute)
        assert verdict.allowed == allowed
        assert verdict.full_in == pytest.approx(
            (bucket.most - left) * WINDOW / per_minute, abs=1e-3
        )
        assert left - 1 - 1e-3 <= verdict.remaining <= left + 1e-3
        if not allowed:
            _, again = take(full_at, now + verdict.retry_after + 1e-6, per_minute)
            assert again.allowed
            if verdict.retry_after > 1e-3:
                _, early = take(full_at, now + verdict.retry_after - 1e-3, per_minute)
                assert not early.allowed


@given(st.integers(1, 30), st.lists(st.floats(0.0, 5.0), max_size=80))
def test_no_minute_has_more_than_two_buckets(per_minute: int, gaps: list[float]) -> None:
    full_at, now, passed = 0.0, 0.0, []
    for gap in gaps:
        now += gap
        full_at, verdict = take(full_at, now, per_minute)
        if verdict.allowed:
            passed.append(now)
    for start in passed:
        assert sum(start <= at < start + WINDOW for at in passed) <= 2 * per_minute


async def test_names_have_buckets_of_their_own_and_old_ones_go() -> None:
    now = [0.0]
    rates = MemoryRates(lambda: now[0])
    for number in range(100_010):
        assert (await rates.take(f"n{number}", 1)).allowed
        now[0] += 0.001
    assert len(rates._full_at) <= 100_000
    assert not (await rates.take("n100009", 1)).allowed
    now[0] += WINDOW
    assert (await rates.take("n100009", 1)).allowed
    assert rates.where == "memory"
    await rates.close()


@pytest.fixture
async def two(redis: Redis, request: pytest.FixtureRequest) -> AsyncIterator[list[RedisRates]]:
    """Two workers' buckets."""
    workers = [RedisRates(redis.url, f"{request.node.name}:") for _ in range(2)]
    yield workers
    for worker in workers:
        await worker.close()


async def test_workers_share_buckets(two: list[RedisRates]) -> None:
    verdicts = [await two[n % 2].take("ann", 5) for n in range(7)]
    assert [v.allowed for v in verdicts] == [True] * 5 + [False] * 2
    assert [v.remaining for v in verdicts] == [4, 3, 2, 1, 0, 0, 0]
    assert 10 < verdicts[-1].retry_after <= 12
    assert 58 < verdicts[-1].full_in <= 60
    assert (await two[0].take("bob", 5)).remaining == 4
    assert {worker.where for worker in two} == {"redis"}


async def test_requests_at_once_get_no_more(two: list[RedisRates]) -> None:
    verdicts = await asyncio.gather(*(two[n % 2].take("ann", 20) for n in range(100)))
    assert sum(v.allowed for v in verdicts) == 20


async def test_buckets_fill_up_and_go(two: list[RedisRates]) -> None:
    for _ in range(2):
        verdicts = [await two[0].take("ann", 600) for _ in range(10)]
        assert verdicts[-1].remaining >= 590
        await asyncio.sleep(1.1)
    assert await two[0]._redis.dbsize() == 0 or not await two[0]._redis.keys("*buckets_fill*")


async def test_without_redis_each_worker_goes_on_alone_and_says_so_once(
    tmp_path: Path, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    server = Redis(tmp_path)
    server("start")
    rates = RedisRates(server.url, "p:", lambda: now[0])
    assert (await rates.take("ann", 2)).allowed
    server("stop")
    with caplog.at_level(logging.WARNING, "dafu.web.rates"):
        for _ in range(4):
            verdicts = [await rates.take("ann", 2) for _ in range(3)]
            now[0] += 6.0
        assert [v.allowed for v in verdicts] != [True] * 3
        assert len(caplog.records) == 1
        assert "does not answer" in caplog.text
        assert (rates.alone, rates.where) == (12, "memory, since Redis does not answer")
        server("start")
        try:
            now[0] += 6.0
            assert (await rates.take("ann", 2)).allowed
            assert rates.where == "redis"
            assert len(caplog.records) == 2
            assert "answers again" in caplog.text
        finally:
            await rates.close()
            server("stop")


def test_what_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_rates(None, ""), MemoryRates)
    assert isinstance(open_rates("redis://127.0.0.1:1", ""), RedisRates)
    with pytest.raises(DafuError, match="REDIS_URL is not right"):
        open_rates("redis://127.0.0.1:x", "")
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(DafuError, match=r"pip install 'dafu\[redis\]'"):
        open_rates("redis://127.0.0.1:1", "")
