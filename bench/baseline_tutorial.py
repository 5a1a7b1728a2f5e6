"""Fraud scoring the way Faust tutorials write it: the baseline that dafu is measured against.

Stock Faust and nothing else: one event at a time, `faust.Record` models, JSON values, one
`app.Table` read and written per event, one `topic.send` per output, windows computed by scanning
the stored recent transactions, rules as plain `if`s, scikit-learn asked for one row at a time. It
does the same kind of job as dafu (two keyed stages, user and merchant windows, travel speed, an
isolation forest, rules, a decision with reasons) and is written with care: state is compact, no
window is scanned twice, nothing is logged or sent that is not needed.

What it does not do, and dafu does: fences (after a crash, events count twice), late events,
retries, dead letters, exact windows beyond 256 transactions, deployed models. So the comparison
favours the baseline.

Run it as a Faust worker, with the model from the environment or as an option::

    DAFU_BROKER=kafka://127.0.0.1:9092 faust -A bench.baseline_tutorial worker --without-web -l info
    python -m bench.baseline_tutorial --model none worker --without-web -l info

Measure it with `-l info`: at `warn` (Faust's default) and `error` its terminal spinner switches
every logger to DEBUG, and each message pays for log records that nobody sees.

Environment: DAFU_BROKER, DAFU_TOPIC_PREFIX (empty), DAFU_PARTITIONS (8), DAFU_BASELINE_STORE
(memory://), DAFU_BASELINE_MODEL (per-row | none).
"""

# Faust has no types that mypy could follow.
# mypy: disable-error-code="misc, call-arg, untyped-decorator"

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from functools import cache
from math import asin, cos, log1p, radians, sin, sqrt
from typing import Any, Final

import faust
import numpy as np
from sklearn.ensemble import IsolationForest

MINUTE: Final = 60.0
HOUR: Final = 3600.0
DAY: Final = 86_400.0
USER_WINDOWS: Final = {
    "1m": MINUTE,
    "5m": 5 * MINUTE,
    "1h": HOUR,
    "24h": DAY,
    "7d": 7 * DAY,
    "30d": 30 * DAY,
}
MERCHANT_WINDOWS: Final = {"1m": MINUTE, "1h": HOUR, "24h": DAY, "7d": 7 * DAY}
KEEP: Final = 256  # transactions remembered for each user and each merchant
MODELS: Final = ("per-row", "none")

PREFIX: Final = os.environ.get("DAFU_TOPIC_PREFIX", "")
PARTITIONS: Final = int(os.environ.get("DAFU_PARTITIONS", "8"))
MODEL_VARIABLE: Final = "DAFU_BASELINE_MODEL"

