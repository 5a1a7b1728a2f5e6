"""Which worker holds which partition of a table, by what the consumer group has agreed on."""

from __future__ import annotations

from typing import Any


def held_here(app: Any, changelog: str) -> set[int]:
    """The partitions of a table that this worker holds."""
    return {tp.partition for tp in app.assignor.assigned_actives() if tp.topic == changelog}


def holders(app: Any, changelog: str) -> dict[int, str]:
    """The URL of the worker that holds each partition of a table; none before an assignment."""
    return {
        partition: url
        for url, topics in app.assignor.tables_metadata().items()
        for partition in topics.get(changelog, ())
    }
