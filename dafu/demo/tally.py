"""What was published, what was decided, how fast, and how that relates to the truth.

Plain counting: times are given, nothing is read or printed here.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from dafu.schema import Decision, decode_decision
from dafu.stages.decide import Thresholds

_KEPT_SAMPLES: Final = 200
_FRAUD: Final = Thresholds().fraud
_ABOUT: Final = 1.05  # ratio of neighbouring buckets of latencies


class Latencies:
    """Latencies in milliseconds, remembered to within 2.5 %.

    >>> some = Latencies()
    >>> for ms in range(1, 101):
    ...     some.add(ms)
    >>> round(some.quantile(0.5)), round(some.quantile(0.99))
    (51, 100)
    """

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def __len__(self) -> int:
        return self._counts.total()

    def add(self, milliseconds: float) -> None:
        """Take one; anything below a tenth counts as a tenth."""
        self._counts[round(math.log(max(milliseconds, 0.1), _ABOUT))] += 1

    def quantile(self, q: float) -> float:
        """The latency that a share of `q` does not exceed; NaN if there is none yet."""
        wanted, seen = q * len(self), 0
        for bucket, count in sorted(self._counts.items()):
            seen += count
            if seen >= wanted:
                return _ABOUT**bucket
        return math.nan


class Sample(NamedTuple):
    """A decision worth showing, with the truth: the kind of fraud, None for a genuine one."""

    decision: Decision
    scenario: str | None


class _Waiting(NamedTuple):
    at: float
    scenario: str | None
    live: bool


class Tally:
    """Counts of one demonstration. Times are seconds of one clock, whichever.

    Attributes
    ----------
    published, decided : int
        Transactions, history included, each counted once.
    live_published, live_decided : int
        Those after the history, which everything below is about.
    by_decision : Counter
        By kind of decision.
    outcomes : Counter
        By (kind of decision, kind of fraud or None).
    seen_by_consumer, told_by_worker : Latencies
        From publishing to the arrival of the decision here; and by the header of the decision,
        from the transaction's record time until it was decided.
    by_model : Counter
        By name and version of the model that decided.
    looking_on : dict of Counter
        By name of a model that only looked on: of the transactions that it saw, by whether it would
        have said fraud, whether the decision did, and whether it was one.
    repeats : int
        Decisions that came again; nobody but the demonstration publishes here.
    dead_letters : list of str
        What is known of each.
    samples : deque of Sample
        Recent decisions to review or block; in a demonstration these are worth reading.
    """

    def __init__(self) -> None:
        self.published = 0
        self.decided = 0
        self.live_published = 0
        self.live_decided = 0
        self.by_decision: Counter[str] = Counter()
        self.outcomes: Counter[tuple[str, str | None]] = Counter()
        self.seen_by_consumer = Latencies()
        self.told_by_worker = Latencies()
        self.by_model: Counter[tuple[str, str]] = Counter()
        self.looking_on: dict[str, Counter[tuple[bool, bool, bool]]] = {}
        self.repeats = 0
        self.dead_letters: list[str] = []
        self.samples: deque[Sample] = deque(maxlen=_KEPT_SAMPLES)
        self._waiting: dict[str, _Waiting] = {}

    @property
    def open(self) -> int:
        """Transactions that have neither a decision nor a dead letter yet."""
        return self.published - self.decided - len(self.dead_letters)

    def publish(
        self, ids: Sequence[str], scenarios: Sequence[str | None], at: float, *, live: bool
    ) -> None:
        """Take note of transactions that are being published."""
        for name, scenario in zip(ids, scenarios, strict=True):
            self._waiting[name] = _Waiting(at, scenario, live)
        self.published += len(ids)
        if live:
            self.live_published += len(ids)

    def decide(self, payload: bytes, latency_ms: float | None, at: float) -> None:
        """Take a decision as it came: its payload, the worker's latency header, the time."""
        decision = decode_decision(payload)
        waiting = self._waiting.pop(decision.transaction_id, None)
        if waiting is None:
            self.repeats += 1
            return
        self.decided += 1
        if not waiting.live:
            return
        self.live_decided += 1
        self.by_decision[decision.decision] += 1
        self.outcomes[decision.decision, waiting.scenario] += 1
        self.by_model[decision.model_used, decision.versions.model or ""] += 1
        for other in decision.candidates:
            fraud = other.risk_score >= _FRAUD
            seen = fraud, decision.is_fraud, waiting.scenario is not None
            self.looking_on.setdefault(other.model, Counter())[seen] += 1
        self.seen_by_consumer.add((at - waiting.at) * 1000.0)
        if latency_ms is not None:
            self.told_by_worker.add(latency_ms)
        if decision.decision != "approve":
            self.samples.append(Sample(decision, waiting.scenario))
