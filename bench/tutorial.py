"""The job that the baselines do: windows, behaviour, rules, one isolation forest, a decision.

Plain functions of (history, transaction), the way tutorials write them, without any framework, so
that each baseline does the same work. It is written with care: state is compact, no window is
scanned twice. What it does not do, and dafu does: fences (after a crash, events count twice), late
events, retries, dead letters, exact windows beyond 256 transactions, deployed models. So every
comparison favours the baselines.

DAFU_BASELINE_MODEL says which model runs: `per-row` (scikit-learn, asked for one row at a time) or
`none`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from math import asin, cos, log1p, radians, sin, sqrt
from typing import Any, Final

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

MODEL_VARIABLE: Final = "DAFU_BASELINE_MODEL"


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


def user_features(history: list[list[Any]]) -> dict[str, float]:
    """Return the features of the user, whose history ends with the transaction in question."""
    now, amount, merchant, device, country, lat, long = history[-1]
    features = windows(history, now, USER_WINDOWS)
    before = history[:-1]
    amounts = [entry[1] for entry in before]
    mean = sum(amounts) / len(amounts) if amounts else amount
    variance = sum((a - mean) ** 2 for a in amounts) / len(amounts) if amounts else 0.0
    features["amount_mean"] = mean
    features["amount_z"] = (amount - mean) / sqrt(variance) if variance > 0 else 0.0
    last_day = [entry for entry in history if entry[0] > now - DAY]
    features["merchants_24h"] = len({entry[2] for entry in last_day})
    features["devices_24h"] = len({entry[3] for entry in last_day})
    features["new_merchant"] = float(merchant not in {entry[2] for entry in before})
    features["new_device"] = float(device not in {entry[3] for entry in before})
    features["new_country"] = float(country not in {entry[4] for entry in before})
    features["seconds_since_last"] = now - before[-1][0] if before else 30 * DAY
    features["speed_kmh"] = 0.0
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
    """Return which model the process runs: `per-row` or `none`."""
    choice = os.environ.get(MODEL_VARIABLE, "per-row")
    if choice not in MODELS:
        raise SystemExit(f"{MODEL_VARIABLE}={choice}: give one of {', '.join(MODELS)}")
    return choice


def user_entry(tx: Any, now: float) -> list[Any]:
    """Return what is remembered of a transaction at its user; `tx` has the fields by name."""
    lat = tx["merchant_lat"] if tx["merchant_lat"] is not None else tx["lat"]
    long = tx["merchant_long"] if tx["merchant_long"] is not None else tx["long"]
    device, country = tx["device_fingerprint"], tx["country"]
    return [now, tx["amount"], tx["merchant_id"], device, country, lat, long]


def judge(tx: Mapping[str, Any], features: dict[str, float]) -> dict[str, Any]:
    """Return the decision on a transaction (ids, `amount`, `at`) with all of its features."""
    amount = tx["amount"]
    anomaly = model_score(amount, features)
    fired = fired_rules(amount, features)
    risk = max([risk for _, risk in fired] + ([anomaly] if anomaly is not None else [0.0]))
    return {
        "transaction_id": tx["transaction_id"],
        "user_id": tx["user_id"],
        "merchant_id": tx["merchant_id"],
        "timestamp": datetime.fromtimestamp(tx["at"], UTC).isoformat(),
        "decision": "block" if risk >= 0.8 else "review" if risk >= 0.6 else "approve",
        "risk_score": risk,
        "scores": {} if anomaly is None else {"isolation_forest": anomaly},
        "reasons": [name for name, _ in fired],
    }
