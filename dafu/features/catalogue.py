"""The catalogue of features: name, unit, group, window and definition, in matrix order.

This is the one place that fixes which column of a feature matrix means what. Kernels write by
these positions, rules and models read by these names, and `CATALOGUE_HASH` tells two versions
apart. It knows nothing of how a feature is computed.

Conventions. A window of length w at time t is (t - w, t] in event time and includes the
transaction itself; it covers what had arrived before it. "Earlier" means: arrived before, with a
time in (t - 30 d, t]. A delayed window of length w is (t - 7 d - w, t - 7 d]: it leaves out the
days in which most labels have not come yet. A fraud is known once its label has arrived; it counts
at the time of the transaction that it is about, as far back as 37 days. A user's place in a fraud
ring is what the latest membership says that had arrived before the transaction. A feature that has
no value for a transaction (no earlier one, no coordinates, no device) is missing: NaN in arrays,
null in JSON.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final, Literal

from msgspec import Struct

Group = Literal["amount", "behavior", "merchant", "sequence", "network"]
Stage = Literal["user", "merchant"]

MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

WINDOWS: Final[dict[str, int]] = {
    "1m": MINUTE,
    "5m": 5 * MINUTE,
    "1h": HOUR,
    "1d": DAY,
    "7d": 7 * DAY,
    "30d": 30 * DAY,
}
"""Window lengths in milliseconds, shortest first: the order in which kernels number them."""

DISTINCT_WINDOWS: Final = ("1h", "1d", "7d", "30d")
"""Windows in which a user's distinct merchants, devices, IPs and countries are counted."""


DELAYED_WINDOWS: Final = ("1d", "7d", "30d")
"""Windows over which the share of fraud is taken, seven days late."""


class Feature(Struct, frozen=True):
    """One column: what it means, in which unit, over which window (None: not windowed)."""

    name: str
    stage: Stage
    group: Group
    unit: str
    definition: str
    window: str | None = None


def _labels(stage: Stage, group: Group) -> Iterator[Feature]:
    """What is known of frauds, of a user or of a merchant; in the order that kernels write."""
    of = f"of the {stage}" if stage == "user" else f"at the {stage}"
    for w in DELAYED_WINDOWS:
        yield Feature(
            f"{stage}_delayed_count_{w}",
            stage,
            group,
            "transactions",
            f"transactions {of} in the delayed window",
            w,
        )
    for w in DELAYED_WINDOWS:
        yield Feature(
            f"{stage}_fraud_share_{w}",
            stage,
            group,
            "share",
            f"known frauds among the transactions {of} in the delayed window; missing without any",
            w,
        )
    yield Feature(f"{stage}_known_frauds", stage, group, "transactions", f"known frauds {of}")
    for which, superlative in (("last", "latest"), ("first", "earliest")):
        yield Feature(
            f"{stage}_days_since_{which}_fraud",
            stage,
            group,
            "d",
            f"days since the {superlative} known fraud {of}",
        )


