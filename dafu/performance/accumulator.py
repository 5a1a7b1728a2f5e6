"""Decisions joined with what became known of them, in any order of arrival.

What is kept is a function of the set of things taken, not of their order: a repeat changes nothing,
a label may come long before its decision or after several corrections, an amount before or after
both. Of one transaction the first decision holds (repeats have its bytes), and the first amount.

Memory: about 600 bytes a transaction (a label alone: 400), for transactions of the last
`horizon_days` before the latest decision, and up to a day more until they are swept out. Whoever
takes decisions with a time far in the future forgets the present: leave them out before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from hashlib import blake2b
from typing import Final, NamedTuple

from msgspec import Struct

from dafu.errors import DafuError
from dafu.performance.report import Group, Judged, Outcome, Period, Report, make_report
from dafu.schema import Decision, InvalidRecordError, Label, timestamp_ms

__all__ = ["DAY", "EARLY", "Counts", "Performance", "PerformanceError"]

DAY: Final = 86_400_000
"""Milliseconds."""

EARLY: Final = DAY
"""How long before its transaction a label may have been observed, in milliseconds: clocks differ.
One observed earlier than that is of something else and is ignored."""

_NEVER: Final = -(2**62)


class PerformanceError(DafuError):
    """Parameters of a report that make no sense."""


class _Candidate(NamedTuple):
    """What a model without a say said: its group, as an index, and its risk."""

    group: int
    risk: float


class _Known(NamedTuple):
    """A label; `amount` is -1 where it tells none."""

    observed: int
    fraud: bool
    amount: float


class _Made(Struct, gc=False, frozen=True):
    """A decision as far as it matters here."""

    time: int
    outcome: Outcome
    risk: float
    group: int
    rules: str
    candidates: tuple[_Candidate, ...]


class _Entry(Struct, gc=False):
    """What is known of one transaction so far.

    `labels` are each there once, ascending. `time` and `amount` came with the transaction; NEVER
    and NaN until then.
    """

    made: _Made | None = None
    labels: tuple[_Known, ...] = ()
    time: int = _NEVER
    amount: float = math.nan


class Counts(NamedTuple):
    """What an accumulator holds.

    Attributes
    ----------
    decisions : int
        Decisions within the horizon.
    repeats : int
        Decisions of transactions that had one already.
    waiting : int
        Labels of transactions whose decision has not come.
    """

    decisions: int
    repeats: int
    waiting: int


class Performance:
    """Takes decisions, labels and amounts in any order, and reports what can be judged.

    Transactions are joined by `transaction_id` within their `user_id`, as the engine tells them
    apart.

    Parameters
    ----------
    horizon_days : float
        Transactions that are this much older than the latest decision are forgotten.

    Raises
    ------
    PerformanceError
        If the horizon is not above 0.
    """

    def __init__(self, horizon_days: float = 90.0) -> None:
        if not 0.0 < horizon_days < math.inf:
            raise PerformanceError(f"a horizon of {horizon_days} days; it must be above 0")
        self.horizon_days = horizon_days
        self._horizon = round(horizon_days * DAY)
        self._entries: dict[bytes, _Entry] = {}
        self._groups: dict[Group, int] = {}
        self._latest = _NEVER
        self._swept = _NEVER
        self._repeats = 0

    def take_decision(self, decision: Decision) -> None:
        """Take a decision; one of a transaction that has one already changes nothing.

        Raises
        ------
        InvalidRecordError
            If its time can not be read.
        """
        time = decision_time(decision)
        if time <= self._cutoff:
            return
        entry = self._entry(decision.user_id, decision.transaction_id)
        if entry.made is not None:
            self._repeats += 1
            return
        champion = Group("champion", decision.model_used, decision.versions.model)
        entry.made = _Made(
            time,
            decision.decision,
            decision.risk_score,
            self._group(champion),
            decision.versions.rules,
            tuple(
                _Candidate(self._group(Group(c.role, c.model, c.version)), c.risk_score)
                for c in decision.candidates
            ),
        )
        if time > self._latest:
            self._latest = time
            if self._cutoff >= self._swept + DAY:
                self._sweep()

    def take_label(self, label: Label) -> None:
        """Take a label. A later observed one of the same transaction corrects it.

        Of two that were observed at once, the one that says fraud holds. An amount in it counts
        where `take_amount` tells none; of several the largest.

        Raises
        ------
        InvalidRecordError
            If the time of its observation can not be read.
        """
        observed = timestamp_ms(label.observed_at, "observed_at")
        if observed + EARLY <= self._cutoff:
            return
        entry = self._entry(label.user_id, label.transaction_id)
        known = _Known(observed, label.is_fraud, -1.0 if label.amount is None else label.amount)
        if known not in entry.labels:
            entry.labels = tuple(sorted((*entry.labels, known)))

    def take_amount(self, user_id: str, transaction_id: str, time: int, amount: float) -> None:
        """Take the amount of a transaction made at `time`, in epoch milliseconds."""
        if time <= self._cutoff:
            return
        entry = self._entry(user_id, transaction_id)
        if math.isnan(entry.amount):
            entry.time, entry.amount = time, amount

    @property
    def counts(self) -> Counts:
        """What is held now."""
        cutoff = self._cutoff
        decisions = waiting = 0
        for entry in self._entries.values():
            if entry.made is None:
                waiting += _alive(entry, cutoff) and bool(entry.labels)
            else:
                decisions += entry.made.time > cutoff
        return Counts(decisions, self._repeats, waiting)

    def report(
        self,
        as_of: int,
        *,
        maturity_days: float = 7.0,
        period: Period = "week",
        candidate_threshold: float | None = None,
    ) -> Report:
        """Count what could be judged at a time.

        Decisions made after it, and labels observed after it, do not exist for the report.

        Parameters
        ----------
        as_of
            Epoch milliseconds.
        maturity_days
            How long labels take. Only decisions of transactions at least this old are judged; of
            these, one without a label counts as genuine.
        period
            What the transactions are grouped by: their day or ISO week, UTC.
        candidate_threshold
            Risk from which a candidate would have alerted; without it only its ranking is judged.

        Raises
        ------
        PerformanceError
            If the maturity is negative.
        """
        if not 0.0 <= maturity_days < math.inf:
            raise PerformanceError(f"a maturity of {maturity_days} days; it must be 0 or more")
        return make_report(
            self._judged(as_of, candidate_threshold),
            list(self._groups),
            as_of=as_of,
            maturity=round(maturity_days * DAY),
            period=period,
        )

    @property
    def _cutoff(self) -> int:
        """What is not later than this is forgotten."""
        return self._latest - self._horizon

    def _group(self, group: Group) -> int:
        return self._groups.setdefault(group, len(self._groups))

    def _entry(self, user_id: str, transaction_id: str) -> _Entry:
        # 128 bits, for any ids: shorter than most, and no two in a lifetime have the same.
        text = f"{len(user_id)}:{user_id}{transaction_id}".encode("utf-8", "surrogatepass")
        key = blake2b(text, digest_size=16).digest()
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry()
        return entry

    def _sweep(self) -> None:
        cutoff = self._swept = self._cutoff
        self._entries = {key: e for key, e in self._entries.items() if _alive(e, cutoff)}

    def _judged(self, as_of: int, candidate_threshold: float | None) -> Iterator[Judged]:
        cutoff = self._cutoff
        for entry in self._entries.values():
            made = entry.made
            if made is None or not cutoff < made.time <= as_of:
                continue
            known = [k for k in entry.labels if made.time - EARLY < k.observed <= as_of]
            verdict = known[-1].fraud if known else None
            amount = entry.amount
            if math.isnan(amount):
                amount = max((k.amount for k in known if k.amount >= 0.0), default=math.nan)
            common = (made.time, verdict, amount, made.rules)
            yield Judged(made.group, made.outcome, made.risk, *common)
            for candidate in made.candidates:
                outcome: Outcome | None = None
                if candidate_threshold is not None:
                    outcome = "review" if candidate.risk >= candidate_threshold else "approve"
                yield Judged(candidate.group, outcome, candidate.risk, *common)


def decision_time(decision: Decision) -> int:
    """Epoch milliseconds of the decided transaction.

    Raises
    ------
    InvalidRecordError
        If it can not be read.
    """
    try:
        moment = datetime.fromisoformat(decision.timestamp)
    except ValueError:
        why = f"timestamp {decision.timestamp!r} of a decision is no time"
        raise InvalidRecordError("invalid_field", why) from None
    return timestamp_ms(moment)


def _alive(entry: _Entry, cutoff: int) -> bool:
    """Whether something in it may still count."""
    if entry.made is not None:
        return entry.made.time > cutoff
    if entry.time != _NEVER:
        return entry.time > cutoff
    return any(known.observed + EARLY > cutoff for known in entry.labels)
