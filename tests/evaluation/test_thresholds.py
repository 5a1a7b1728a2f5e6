"""Thresholds and the counts on both sides, against trying every one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

from dafu.evaluation.metrics import EvaluationError
from dafu.evaluation.thresholds import by_contamination, confusion

scored = st.lists(
    st.tuples(st.sampled_from((0.0, 0.2, 0.5, 0.5, 0.7, 1.0)), st.integers(0, 1)),
    min_size=1,
    max_size=30,
)


def columns(described: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = zip(*described, strict=True)
    return np.array(scores), np.array(labels, dtype=np.int8)


@given(scored, st.sampled_from((0.0, 0.3, 0.5, 1.0, 2.0)))
def test_confusion(described: list[Any], threshold: float) -> None:
    scores, labels = columns(described)
    found = confusion(labels, scores, threshold)
    alert = (scores >= threshold).astype(int)
    ((tn, fp), (fn, tp)) = confusion_matrix(labels, alert, labels=[0, 1])
    assert tuple(found) == (tp, fp, fn, tn)
    assert found.precision == pytest.approx(precision_score(labels, alert, zero_division=0))
    assert found.recall == pytest.approx(recall_score(labels, alert, zero_division=0))
    assert found.f1 == pytest.approx(f1_score(labels, alert, zero_division=0))
    assert found.false_positive_rate == pytest.approx(fp / (fp + tn) if fp + tn else 0.0)


@given(scored, st.floats(0.001, 0.5))
def test_a_contamination_alerts_no_more_than_its_share(
    described: list[Any], contamination: float
) -> None:
    scores, _ = columns(described)
    alerts = int((scores >= by_contamination(scores, contamination)).sum())
    possible = [int((scores >= s).sum()) for s in set(scores.tolist())]
    allowed = math.floor(contamination * len(scores) + 1e-9)
    assert alerts == max([0, *(p for p in possible if p <= allowed)])


def test_a_contamination_of_nothing() -> None:
    with pytest.raises(EvaluationError, match="needs scores"):
        by_contamination(np.empty(0), 0.1)
