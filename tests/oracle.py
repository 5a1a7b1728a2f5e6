"""Features recomputed from the catalogue's definitions, without the kernels or their arithmetic.

`UserOracle` and `MerchantOracle` are the definitions in plain Python, for short streams: every
figure is taken afresh from the list of all transactions before. `user_history` and
`merchant_history` say the same in numpy, an entity at a time, for tens of thousands. Nothing here
imports `dafu.features`; both forms are quadratic in an entity's transactions.

`tolerances` says how closely a feature has to agree: 0.0 means exactly.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from msgspec import Struct

from tests.bursts import BurstOracle

WINDOWS = {
    "1m": timedelta(minutes=1),
    "5m": timedelta(minutes=5),
    "1h": timedelta(hours=1),
    "1d": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
MS = {name: length // timedelta(milliseconds=1) for name, length in WINDOWS.items()}
DAY_MS = MS["1d"]
DISTINCT = ("1h", "1d", "7d", "30d")
DELAYED = ("1d", "7d", "30d")
EARTH_KM = 6371.0088
THINGS = ("merchant", "device", "ip", "country")
PLURAL = {"merchant": "merchants", "device": "devices", "ip": "ips", "country": "countries"}
EXACT = ("count", "merchants", "devices", "ips", "countries", "users")
EXACT_NAMES = {
    "amount",
    "user_amount_max_30d",
    "user_amount_median_30d",
    "hour",
    "is_night",
    "is_weekend",
    "new_merchant",
    "new_device",
    "new_country",
    "new_ip",
    "user_total_count",
    "user_windows_approximate",
    "merchant_windows_approximate",
    "user_known_frauds",
    "merchant_known_frauds",
    "user_high_amounts_14d",
    "merchant_fraud_streak",
    "ring_size",
    "ring_risk",
    "ring_blocked",
    "ring_known_frauds",
    "ring_sharers",
    "merchant_burst_users",
}


class Payment(Struct, frozen=True, kw_only=True):
    """A transaction as the tests handle it; time in epoch milliseconds, None where missing."""

    transaction_id: str
    user_id: str
    merchant_id: str
    amount: float
    time: int
    device: str | None = None
    ip: str | None = None
    country: str | None = None
    lat: float | None = None
    long: float | None = None
    merchant_lat: float | None = None
    merchant_long: float | None = None
    card: str | None = None
    email: str | None = None

    def thing(self, name: str) -> str | None:
        value = self.merchant_id if name == "merchant" else getattr(self, name)
        return value or None

    def place(self) -> tuple[float, float] | None:
        for lat, long in ((self.lat, self.long), (self.merchant_lat, self.merchant_long)):
            if lat is not None and long is not None:
                return lat, long
        return None


def tolerance(name: str) -> float:
    """How far a feature may be off, relative to its size or to 1: 0.0 for exact ones."""
    parts = name.split("_")
    exact = len(parts) == 3 and parts[1] in EXACT and parts[2] in MS
    return 0.0 if exact or name in EXACT_NAMES else 1e-9


def sphere_km(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Great-circle distance by the angle between unit vectors, not by haversines."""
    u, v = _unit(a), _unit(b)
    cross = math.dist(
        (u[1] * v[2], u[2] * v[0], u[0] * v[1]), (u[2] * v[1], u[0] * v[2], u[1] * v[0])
    )
    return EARTH_KM * math.atan2(cross, sum(x * y for x, y in zip(u, v, strict=True)))


def _unit(place: tuple[float, float]) -> tuple[float, float, float]:
    lat, long = math.radians(place[0]), math.radians(place[1])
    return math.cos(lat) * math.cos(long), math.cos(lat) * math.sin(long), math.sin(lat)


class Verdict(Struct, frozen=True, kw_only=True):
    """A label as the tests handle it; times in epoch milliseconds."""

    transaction_id: str
    user_id: str
    fraud: bool
    observed: int
    merchant_id: str | None = None
    time: int | None = None


class Enrolment(Struct, frozen=True, kw_only=True):
    """A membership in a ring as the tests handle it; time in epoch milliseconds."""

    user_id: str
    ring_id: str
    time: int
    size: int
    risk: float = 0.5
    blocked: int = 0
    frauds: int = 0
    shared: str = ""
    sharers: int = 0