def _user() -> Iterator[Feature]:
    yield Feature("amount", "user", "amount", "currency", "amount of the transaction")
    for w in WINDOWS:
        yield Feature(
            f"user_count_{w}",
            "user",
            "behavior",
            "transactions",
            "transactions of the user in the window",
            w,
        )
        yield Feature(
            f"user_amount_sum_{w}", "user", "amount", "currency", "sum of amounts in the window", w
        )
        yield Feature(
            f"user_amount_mean_{w}",
            "user",
            "amount",
            "currency",
            "mean amount in the window",
            w,
        )
        yield Feature(
            f"user_amount_std_{w}",
            "user",
            "amount",
            "currency",
            "population standard deviation of the amounts in the window",
            w,
        )
    amounts = (
        ("user_amount_max_30d", "currency", "largest amount in the window"),
        ("user_amount_median_30d", "currency", "median of the user's earlier amounts"),
        (
            "amount_to_user_mean_30d",
            "ratio",
            "amount divided by the mean of the user's earlier amounts",
        ),
        (
            "amount_to_user_median_30d",
            "ratio",
            "amount divided by the median of the user's earlier amounts",
        ),
        (
            "amount_zscore_30d",
            "standard deviations",
            "(amount - mean) / population standard deviation of the user's earlier amounts; "
            "missing with fewer than two of them or no spread",
        ),
    )
    for name, unit, definition in amounts:
        yield Feature(name, "user", "amount", unit, definition, "30d")
    yield Feature(
        "user_high_amounts_14d",
        "user",
        "amount",
        "transactions",
        "earlier transactions in the window with an amount above three times the median of the "
        "user's earlier amounts",
        "14d",
    )
    yield Feature(
        "days_since_first_high_amount_14d",
        "user",
        "amount",
        "d",
        "days since the oldest of those; missing without any",
        "14d",
    )
    yield Feature(
        "user_amount_ratio_max_7d",
        "user",
        "amount",
        "ratio",
        "largest amount of an earlier transaction in the window, divided by the median of the "
        "user's earlier amounts; 0 if there is no transaction in the window",
        "7d",
    )
    for thing in ("merchants", "devices", "ips", "countries"):
        for w in DISTINCT_WINDOWS:
            yield Feature(
                f"user_{thing}_{w}",
                "user",
                "behavior",
                thing,
                f"distinct {thing} of the user's transactions in the window",
                w,
            )
    for thing in ("merchant", "device", "country", "ip"):
        yield Feature(
            f"new_{thing}",
            "user",
            "behavior",
            "0/1",
            f"1 if no earlier transaction of the user names this {thing}; missing when the "
            f"transaction names none",
            "30d",
        )
    plain: tuple[tuple[str, Group, str, str], ...] = (
        (
            "seconds_since_last",
            "behavior",
            "s",
            "seconds since the user's latest transaction seen so far that is not after this one",
        ),
        (
            "km_since_last",
            "behavior",
            "km",
            "great-circle distance from the place of the user's previous placed transaction",
        ),
        (
            "speed_kmh",
            "behavior",
            "km/h",
            "km_since_last over the time between the two, either way round, at least one second",
        ),
        (
            "km_from_home",
            "behavior",
            "km",
            "great-circle distance from the mean place of all placed transactions of the user seen "
            "before",
        ),
        (
            "km_to_merchant",
            "behavior",
            "km",
            "great-circle distance between (lat, long) and (merchant_lat, merchant_long)",
        ),
        ("hour", "behavior", "h", "hour of day, 0..23, UTC"),
        ("is_night", "behavior", "0/1", "1 from 00:00 to 06:59 UTC"),
        ("is_weekend", "behavior", "0/1", "1 on Saturday and Sunday, UTC"),
        (
            "account_age_days",
            "behavior",
            "d",
            "days since the user's first transaction seen, 0 for the first",
        ),
        (
            "user_total_count",
            "behavior",
            "transactions",
            "transactions of the user seen so far, this one included",
        ),
        (
            "user_windows_approximate",
            "behavior",
            "0/1",
            "1 if a window of this transaction reaches past the retained transactions, so that "
            "its figures are estimates",
        ),
    )
    for name, group, unit, definition in plain:
        yield Feature(name, "user", group, unit, definition)
    yield from _labels("user", "behavior")
    yield Feature(
        "sequence_risk",
        "user",
        "sequence",
        "0..1",
        "what the sequence model in use makes of the transaction, after all earlier ones of the "
        "user; missing without such a model",
    )
    yield from _ring()


def _ring() -> Iterator[Feature]:
    """The user's place in a fraud ring; in the order that the kernel writes."""
    known: tuple[tuple[str, str, str], ...] = (
        ("ring_size", "users", "users in the fraud ring that the user is in; 0 for none, as below"),
        ("ring_risk", "0..1", "how much the ring looks like fraud"),
        ("ring_blocked", "users", "other users in the ring with a blocked transaction"),
        ("ring_known_frauds", "users", "other users in the ring with a known fraud"),
        (
            "ring_sharers",
            "users",
            "other users in the ring who share the identifier that ties the user to most of them",
        ),
        (
            "days_since_ring_joined",
            "d",
            "days since the user was first said to be in the ring, 0 if that was later; missing "
            "without a ring",
        ),
    )
    for name, unit, definition in known:
        yield Feature(name, "user", "network", unit, definition)


