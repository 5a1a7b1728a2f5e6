"""The job of `bench.tutorial` the way Faust tutorials write it: a baseline for dafu.

Stock Faust and nothing else: one event at a time, `faust.Record` models, JSON values, one
`app.Table` read and written per event, one `topic.send` per output.

Measure it with `-l info`: at `warn` (Faust's default) and `error` its terminal spinner switches
every logger to DEBUG, and each message pays for log records that nobody sees.

Environment: DAFU_BROKER (host:port), DAFU_TOPIC_PREFIX (empty), DAFU_PARTITIONS (8),
DAFU_BASELINE_MODEL (per-row | none)::

    faust -A bench.baseline_faust worker --without-web -l info
"""

# Faust has no types that mypy could follow.
# mypy: disable-error-code="misc, call-arg, untyped-decorator"

from __future__ import annotations

import os
from typing import Any, Final

import faust

from bench import tutorial
from bench.tutorial import DAY

PREFIX: Final = os.environ.get("DAFU_TOPIC_PREFIX", "")
PARTITIONS: Final = int(os.environ.get("DAFU_PARTITIONS", "8"))

app = faust.App(
    f"{PREFIX}baseline",
    broker=f"kafka://{os.environ.get('DAFU_BROKER', '127.0.0.1:9092')}",
    store="memory://",
    datadir=os.environ.get("DAFU_DATA_DIR", ".dafu-data"),
    value_serializer="json",
    topic_partitions=PARTITIONS,
    topic_replication_factor=1,
    # Only how soon a worker joins and starts: the embedded broker waits half of this.
    broker_session_timeout=6.0,
    broker_heartbeat_interval=2.0,
    broker_rebalance_timeout=6.0,
    consumer_auto_offset_reset="earliest",
)


class Transaction(faust.Record, serializer="json"):
    """What producers publish, keyed by user."""

    transaction_id: str
    user_id: str
    merchant_id: str
    amount: float
    timestamp: Any  # ISO 8601 text or epoch milliseconds
    category: str | None = None
    country: str | None = None
    device_fingerprint: str | None = None
    lat: float | None = None
    long: float | None = None
    merchant_lat: float | None = None
    merchant_long: float | None = None


class Enriched(faust.Record, serializer="json"):
    """A transaction with the features of its user, keyed by merchant."""

    transaction_id: str
    user_id: str
    merchant_id: str
    amount: float
    at: float  # epoch seconds
    features: dict[str, float]


def topic(name: str, **options: Any) -> Any:
    """A topic of this app with JSON values."""
    return app.topic(
        f"{PREFIX}{name}", key_type=str, partitions=PARTITIONS, internal=True, **options
    )


transactions = topic("transactions", value_type=Transaction)
by_merchant = topic("transactions-by-merchant", value_type=Enriched)
decisions = topic("decisions", value_serializer="json")
users = app.Table(f"{PREFIX}users", default=list, partitions=PARTITIONS)
merchants = app.Table(f"{PREFIX}merchants", default=list, partitions=PARTITIONS)


@app.agent(transactions)
async def score_users(stream: faust.StreamT[Transaction]) -> None:
    """Stage one: the windows and the behaviour of the user."""
    async for tx in stream:
        now = tutorial.epoch_seconds(tx.timestamp)
        entry = tutorial.user_entry(tx.__dict__, now)
        history = tutorial.recent([*users[tx.user_id], entry], now, 30 * DAY)
        users[tx.user_id] = history
        await by_merchant.send(
            key=tx.merchant_id,
            value=Enriched(
                transaction_id=tx.transaction_id,
                user_id=tx.user_id,
                merchant_id=tx.merchant_id,
                amount=tx.amount,
                at=now,
                features=tutorial.user_features(history),
            ),
        )


@app.agent(by_merchant)
async def score_merchants(stream: faust.StreamT[Enriched]) -> None:
    """Stage two: the windows of the merchant, the model, the rules, the decision."""
    async for tx in stream:
        entry = [tx.at, tx.amount, tx.user_id]
        history = tutorial.recent([*merchants[tx.merchant_id], entry], tx.at, 7 * DAY)
        merchants[tx.merchant_id] = history
        features = tx.features | tutorial.merchant_features(history, tx.amount, tx.at)
        await decisions.send(key=tx.user_id, value=tutorial.judge(tx.__dict__, features))


@app.task
async def prepare_model() -> None:
    """Fit the model before the first event asks for it."""
    if tutorial.model_choice() != "none":
        tutorial.isolation_forest()
