"""How long who asks for a decision is kept waiting."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from dafu.settings import Settings, Web
from dafu.web.decisions.documents import ScoreQuery
from dafu.web.decisions.score_endpoints import score_endpoints


@pytest.mark.parametrize(
    ("asked", "waited"), [(None, 1.0), (500, 0.5), (3_600, 3.6), (30_000, 3.6)]
)
async def test_a_wait_ends_before_the_request_is_given_up(asked: int | None, waited: float) -> None:
    seen: list[float] = []

    async def score(_: Any, timeout: float) -> None:
        seen.append(timeout)

    scorer: Any = SimpleNamespace(score=score)
    reporter: Any = SimpleNamespace(recovering=list)
    endpoint = score_endpoints(Settings(web=Web(request_seconds=4.0)), scorer, reporter)[0]
    payment = {
        "transaction_id": "t1",
        "user_id": "ada",
        "merchant_id": "shop",
        "amount": 12.5,
        "timestamp": "2026-03-01T10:15:00Z",
    }
    call: Any = SimpleNamespace(body=json.dumps(payment).encode(), query=ScoreQuery(asked))
    response: Any = await endpoint.handler(call)
    assert (response.status, seen) == (202, [waited])
