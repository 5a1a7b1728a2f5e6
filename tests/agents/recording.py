"""What surrounds a recorder in tests: a sender that keeps what is sent, and topics by name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from dafu.columns import I64, ByteColumn
from dafu.streaming.dead_letters import Origin, read_headers
from dafu.streaming.records import decode_headers


class Sender:
    """Keeps what is sent, by topic: keys, values and header sections; and with which timestamps,
    None for the time of sending."""

    def __init__(self) -> None:
        self.sent: dict[str, list[tuple[bytes | None, bytes | None, bytes | None]]] = {}
        self.times: dict[str, list[int] | None] = {}

    async def send(
        self,
        topic: str,
        keys: ByteColumn,
        values: ByteColumn,
        *,
        headers: ByteColumn | None = None,
        timestamps: I64 | None = None,
    ) -> None:
        own = [None] * len(keys) if headers is None else headers.tolist()
        rows = zip(keys.tolist(), values.tolist(), own, strict=True)
        self.sent.setdefault(topic, []).extend(rows)
        self.times[topic] = None if timestamps is None else timestamps.tolist()

    post = send

    def origins(self, topic: str) -> list[Origin]:
        """What the headers of dead letters say."""
        read = (decode_headers(headers or b"") for _, _, headers in self.sent[topic])
        found = (read_headers([(name, value or b"") for name, value in each]) for each in read)
        return [origin for origin in found if origin is not None]


def topic(name: str) -> Any:
    """A Faust topic as far as its name."""
    return SimpleNamespace(get_topic_name=lambda: name)
