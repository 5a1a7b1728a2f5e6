"""Stock Faust with one plain table of bytes: what recovery costs without dafu's store.

Its application and table carry the names that the changelog was written for, so that it recovers
from the very topic that dafu recovers from. Environment as `bench.baseline_faust`; DAFU_APP_ID is
the application.
"""

# Faust has no types that mypy could follow.
# mypy: disable-error-code="misc, untyped-decorator"

from __future__ import annotations

import os
from typing import Any, Final

import faust

PARTITIONS: Final = int(os.environ["DAFU_PARTITIONS"])

app = faust.App(
    os.environ["DAFU_APP_ID"],
    broker=f"kafka://{os.environ['DAFU_BROKER']}",
    store="memory://",
    datadir=os.environ["DAFU_DATA_DIR"],
    topic_partitions=PARTITIONS,
    topic_replication_factor=1,
    topic_disable_leader=True,
    # As dafu sets them.
    broker_session_timeout=10.0,
    broker_heartbeat_interval=3.0,
    broker_rebalance_timeout=10.0,
    stream_recovery_delay=0.0,
    consumer_auto_offset_reset="earliest",
)
users = app.Table("users", key_type=bytes, value_type=bytes, partitions=PARTITIONS)
transactions = app.topic(
    f"{os.environ['DAFU_TOPIC_PREFIX']}transactions",
    key_type=bytes,
    value_type=bytes,
    partitions=PARTITIONS,
    internal=True,
)


@app.agent(transactions)
async def remember(stream: faust.StreamT[Any]) -> None:
    """Keep the last transaction of each user."""
    async for key, value in stream.items():
        users[key] = value