def _merchant() -> Iterator[Feature]:
    for w in WINDOWS:
        yield Feature(
            f"merchant_count_{w}",
            "merchant",
            "merchant",
            "transactions",
            "transactions at the merchant in the window",
            w,
        )
        yield Feature(
            f"merchant_amount_mean_{w}",
            "merchant",
            "merchant",
            "currency",
            "mean amount at the merchant in the window",
            w,
        )
        yield Feature(
            f"merchant_users_{w}",
            "merchant",
            "merchant",
            "users",
            "distinct users at the merchant in the window",
            w,
        )
    plain = (
        (
            "amount_to_merchant_mean_30d",
            "ratio",
            "amount divided by the mean of the merchant's earlier amounts",
        ),
        (
            "merchant_seconds_since_last",
            "s",
            "seconds since the merchant's latest transaction seen so far that is not after this "
            "one",
        ),
        (
            "merchant_age_days",
            "d",
            "days since the merchant's first transaction seen, 0 for the first",
        ),
        (
            "merchant_windows_approximate",
            "0/1",
            "1 if a window of this transaction reaches past the retained transactions",
        ),
    )
    for name, unit, definition in plain:
        yield Feature(name, "merchant", "merchant", unit, definition)
    yield from _labels("merchant", "merchant")
    yield Feature(
        "merchant_fraud_streak",
        "merchant",
        "merchant",
        "transactions",
        "known frauds at the merchant, at least 7 days old, after the latest transaction of that "
        "age that was none",
    )
    yield Feature(
        "merchant_fraud_streak_days",
        "merchant",
        "merchant",
        "d",
        "days since the first of those; missing without any",
    )
    yield Feature(
        "merchant_days_since_labelled",
        "merchant",
        "merchant",
        "d",
        "days since the latest transaction at the merchant that is at least 7 days old: since when "
        "nobody has told of a fraud there",
    )
    yield Feature(
        "merchant_burst_users",
        "merchant",
        "merchant",
        "users",
        "users whose payments at the merchant within minutes or hours show the pattern of this one "
        "(small, high, or of newcomers), where they are more than its past explains; else 0",
    )
    yield Feature(
        "merchant_burst_score",
        "merchant",
        "merchant",
        "0..1",
        "how much that looks like cards being tried out or a merchant in collusion",
    )


USER_FEATURES: Final[tuple[Feature, ...]] = tuple(_user())
MERCHANT_FEATURES: Final[tuple[Feature, ...]] = tuple(_merchant())
FEATURES: Final[tuple[Feature, ...]] = USER_FEATURES + MERCHANT_FEATURES
"""Every feature, in the column order of a complete feature matrix: user stage, then merchant."""

USER_INDEX: Final[dict[str, int]] = {f.name: i for i, f in enumerate(USER_FEATURES)}
MERCHANT_INDEX: Final[dict[str, int]] = {f.name: i for i, f in enumerate(MERCHANT_FEATURES)}
INDEX: Final[dict[str, int]] = {f.name: i for i, f in enumerate(FEATURES)}


def _hash(features: tuple[Feature, ...]) -> str:
    text = "\n".join(f"{f.name}|{f.stage}|{f.unit}|{f.window}|{f.definition}" for f in features)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


CATALOGUE_HASH: Final = _hash(FEATURES)
"""Twelve hex digits that change with any name, unit, window, definition or position."""

USER_LAYOUT_HASH: Final = int(_hash(USER_FEATURES)[:8], 16)
"""What stage two checks before it reads the user features that stage one sent."""

ALIASES: Final[dict[str, str]] = {
    "transactions_per_minute": "user_count_1m",
    "transactions_per_hour": "user_count_1h",
    "transactions_per_day": "user_count_1d",
    "distance_from_home": "km_from_home",
    "speed": "speed_kmh",
}
"""Names that people use in rules for features that are called otherwise."""
