"""Scores cut at a threshold: where to cut, and what is on either side.

A transaction is an alert if its score is at or above the threshold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dafu.evaluation.metrics import EvaluationError

F64 = NDArray[np.float64]


class Confusion(NamedTuple):
    """Counts on both sides of a threshold."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def precision(self) -> float:
        """Share of the alerts that are fraud, 0 without alerts."""
        return self.true_positives / max(self.true_positives + self.false_positives, 1)

    @property
    def recall(self) -> float:
        """Share of the fraud that is alerted, 0 without fraud."""
        return self.true_positives / max(self.true_positives + self.false_negatives, 1)

    @property
    def false_positive_rate(self) -> float:
        """Share of the genuine that is alerted, 0 without any."""
        return self.false_positives / max(self.false_positives + self.true_negatives, 1)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        found = 2 * self.true_positives
        return found / max(found + self.false_positives + self.false_negatives, 1)


def confusion(labels: NDArray[np.int8], scores: F64, threshold: float) -> Confusion:
    """Count labels (1 fraud, 0 genuine) [n] on both sides of a threshold.

    >>> confusion(np.array([1, 0, 1, 0], np.int8), np.array([0.9, 0.8, 0.1, 0.0]), 0.8)
    Confusion(true_positives=1, false_positives=1, false_negatives=1, true_negatives=1)
    """
    alert, fraud = scores >= threshold, labels == 1
    return Confusion(
        int((alert & fraud).sum()),
        int((alert & ~fraud).sum()),
        int((~alert & fraud).sum()),
        int((~alert & ~fraud).sum()),
    )


def by_contamination(scores: F64, contamination: float) -> float:
    """The threshold that alerts this share of the scores [n >= 1], or as many less as ties force.

    The classic way to decide with an unsupervised model: the share that is taken for anomalous is
    given, and the threshold follows from the scores.

    >>> by_contamination(np.array([0.1, 0.2, 0.3, 0.4]), 0.25)
    0.4
    >>> by_contamination(np.array([0.1, 0.4, 0.4, 0.4]), 0.5) > 0.4
    True
    """
    if not len(scores):
        raise EvaluationError("a contamination needs scores to take its share of")
    wanted = int(np.floor(contamination * len(scores) + 1e-9))
    descending = np.sort(scores)[::-1]
    while wanted > 0 and wanted < len(scores) and descending[wanted - 1] == descending[wanted]:
        wanted = int(np.searchsorted(-descending, -descending[wanted - 1], side="left"))
    if wanted == 0:
        return float(np.nextafter(descending[0], np.inf))
    return float(descending[wanted - 1])
