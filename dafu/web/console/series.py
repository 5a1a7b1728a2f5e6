"""What was decided lately, second by second: counts, latencies and risks of all workers.

Fed with decisions as they were published; one that comes twice counts twice, as it was published
twice. Pure: the time is that of the records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dafu.stages.decide import DECISIONS
from dafu.web.console.shown import brief
from dafu.web.decisions.memory import Made

__all__ = ["SECONDS", "Bin", "RuleCount", "Series"]

SECONDS: Final = 900
"""How far it reaches back."""

_BINS_A_DOUBLING: Final = 8
_LATENCY_BINS: Final = 17 * _BINS_A_DOUBLING
"""From 1 ms to two minutes; a latency is known to within 9 %."""

_RISK_BINS: Final = 20
_OUTCOME: Final = {name: i for i, name in enumerate(DECISIONS)}


class Bin(NamedTuple):
    """Some seconds: when they begin (epoch s), decisions by outcome, latencies and risk.

    `p50` and `p99` are milliseconds, `risk` the mean and `high_risk` the share from 0.6 on; all
    None without decisions.
    """

    begin: int
    outcomes: tuple[int, ...]
    p50: float | None
    p99: float | None
    risk: float | None
    high_risk: float | None

    @property
    def decisions(self) -> int:
        """All of them."""
        return sum(self.outcomes)


class RuleCount(NamedTuple):
    """On how many decisions a rule fired, in a mode."""

    rule: str
    mode: str
    fired: int


class Series:
    """A ring of seconds."""

    def __init__(self) -> None:
        self._second = np.full(SECONDS, -1, np.int64)
        self._outcomes = np.zeros((SECONDS, len(DECISIONS)), np.int64)
        self._latency = np.zeros((SECONDS, _LATENCY_BINS), np.int64)
        self._risk = np.zeros((SECONDS, _RISK_BINS), np.int64)
        self._risk_sum = np.zeros(SECONDS)
        self._rules: list[Counter[tuple[str, str]]] = [Counter() for _ in range(SECONDS)]
        self._latest = -1

    @property
    def latest(self) -> int:
        """The latest second, since 1970, in which something was decided; -1 for none yet."""
        return self._latest

    def add(self, decisions: Sequence[Made]) -> None:
        """Count decisions, in any order; what is older than the ring reaches is left out."""
        if not decisions:
            return
        found = [brief(m.payload) for m in decisions]
        seconds = np.array([m.timestamp // 1000 for m in decisions], np.int64)
        self._latest = max(self._latest, int(seconds.max()))
        kept = seconds > self._latest - SECONDS
        self._turn(np.unique(seconds[kept]))
        slots = (seconds % SECONDS)[kept]
        outcome = np.array([_OUTCOME[b.decision] for b in found], np.int64)[kept]
        risk = np.array([b.risk_score for b in found])[kept]
        np.add.at(self._outcomes, (slots, outcome), 1)
        np.add.at(self._risk, (slots, np.minimum(risk * _RISK_BINS, _RISK_BINS - 1).astype(int)), 1)
        np.add.at(self._risk_sum, slots, risk)
        told = [m.latency_ms for m in decisions]
        known = np.array([ms is not None for ms in told]) & kept
        latency = np.array([-1 if ms is None else ms for ms in told])[known]
        np.add.at(self._latency, ((seconds % SECONDS)[known], _latency_bin(latency)), 1)
        for i in np.flatnonzero(kept).tolist():
            for rule in found[i].rules_fired:
                self._rules[int(seconds[i]) % SECONDS][rule.id, rule.mode] += 1

    def _turn(self, seconds: NDArray[np.int64]) -> None:
        """Empty the slots that these seconds take over from older ones."""
        slots = seconds % SECONDS
        for slot in slots[self._second[slots] != seconds].tolist():
            self._outcomes[slot] = self._latency[slot] = self._risk[slot] = 0
            self._risk_sum[slot] = 0.0
            self._rules[slot] = Counter()
        self._second[slots] = seconds

    def bins(self, end: int, seconds: int, width: int) -> list[Bin]:
        """The `seconds` before `end` (epoch s), in bins of `width`; empty ones included.

        Bins begin at multiples of `width`, so that what is asked for later agrees.
        """
        last = end // width * width
        begins = range(last - seconds // width * width + width, last + width, width)
        return [self._bin(begin, width) for begin in begins]

    def _bin(self, begin: int, width: int) -> Bin:
        slots = self._slots(begin, begin + width)
        outcomes = self._outcomes[slots].sum(axis=0)
        total = int(outcomes.sum())
        latency = self._latency[slots].sum(axis=0)
        risk = self._risk[slots].sum(axis=0)
        high = int(risk[round(0.6 * _RISK_BINS) :].sum())
        return Bin(
            begin,
            tuple(outcomes.tolist()),
            _quantile(latency, 0.5),
            _quantile(latency, 0.99),
            float(self._risk_sum[slots].sum()) / total if total else None,
            high / total if total else None,
        )

    def risks(self, end: int, seconds: int) -> list[int]:
        """Decisions by risk, in as many equal steps from 0 to 1 as the list is long."""
        found: list[int] = self._risk[self._slots(end - seconds, end)].sum(axis=0).tolist()
        return found

    def rules(self, end: int, seconds: int) -> tuple[int, list[RuleCount]]:
        """How many decisions there were, and on how many of them each rule fired."""
        slots = self._slots(end - seconds, end)
        fired: Counter[tuple[str, str]] = Counter()
        for slot in slots.tolist():
            fired.update(self._rules[slot])
        counts = [RuleCount(rule, mode, n) for (rule, mode), n in sorted(fired.items())]
        return int(self._outcomes[slots].sum()), counts

    def _slots(self, begin: int, end: int) -> NDArray[np.int64]:
        return np.flatnonzero((self._second >= begin) & (self._second < end))


def _latency_bin(ms: NDArray[np.int64]) -> NDArray[np.int64]:
    steps = np.log2(np.maximum(ms, 1)) * _BINS_A_DOUBLING
    return np.minimum(steps.astype(np.int64), _LATENCY_BINS - 1)


def _quantile(counts: NDArray[np.int64], q: float) -> float | None:
    """The middle of the bin in which the quantile lies."""
    total = int(counts.sum())
    if not total:
        return None
    k = int(np.searchsorted(np.cumsum(counts), q * total))
    return float(2.0 ** ((k + 0.5) / _BINS_A_DOUBLING))
