"""A burst of links does not hold up decisions: it is applied in parts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dafu.agents.rings import AT_ONCE, RingsAgent
from dafu.stages.batch import InputBatch


@pytest.mark.parametrize("count", [0, 1, AT_ONCE, 3 * AT_ONCE + 7])
async def test_many_links_are_applied_in_parts_and_in_order(count: int) -> None:
    topic: Any = SimpleNamespace(get_topic_name=lambda: "t")
    fake: Any = SimpleNamespace()
    agent = RingsAgent(fake, fake, fake, alerts=topic, memberships=topic, dead_letters=topic)
    seen: list[list[int]] = []

    async def work(*given: Any) -> None:
        seen.append(given[2].offsets.tolist())

    agent.work = work  # type: ignore[method-assign, assignment]
    batch = InputBatch.of(0, [b"k"] * count, [b"v"] * count, 7)
    await agent.apply(fake, "links", batch, {0: 1})
    assert [offset for part in seen for offset in part] == list(range(7, 7 + count))
    assert all(0 < len(part) <= AT_ONCE for part in seen)
