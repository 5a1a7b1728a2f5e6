"""Figures of judged decisions, by model version and period.

A decision is judged once it is mature: its transaction is older than labels take to come. Then a
transaction whose last label says fraud is a fraud, and any other one genuine, with or without a
label. Younger ones are counted apart, also those that are known to be fraud already: frauds become
known one by one, and genuine ones by nothing being heard of them, so that figures of young
transactions would flatter the precision.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

import numpy as np
from msgspec import Struct

from dafu.evaluation.metrics import auc_roc, average_precision

__all__ = ["Group", "Judged", "Outcome", "Period", "Report", "Row", "make_report"]

Period = Literal["day", "week"]
Role = Literal["champion", "challenger", "shadow"]
Outcome = Literal["approve", "review", "block"]

_DAY: Final = 86_400_000
_ROLES: Final = ("champion", "challenger", "shadow")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Group(NamedTuple):
    """Whose answers are judged together.

    Attributes
    ----------
    role : "champion", "challenger" or "shadow"
        A champion's answers are the decisions themselves, rules included; the others looked on.
    model : str
        As decisions name it: for a champion `model_used`.
    version : str or None
        Of the model; None where rules alone decided.
    """

    role: Role
    model: str
    version: str | None


class Judged(NamedTuple):
    """One answer of a group to one transaction, with what is known of it.

    `outcome` is None if nobody knows what the answer would have led to; `verdict` is what the last
    label says, None without one; `amount` is NaN if it is not known.
    """

    group: int
    outcome: Outcome | None
    risk: float
    time: int
    verdict: bool | None
    amount: float
    rules: str


class Row(Struct, frozen=True, kw_only=True):
    """Figures of a group in a period. None stands for what can not be told.

    Attributes
    ----------
    role, model, version
        See `Group`.
    period : str or None
        The first day of the period, as 2026-03-02; None for all periods together.
    rules : tuple of str
        Versions of the rules that were in force, in alphabetical order.
    decisions : int
        All of them; the next two say what became of them.
    reviewed, blocked : int or None
        For a candidate, `reviewed` has all that it would have alerted.
    mature : int
        Decisions that are judged. All figures below are of these.
    immature, immature_frauds : int
        Decisions that are too young to be judged, and how many of them are known frauds.
    labelled : int
        Mature ones with a label; the others count as genuine.
    frauds : int
        Mature ones that are known to be fraud.
    true_positives, false_positives, false_negatives, true_negatives : int or None
        Positive is what was reviewed or blocked.
    precision, recall : float or None
    fraud_value : float or None
        Sum of the amounts of frauds, as far as amounts are known.
    frauds_without_amount : int
        Frauds that are missing in it.
    value_detected : float or None
        Share of the fraud value that was reviewed or blocked.
    average_precision, auc_roc : float or None
        Of the risk scores.
    """

    role: Role
    model: str
    version: str | None
    period: str | None
    rules: tuple[str, ...]
    decisions: int
    reviewed: int | None
    blocked: int | None
    mature: int
    immature: int
    immature_frauds: int
    labelled: int
    frauds: int
    true_positives: int | None
    false_positives: int | None
    false_negatives: int | None
    true_negatives: int | None
    precision: float | None
    recall: float | None
    fraud_value: float | None
    frauds_without_amount: int
    value_detected: float | None
    average_precision: float | None
    auc_roc: float | None


class Report(Struct, frozen=True, kw_only=True):
    """What could be judged at a time.

    Attributes
    ----------
    as_of : str
        ISO 8601, UTC.
    maturity_days : float
    period : "day" or "week"
    rows : tuple of Row
        By group (champions first, then by name and version) and period, ascending.
    totals : tuple of Row
        By group, over all periods.
    """

    as_of: str
    maturity_days: float
    period: Period
    rows: tuple[Row, ...]
    totals: tuple[Row, ...]


def make_report(
    answers: Iterable[Judged],
    groups: Sequence[Group],
    *,
    as_of: int,
    maturity: int,
    period: Period,
) -> Report:
    """Count answers by group and period.

    Parameters
    ----------
    answers
        In any order; the result does not depend on it.
    groups
        What `Judged.group` counts through.
    as_of, maturity
        Epoch milliseconds, and milliseconds.
    """
    mature_until = as_of - maturity
    cells: dict[tuple[int, int], list[Judged]] = defaultdict(list)
    for answer in answers:
        cells[answer.group, _period_start(answer.time, period)].append(answer)
    of_group: dict[int, list[Judged]] = defaultdict(list)
    rows = []
    for (group, start), found in sorted(
        cells.items(), key=lambda cell: (_order(groups[cell[0][0]]), cell[0][1])
    ):
        day = (_EPOCH + timedelta(days=start)).date().isoformat()
        rows.append(_row(groups[group], day, found, mature_until))
        of_group[group].extend(found)
    return Report(
        as_of=(_EPOCH + timedelta(milliseconds=as_of)).isoformat().replace("+00:00", "Z"),
        maturity_days=maturity / _DAY,
        period=period,
        rows=tuple(rows),
        totals=tuple(_row(groups[g], None, found, mature_until) for g, found in of_group.items()),
    )


def _order(group: Group) -> tuple[int, str, str]:
    return _ROLES.index(group.role), group.model, group.version or ""


def _period_start(time: int, period: Period) -> int:
    """The first day of a period, in days since 1970; weeks begin on Mondays."""
    day = time // _DAY
    return day if period == "day" else day - (day + 3) % 7  # 1970-01-01 was a Thursday


def _row(group: Group, period: str | None, answers: list[Judged], mature_until: int) -> Row:
    mature = [a for a in answers if a.time <= mature_until]
    fraud = np.array([a.verdict is True for a in mature], dtype=np.int8)
    risks = np.array([a.risk for a in mature], dtype=np.float64)
    order = np.lexsort((fraud, risks))  # so that sums do not depend on the order of arrival
    ap = auc = math.nan
    if 0 < fraud.sum() < len(mature):
        ap = average_precision(fraud[order], risks[order])
        auc = auc_roc(fraud[order], risks[order])
    decided = all(a.outcome is not None for a in answers)
    alerts = [a.outcome in {"review", "block"} for a in mature]
    frauds = int(fraud.sum())
    hits = sum(alert and bool(f) for alert, f in zip(alerts, fraud, strict=True))
    false_alerts = sum(alerts) - hits
    priced = [
        (a.amount, alert)
        for a, alert in zip(mature, alerts, strict=True)
        if a.verdict and not math.isnan(a.amount)
    ]
    value = math.fsum(amount for amount, _ in priced)
    found = math.fsum(amount for amount, alert in priced if alert)
    return Row(
        role=group.role,
        model=group.model,
        version=group.version,
        period=period,
        rules=tuple(sorted({a.rules for a in answers})),
        decisions=len(answers),
        reviewed=sum(a.outcome == "review" for a in answers) if decided else None,
        blocked=sum(a.outcome == "block" for a in answers) if decided else None,
        mature=len(mature),
        immature=len(answers) - len(mature),
        immature_frauds=sum(a.verdict is True for a in answers if a.time > mature_until),
        labelled=sum(a.verdict is not None for a in mature),
        frauds=frauds,
        true_positives=hits if decided else None,
        false_positives=false_alerts if decided else None,
        false_negatives=frauds - hits if decided else None,
        true_negatives=len(mature) - frauds - false_alerts if decided else None,
        precision=hits / (hits + false_alerts) if decided and hits + false_alerts else None,
        recall=hits / frauds if decided and frauds else None,
        fraud_value=value if priced else None,
        frauds_without_amount=frauds - len(priced),
        value_detected=found / value if decided and value > 0.0 else None,
        average_precision=None if math.isnan(ap) else ap,
        auc_roc=None if math.isnan(auc) else auc,
    )