class _Labelled:
    """Payments of an entity, and what is known of frauds among them."""

    def __init__(self) -> None:
        self.seen: list[Payment] = []
        self.verdicts: dict[str, Verdict] = {}

    def label(self, verdict: Verdict) -> None:
        """A label arrives; one that was observed before the present one changes nothing."""
        present = self.verdicts.get(verdict.transaction_id)
        if present is None or verdict.observed >= present.observed:
            self.verdicts[verdict.transaction_id] = verdict

    def label_features(self, who: str, time: int) -> dict[str, float | None]:
        """What the entity's labels say at this time, of payments that have arrived."""
        out: dict[str, float | None] = {}
        frauds = {t for t, verdict in self.verdicts.items() if verdict.fraud}
        known = [
            time - p.time
            for p in self.seen
            if p.transaction_id in frauds and 0 <= time - p.time < 37 * DAY_MS
        ]
        for w in DELAYED:
            low, high = 7 * DAY_MS, 7 * DAY_MS + MS[w]
            count = sum(low <= time - p.time < high for p in self.seen)
            out[f"{who}_delayed_count_{w}"] = count
            share = sum(low <= age < high for age in known) / count if count else None
            out[f"{who}_fraud_share_{w}"] = share
        out[f"{who}_known_frauds"] = len(known)
        out[f"{who}_days_since_last_fraud"] = min(known) / DAY_MS if known else None
        out[f"{who}_days_since_first_fraud"] = max(known) / DAY_MS if known else None
        return out


class UserOracle(_Labelled):
    """All features of one user's transactions, asked for and added in order of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.enrolments: list[Enrolment] = []

    def enrol(self, told: Enrolment) -> bool:
        """A membership arrives; whether it is the user's first in that ring."""
        before = self.ring()
        if self.enrolments and told.time <= max(e.time for e in self.enrolments):
            return False
        self.enrolments.append(told)
        return told.size > 0 and (before is None or before.ring_id != told.ring_id)

    def ring(self) -> Enrolment | None:
        """The place in a ring that holds now."""
        return self.enrolments[-1] if self.enrolments and self.enrolments[-1].size else None

    def ring_features(self, time: int) -> dict[str, float | None]:
        """What the ring says of a transaction of this time."""
        ring = self.ring()
        figures = ("size", "risk", "blocked", "known_frauds", "sharers")
        if ring is None:
            return {**{f"ring_{name}": 0.0 for name in figures}, "days_since_ring_joined": None}
        joined = ring.time
        for earlier in reversed(self.enrolments):
            if earlier.ring_id != ring.ring_id or not earlier.size:
                break
            joined = earlier.time
        values = (ring.size, ring.risk, ring.blocked, ring.frauds, ring.sharers)
        out: dict[str, float | None] = {
            f"ring_{name}": value for name, value in zip(figures, values, strict=True)
        }
        return {**out, "days_since_ring_joined": max(time - joined, 0) / DAY_MS}

    def status(self, tx: Payment) -> str:
        """`new`, `duplicate` or `conflict`, as long as nothing was forgotten yet."""
        for old in self.seen:
            if old.transaction_id == tx.transaction_id:
                same = (old.time, old.amount, old.merchant_id) == (
                    tx.time,
                    tx.amount,
                    tx.merchant_id,
                )
                return "duplicate" if same else "conflict"
        return "new"

    def add(self, tx: Payment) -> dict[str, float | None]:
        """Features of a new transaction, which is then part of the history."""
        out: dict[str, float | None] = {"amount": tx.amount}
        inside = {
            w: [p for p in self.seen if tx.time - length < p.time <= tx.time]
            for w, length in MS.items()
        }
        for w, before in inside.items():
            amounts = [p.amount for p in before] + [tx.amount]
            out[f"user_count_{w}"] = len(amounts)
            out[f"user_amount_sum_{w}"] = math.fsum(amounts)
            out[f"user_amount_mean_{w}"] = statistics.fmean(amounts)
            out[f"user_amount_std_{w}"] = statistics.pstdev(amounts)
        earlier = inside["30d"]
        out["user_amount_max_30d"] = max([p.amount for p in earlier] + [tx.amount])
        out |= _against(tx.amount, [p.amount for p in earlier])
        for name in THINGS:
            value = tx.thing(name)
            for w in DISTINCT:
                values = {p.thing(name) for p in inside[w]} | {value}
                out[f"user_{PLURAL[name]}_{w}"] = len(values - {None})
            known = any(p.thing(name) == value for p in earlier)
            out[f"new_{name}"] = None if value is None else float(not known)
        out["seconds_since_last"] = _since(tx.time, [p.time for p in self.seen])
        out |= _high(tx.time, earlier)
        out |= self._places(tx)
        when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=tx.time)
        out["hour"] = when.hour
        out["is_night"] = float(when.hour < 7)
        out["is_weekend"] = float(when.isoweekday() in (6, 7))
        out["account_age_days"] = _age(tx.time, [p.time for p in self.seen])
        out |= self.label_features("user", tx.time)
        self.seen.append(tx)
        out["user_total_count"] = len(self.seen)
        out["user_windows_approximate"] = 0.0
        out["sequence_risk"] = None
        return out | self.ring_features(tx.time)

    def _places(self, tx: Payment) -> dict[str, float | None]:
        out: dict[str, float | None] = dict.fromkeys(
            ("km_since_last", "speed_kmh", "km_from_home", "km_to_merchant")
        )
        if None not in (tx.lat, tx.long, tx.merchant_lat, tx.merchant_long):
            out["km_to_merchant"] = sphere_km(
                (tx.lat, tx.long),  # type: ignore[arg-type]
                (tx.merchant_lat, tx.merchant_long),  # type: ignore[arg-type]
            )
        here = tx.place()
        placed = [(p, at) for p in self.seen if (at := p.place()) is not None]
        if here is not None and placed:
            last, there = placed[-1]
            km = sphere_km(here, there)
            out["km_since_last"] = km
            out["speed_kmh"] = km / max(abs(tx.time - last.time) / 3_600_000, 1 / 3600)
            x, y, z = (math.fsum(axis) for axis in zip(*(_unit(p) for _, p in placed), strict=True))
            home = math.degrees(math.atan2(z, math.hypot(x, y))), math.degrees(math.atan2(y, x))
            out["km_from_home"] = sphere_km(here, home)
        return out