app = faust.App(
    f"{PREFIX}baseline-tutorial",
    broker=os.environ.get("DAFU_BROKER", "kafka://127.0.0.1:9092"),
    store=os.environ.get("DAFU_BASELINE_STORE", "memory://"),
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


transactions = app.topic(
    f"{PREFIX}transactions",
    key_type=str,
    value_type=Transaction,
    partitions=PARTITIONS,
    internal=True,
)
by_merchant = app.topic(
    f"{PREFIX}transactions-by-merchant",
    key_type=str,
    value_type=Enriched,
    partitions=PARTITIONS,
    internal=True,
)
decisions = app.topic(
    f"{PREFIX}decisions",
    key_type=str,
    value_serializer="json",
    partitions=PARTITIONS,
    internal=True,
)
users = app.Table(f"{PREFIX}users", default=list, partitions=PARTITIONS)
merchants = app.Table(f"{PREFIX}merchants", default=list, partitions=PARTITIONS)


def epoch_seconds(timestamp: str | float) -> float:
    """Return the time of the payment in seconds since 1970 (UTC when it has no offset)."""
    if isinstance(timestamp, str):
        moment = datetime.fromisoformat(timestamp)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return timestamp / 1000.0


def kilometres(lat_1: float, long_1: float, lat_2: float, long_2: float) -> float:
    """Return the great-circle distance between two places in degrees (haversine formula)."""
    phi_1, phi_2 = radians(lat_1), radians(lat_2)
    half = sin((phi_2 - phi_1) / 2) ** 2
    half += cos(phi_1) * cos(phi_2) * sin(radians(long_2 - long_1) / 2) ** 2
    return 12_742.0 * asin(sqrt(min(1.0, half)))


def recent(history: list[list[Any]], now: float, horizon: float) -> list[list[Any]]:
    """Return what is remembered of a history: the last transactions inside the horizon."""
    return [entry for entry in history[-KEEP:] if entry[0] > now - horizon]


def windows(history: list[list[Any]], now: float, spans: dict[str, float]) -> dict[str, float]:
    """Return count and sum of the amounts (entry[1]) in each window, in one scan."""
    names = list(spans)
    counts = dict.fromkeys(names, 0)
    sums = dict.fromkeys(names, 0.0)
    # From the newest on, and the windows from the shortest: an entry too old for a window is
    # too old for the shorter ones, so those are closed.
    first = 0
    for entry in reversed(history):
        age = now - entry[0]
        while first < len(names) and age >= spans[names[first]]:
            first += 1
        for name in names[first:]:
            counts[name] += 1
            sums[name] += entry[1]
    features: dict[str, float] = {}
    for name in names:
        features[f"count_{name}"] = counts[name]
        features[f"sum_{name}"] = sums[name]
    return features


def user_features(history: list[list[Any]], tx: Transaction, now: float) -> dict[str, float]:
    """Return the features of the user, whose history ends with this transaction."""
    features = windows(history, now, USER_WINDOWS)
    before = history[:-1]
    amounts = [entry[1] for entry in before]
    mean = sum(amounts) / len(amounts) if amounts else tx.amount
    variance = sum((a - mean) ** 2 for a in amounts) / len(amounts) if amounts else 0.0
    features["amount_mean"] = mean
    features["amount_z"] = (tx.amount - mean) / sqrt(variance) if variance > 0 else 0.0
    last_day = [entry for entry in history if entry[0] > now - DAY]
    features["merchants_24h"] = len({entry[2] for entry in last_day})
    features["devices_24h"] = len({entry[3] for entry in last_day})
    features["new_merchant"] = float(tx.merchant_id not in {entry[2] for entry in before})
    features["new_device"] = float(tx.device_fingerprint not in {entry[3] for entry in before})
    features["new_country"] = float(tx.country not in {entry[4] for entry in before})
    features["seconds_since_last"] = now - before[-1][0] if before else 30 * DAY
    features["speed_kmh"] = 0.0
    lat, long = history[-1][5], history[-1][6]
    if before and lat is not None and before[-1][5] is not None:
        distance = kilometres(before[-1][5], before[-1][6], lat, long)
        hours = max((now - before[-1][0]) / HOUR, 1 / 60)
        features["speed_kmh"] = distance / hours
    return features


def merchant_features(history: list[list[Any]], amount: float, now: float) -> dict[str, float]:
    """Return the features of the merchant, whose history ends with this transaction."""
    features = {f"merchant_{k}": v for k, v in windows(history, now, MERCHANT_WINDOWS).items()}
    last_hour = [entry for entry in history if entry[0] > now - HOUR]
    features["merchant_users_1h"] = len({entry[2] for entry in last_hour})
    mean = features["merchant_sum_7d"] / max(features["merchant_count_7d"], 1)
    features["merchant_amount_ratio"] = amount / mean if mean > 0 else 1.0
    return features


def fired_rules(amount: float, f: dict[str, float]) -> list[tuple[str, float]]:
    """Return the rules that fire, each with the risk it stands for."""
    fired = []
    if amount > 10_000:
        fired.append(("amount over 10,000", 0.9))
    if amount > 1_000 and f["new_device"] and f["new_country"]:
        fired.append(("high amount, new device and new country", 0.8))
    if f["count_1m"] > 5:
        fired.append(("more than 5 payments in a minute", 0.8))
    if f["count_1h"] > 20:
        fired.append(("more than 20 payments in an hour", 0.7))
    if f["sum_24h"] > 20_000:
        fired.append(("more than 20,000 in a day", 0.7))
    if f["amount_z"] > 4 and f["count_30d"] > 10:
        fired.append(("amount far above what is usual for the user", 0.6))
    if f["speed_kmh"] > 900:
        fired.append(("faster than an aeroplane", 0.8))
    if f["devices_24h"] > 3:
        fired.append(("more than 3 devices in a day", 0.5))
    if f["merchants_24h"] > 15:
        fired.append(("more than 15 merchants in a day", 0.4))
    if f["merchant_count_1m"] > 100 and f["merchant_users_1h"] > 50:
        fired.append(("burst at the merchant", 0.5))
    if f["merchant_amount_ratio"] > 10 and f["new_merchant"]:
        fired.append(("first payment at the merchant, ten times the usual amount", 0.6))
    return fired


def model_row(amount: float, f: dict[str, float]) -> list[float]:
    """Return the input of the isolation forest."""
    return [
        log1p(amount),
        log1p(f["count_1h"]),
        log1p(f["count_24h"]),
        log1p(f["sum_24h"]),
        log1p(f["sum_30d"]),
        f["amount_z"],
        f["new_merchant"],
        f["new_device"],
        log1p(f["seconds_since_last"]),
        log1p(f["speed_kmh"]),
        log1p(f["merchant_count_1h"]),
        log1p(f["merchant_amount_ratio"]),
    ]


@cache
def isolation_forest() -> IsolationForest:
    """Return a forest of 100 trees, fitted on rows of an invented, ordinary population.

    Its cost does not depend on what it was fitted on, and cost is what this file is about.
    """
    rng = np.random.default_rng(7)
    n = 5_000
    rows = np.column_stack(
        [
            rng.normal(3.5, 1.0, n),
            np.log1p(rng.poisson(1.0, n)),
            np.log1p(rng.poisson(4.0, n)),
            rng.normal(5.0, 1.0, n),
            rng.normal(8.0, 1.0, n),
            rng.normal(0.0, 1.0, n),
            rng.integers(0, 2, n),
            rng.integers(0, 2, n),
            rng.normal(9.0, 2.0, n),
            rng.exponential(2.0, n),
            rng.normal(3.0, 1.0, n),
            np.log1p(rng.lognormal(0.0, 0.6, n)),
        ]
    )
    return IsolationForest(n_estimators=100, random_state=7).fit(rows)


def model_score(amount: float, features: dict[str, float]) -> float | None:
    """Return how anomalous the row is, 0..1, or None when the worker runs without a model."""
    if model_choice() == "none":
        return None
    row = np.array([model_row(amount, features)])
    return float(-isolation_forest().score_samples(row)[0])


@cache
def model_choice() -> str:
    """Return which model the worker runs: `per-row` or `none`."""
    choice = os.environ.get(MODEL_VARIABLE, "per-row")
    if choice not in MODELS:
        raise SystemExit(f"{MODEL_VARIABLE}={choice}: give one of {', '.join(MODELS)}")
    return choice


@app.agent(transactions)
async def score_users(stream: faust.StreamT[Transaction]) -> None:
    """Stage one: the windows and the behaviour of the user."""
    async for tx in stream:
        now = epoch_seconds(tx.timestamp)
        lat = tx.merchant_lat if tx.merchant_lat is not None else tx.lat
        long = tx.merchant_long if tx.merchant_long is not None else tx.long
        entry = [now, tx.amount, tx.merchant_id, tx.device_fingerprint, tx.country, lat, long]
        history = recent([*users[tx.user_id], entry], now, 30 * DAY)
        users[tx.user_id] = history
        await by_merchant.send(
            key=tx.merchant_id,
            value=Enriched(
                transaction_id=tx.transaction_id,
                user_id=tx.user_id,
                merchant_id=tx.merchant_id,
                amount=tx.amount,
                at=now,
                features=user_features(history, tx, now),
            ),
        )


@app.agent(by_merchant)
async def score_merchants(stream: faust.StreamT[Enriched]) -> None:
    """Stage two: the windows of the merchant, the model, the rules, the decision."""
    async for tx in stream:
        entry = [tx.at, tx.amount, tx.user_id]
        history = recent([*merchants[tx.merchant_id], entry], tx.at, 7 * DAY)
        merchants[tx.merchant_id] = history
        features = tx.features | merchant_features(history, tx.amount, tx.at)
        anomaly = model_score(tx.amount, features)
        fired = fired_rules(tx.amount, features)
        risk = max([risk for _, risk in fired] + ([anomaly] if anomaly is not None else [0.0]))
        await decisions.send(
            key=tx.user_id,
            value={
                "transaction_id": tx.transaction_id,
                "user_id": tx.user_id,
                "merchant_id": tx.merchant_id,
                "timestamp": datetime.fromtimestamp(tx.at, UTC).isoformat(),
                "decision": "block" if risk >= 0.8 else "review" if risk >= 0.6 else "approve",
                "risk_score": risk,
                "scores": {} if anomaly is None else {"isolation_forest": anomaly},
                "reasons": [name for name, _ in fired],
            },
        )


@app.task
async def prepare_model() -> None:
    """Fit the model before the first event asks for it."""
    if model_choice() != "none":
        isolation_forest()


def main(arguments: list[str]) -> None:
    """Run the worker: `--model per-row|none`, then what the `faust` command takes."""
    if arguments[:1] == ["--model"] and len(arguments) > 1:
        os.environ[MODEL_VARIABLE] = arguments[1]
        arguments = arguments[2:]
    model_choice()
    sys.argv[1:] = arguments
    app.main()


if __name__ == "__main__":
    main(sys.argv[1:])
