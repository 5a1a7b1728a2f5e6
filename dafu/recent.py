"""The transactions that were judged a moment ago, and what other rules would have made of them.

Pure. Each is kept as the rules were given it, with the features of its time, so that a rule that is
thought of now is tried on what really happened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

import numpy as np
from msgspec import Struct

from dafu.rules import RuleSet
from dafu.rules.model import Mode
from dafu.stages.batch import Judged
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage

__all__ = ["RecentlyJudged", "RuleTrial", "Trial"]

MOST: Final = 10_000
"""Transactions that are kept; about 1 KB each."""

SAMPLE: Final = 10
"""Transactions that are named of those on which a rule fires."""

OUTCOMES: Final = ("none", "approve", "review", "block")


class Hit(Struct, frozen=True):
    """A transaction on which a rule fires; `time` is epoch milliseconds."""

    transaction_id: str
    user_id: str
    time: int


class RuleTrial(Struct, frozen=True):
    """What a rule does on the transactions it was tried on; `latest` come first."""

    rule_id: str
    mode: Mode
    fired: int
    latest: list[Hit]


class Trial(Struct, frozen=True):
    """What a rule set does on recent transactions.

    Attributes
    ----------
    version : str
        Of the rule set.
    transactions : int
        How many it was tried on.
    since, until : int or None
        The earliest and latest of their times, in epoch milliseconds; None without any.
    outcomes : dict
        How many would have what outcome by the live rules alone: none, approve, review, block.
    rules : list of RuleTrial
        In the order of the rule set; rules that are off fire on nothing.
    """

    version: str
    transactions: int
    since: int | None
    until: int | None
    outcomes: dict[str, int]
    rules: list[RuleTrial]


class RecentlyJudged:
    """Keeps the latest transactions.

    Parameters
    ----------
    most : int
        Kept of them, give or take a batch.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: deque[Judged] = deque()
        self.size = 0

    def add(self, judged: Judged) -> None:
        """Take in a batch; the oldest go."""
        self._kept.append(judged)
        self.size += len(judged.values)
        while self.size - len(self._kept[0].values) >= self._most:
            self.size -= len(self._kept.popleft().values)

    def trial(self, rules: RuleSet) -> TrialRun:
        """Try a rule set on what is kept now."""
        return TrialRun(rules, tuple(self._kept))


class TrialRun:
    """A trial under way: goes through it batch by batch, so that it can be interrupted."""

    def __init__(self, rules: RuleSet, batches: tuple[Judged, ...]) -> None:
        self._rules = rules
        self._batches = batches
        self._stage = MerchantStage(rules, None, Thresholds(), rings=False)
        self._fired = np.zeros(len(rules.rules), np.int64)
        self._latest: list[list[Hit]] = [[] for _ in rules.rules]
        self._outcomes = np.zeros(len(OUTCOMES), np.int64)
        self._times: list[int] = []
        self._n = 0

    def steps(self) -> Iterator[None]:
        """Do it; the latest batch first."""
        for judged in reversed(self._batches):
            self._take(judged)
            yield

    def _take(self, judged: Judged) -> None:
        texts, evaluation = self._stage.reconsider(judged)
        fired, times = evaluation.fired, judged.header["time"]
        self._n += len(judged.values)
        self._times += [int(times.min()), int(times.max())]
        self._outcomes += np.bincount(evaluation.outcome, minlength=len(OUTCOMES))
        self._fired += np.count_nonzero(fired, axis=1)
        for k in np.flatnonzero(fired.any(axis=1)).tolist():
            wanted = SAMPLE - len(self._latest[k])
            rows = np.flatnonzero(fired[k])[::-1][: max(wanted, 0)]
            if rows.size:
                named = texts.part(rows).strings(["transaction_id", "user_id"])
                self._latest[k] += [
                    Hit(transaction or "", user or "", int(time))
                    for transaction, user, time in zip(*named, times[rows], strict=True)
                ]

    def result(self) -> Trial:
        """What came of the steps so far."""
        tried = [
            RuleTrial(rule.id, rule.mode, int(fired), latest)
            for rule, fired, latest in zip(
                self._rules.rules, self._fired, self._latest, strict=True
            )
        ]
        return Trial(
            version=self._rules.version,
            transactions=self._n,
            since=min(self._times, default=None),
            until=max(self._times, default=None),
            outcomes=dict(zip(OUTCOMES, self._outcomes.tolist(), strict=True)),
            rules=tried,
        )