class MerchantOracle(_Labelled):
    """All features of one merchant's transactions, asked for and added in order of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.bursts = BurstOracle()

    def add(self, tx: Payment) -> dict[str, float | None]:
        """Features of a transaction, which is then part of the history."""
        out: dict[str, float | None] = {}
        for w, length in MS.items():
            before = [p for p in self.seen if tx.time - length < p.time <= tx.time]
            out[f"merchant_count_{w}"] = len(before) + 1
            out[f"merchant_amount_mean_{w}"] = statistics.fmean([p.amount for p in [*before, tx]])
            out[f"merchant_users_{w}"] = len({p.user_id for p in [*before, tx]})
        amounts = [p.amount for p in self.seen if tx.time - MS["30d"] < p.time <= tx.time]
        mean = statistics.fmean(amounts) if amounts else 0.0
        out["amount_to_merchant_mean_30d"] = tx.amount / mean if mean else None
        out["merchant_seconds_since_last"] = _since(tx.time, [p.time for p in self.seen])
        out["merchant_age_days"] = _age(tx.time, [p.time for p in self.seen])
        out["merchant_windows_approximate"] = 0.0
        out |= self.label_features("merchant", tx.time)
        out |= self._streak(tx.time)
        found, _ = self.bursts.add(tx.time, tx.amount, tx.user_id)
        out |= {"merchant_burst_users": found.users, "merchant_burst_score": found.score}
        self.seen.append(tx)
        return out

    def _streak(self, time: int) -> dict[str, float | None]:
        frauds = {t for t, verdict in self.verdicts.items() if verdict.fraud}
        # A merchant's own record tells a payment by its time and amount.
        marked = {(p.time, p.amount) for p in self.seen if p.transaction_id in frauds}
        old = [p for p in self.seen if 7 * DAY_MS <= time - p.time < 37 * DAY_MS]
        genuine = max((p.time for p in old if (p.time, p.amount) not in marked), default=0)
        run = [p.time for p in old if p.transaction_id in frauds and p.time > genuine]
        days = (time - min(run)) / DAY_MS if run else None
        newest = max((p.time for p in old), default=None)
        return {
            "merchant_fraud_streak": len(run),
            "merchant_fraud_streak_days": days,
            "merchant_days_since_labelled": None if newest is None else (time - newest) / DAY_MS,
        }


def _high(time: int, earlier: list[Payment]) -> dict[str, float | None]:
    out: dict[str, float | None] = dict.fromkeys(
        (
            "user_high_amounts_14d",
            "days_since_first_high_amount_14d",
            "user_amount_ratio_max_7d",
        )
    )
    median = statistics.median(p.amount for p in earlier) if earlier else 0.0
    if not median:
        return out
    high = [time - p.time for p in earlier if time - p.time < 14 * DAY_MS and p.amount > 3 * median]
    out["user_high_amounts_14d"] = len(high)
    out["days_since_first_high_amount_14d"] = max(high) / DAY_MS if high else None
    week = [p.amount / median for p in earlier if time - p.time < 7 * DAY_MS]
    out["user_amount_ratio_max_7d"] = max(week, default=0.0)
    return out


def _against(amount: float, earlier: list[float]) -> dict[str, float | None]:
    out: dict[str, float | None] = dict.fromkeys(
        (
            "user_amount_median_30d",
            "amount_to_user_mean_30d",
            "amount_to_user_median_30d",
            "amount_zscore_30d",
        )
    )
    if not earlier:
        return out
    mean, median = statistics.fmean(earlier), statistics.median(earlier)
    out["user_amount_median_30d"] = median
    out["amount_to_user_mean_30d"] = amount / mean if mean else None
    out["amount_to_user_median_30d"] = amount / median if median else None
    if len(set(earlier)) > 1:
        out["amount_zscore_30d"] = (amount - mean) / statistics.pstdev(earlier)
    return out


def _since(time: int, times: list[int]) -> float | None:
    passed = [t for t in times if t <= time]
    return (time - max(passed)) / 1000 if passed else None


def _age(time: int, times: list[int]) -> float:
    return max(time - min(times), 0) / DAY_MS if times else 0.0


def user_history(
    times: np.ndarray, amounts: np.ndarray, merchants: np.ndarray
) -> dict[str, np.ndarray]:
    """User features that depend on time, amount and merchant, of one user's whole history.

    Parameters
    ----------
    times : int64 [n], epoch milliseconds, in order of arrival
    amounts : float64 [n]
    merchants : array [n], any hashable values

    Returns
    -------
    dict of feature name to float64 [n]
    """
    out = _windowed(times, amounts, "user")
    n = len(times)
    for name in ("user_amount_max_30d", "user_amount_median_30d", "amount_to_user_mean_30d"):
        out[name] = np.full(n, np.nan)
    for name in ("amount_to_user_median_30d", "amount_zscore_30d", "new_merchant"):
        out[name] = np.full(n, np.nan)
    high = ("user_high_amounts_14d", "days_since_first_high_amount_14d", "user_amount_ratio_max_7d")
    for name in high:
        out[name] = np.full(n, np.nan)
    for w in DISTINCT:
        out[f"user_merchants_{w}"] = _distinct(times, merchants, MS[w])
    for i in range(n):
        inside = (times[:i] > times[i] - MS["30d"]) & (times[:i] <= times[i])
        earlier = amounts[:i][inside]
        out["user_amount_max_30d"][i] = max(earlier.max(initial=0.0), amounts[i])
        out["new_merchant"][i] = merchants[i] not in merchants[:i][inside]
        for name, value in _against_array(amounts[i], earlier).items():
            out[name][i] = value
        ages = (times[i] - times[:i])[inside]
        if earlier.size and (median := float(np.median(earlier))) > 0:
            marked = ages[(ages < 14 * DAY_MS) & (earlier > 3 * median)]
            out[high[0]][i] = marked.size
            if marked.size:
                out[high[1]][i] = marked.max() / DAY_MS
            out[high[2]][i] = (earlier[ages < 7 * DAY_MS] / median).max(initial=0.0)
    moments = times.astype("datetime64[ms]")
    hours = (moments - moments.astype("datetime64[D]")).astype("timedelta64[h]").astype(np.int64)
    out["hour"] = hours.astype(np.float64)
    out["is_night"] = (hours < 7).astype(np.float64)
    out["is_weekend"] = (~np.is_busday(moments.astype("datetime64[D]"))).astype(np.float64)
    out["user_total_count"] = np.arange(1.0, n + 1)
    out["amount"] = amounts
    out["seconds_since_last"], out["account_age_days"] = _since_and_age(times)
    return out | _without_labels(times, "user")


def merchant_history(
    times: np.ndarray, amounts: np.ndarray, users: np.ndarray
) -> dict[str, np.ndarray]:
    """All merchant features of one merchant's whole history; parameters as in `user_history`."""
    out = _windowed(times, amounts, "merchant")
    for w in WINDOWS:
        del out[f"merchant_amount_sum_{w}"], out[f"merchant_amount_std_{w}"]
        out[f"merchant_users_{w}"] = _distinct(times, users, MS[w])
    ratio = np.full(len(times), np.nan)
    for i in range(len(times)):
        inside = (times[:i] > times[i] - MS["30d"]) & (times[:i] <= times[i])
        if inside.any() and (mean := amounts[:i][inside].mean()) > 0:
            ratio[i] = amounts[i] / mean
    out["amount_to_merchant_mean_30d"] = ratio
    out["merchant_seconds_since_last"], out["merchant_age_days"] = _since_and_age(times)
    out["merchant_fraud_streak"] = np.zeros(len(times))
    out["merchant_fraud_streak_days"] = np.full(len(times), np.nan)
    since = np.full(len(times), np.nan)
    for i in range(len(times)):
        ages = times[i] - times[:i]
        ages = ages[(ages >= 7 * DAY_MS) & (ages < 37 * DAY_MS)]
        if ages.size:
            since[i] = ages.min() / DAY_MS
    out["merchant_days_since_labelled"] = since
    bursts = BurstOracle()
    found = [
        bursts.add(*payment)[0]
        for payment in zip(times.tolist(), amounts.tolist(), users.tolist(), strict=True)
    ]
    out["merchant_burst_users"] = np.array([f.users for f in found], np.float64)
    out["merchant_burst_score"] = np.array([f.score for f in found])
    return out | _without_labels(times, "merchant")


def _against_array(amount: float, earlier: np.ndarray) -> dict[str, float]:
    if not earlier.size:
        return {}
    mean, median = float(earlier.mean()), float(np.median(earlier))
    out = {"user_amount_median_30d": median}
    if mean > 0:
        out["amount_to_user_mean_30d"] = amount / mean
    if median > 0:
        out["amount_to_user_median_30d"] = amount / median
    if earlier.min() < earlier.max():
        out["amount_zscore_30d"] = (amount - mean) / float(earlier.std())
    return out


def _windowed(times: np.ndarray, amounts: np.ndarray, who: str) -> dict[str, np.ndarray]:
    n = len(times)
    out: dict[str, np.ndarray] = {}
    figures: dict[str, Callable[[np.ndarray], Any]] = {
        "count": len,
        "amount_sum": np.sum,
        "amount_mean": np.mean,
        "amount_std": np.std,
    }
    for w, length in MS.items():
        columns = {figure: np.empty(n) for figure in figures}
        for i in range(n):
            inside = (times[: i + 1] > times[i] - length) & (times[: i + 1] <= times[i])
            window = amounts[: i + 1][inside]
            for figure, compute in figures.items():
                columns[figure][i] = compute(window)
        out |= {f"{who}_{figure}_{w}": column for figure, column in columns.items()}
    return out


def _without_labels(times: np.ndarray, who: str) -> dict[str, np.ndarray]:
    out = {f"{who}_delayed_count_{w}": np.empty(len(times)) for w in DELAYED}
    for i in range(len(times)):
        ages = times[i] - times[:i]
        for w in DELAYED:
            inside = (ages >= 7 * DAY_MS) & (ages < 7 * DAY_MS + MS[w])
            out[f"{who}_delayed_count_{w}"][i] = inside.sum()
    for w in DELAYED:
        out[f"{who}_fraud_share_{w}"] = np.where(out[f"{who}_delayed_count_{w}"] > 0, 0.0, np.nan)
    out[f"{who}_known_frauds"] = np.zeros(len(times))
    for which in ("first", "last"):
        out[f"{who}_days_since_{which}_fraud"] = np.full(len(times), np.nan)
    return out


def _distinct(times: np.ndarray, values: np.ndarray, length: int) -> np.ndarray:
    out = np.empty(len(times))
    for i in range(len(times)):
        inside = (times[: i + 1] > times[i] - length) & (times[: i + 1] <= times[i])
        out[i] = len(set(values[: i + 1][inside].tolist()))
    return out


def _since_and_age(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    since = np.full(len(times), np.nan)
    age = np.zeros(len(times))
    for i in range(1, len(times)):
        passed = times[:i][times[:i] <= times[i]]
        if passed.size:
            since[i] = (times[i] - passed.max()) / 1000
        age[i] = max(times[i] - times[:i].min(), 0) / DAY_MS
    return since, age


def assert_features(
    names: Sequence[str], got: np.ndarray, expected: dict[str, float | None], where: object
) -> None:
    """Compare one row with what an oracle says of it, name by name."""
    assert set(names) == set(expected)
    for name, value in zip(names, got.tolist(), strict=True):
        wanted = expected[name]
        if wanted is None:
            assert math.isnan(value), f"{where}: {name} is {value}, should be missing"
            continue
        allowed = tolerance(name) * max(abs(wanted), 1.0)
        assert abs(value - wanted) <= allowed, f"{where}: {name} is {value!r}, not {wanted!r}"
