"""Drift statistics: the bins, the limits, and KS beside the exact one."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from dafu.evaluation.drift import (
    SHIFTED,
    STABLE,
    Drift,
    DriftError,
    Reference,
    drift,
    drifts,
    model_drifts,
    psi,
    psi_by_chance,
    reference,
    references,
    verdict,
)
from dafu.models.reference import ModelReference

values = st.lists(
    st.one_of(
        st.just(math.nan), st.sampled_from((0.0, 1.0, 2.0)), st.floats(-1e6, 1e6, allow_nan=False)
    ),
    min_size=1,
    max_size=60,
).map(np.array)


@given(values, st.integers(2, 25))
def test_bins_hold_every_value_once(column: np.ndarray, bins: int) -> None:
    found = reference("x", column, bins)
    present = column[~np.isnan(column)]
    assert len(found.counts) <= max(bins, 1)
    assert found.missing == np.isnan(column).sum()
    bounds = [-math.inf, *found.edges, math.inf]
    expected = [int(((present > a) & (present <= b)).sum()) for a, b in pairwise(bounds)]
    assert list(found.counts) == expected
    assert set(found.edges) <= set(present.tolist())
    if present.size:
        assert min(found.counts) > 0
        commonest = max(int((present == v).sum()) for v in present)
        assert max(found.counts) <= math.ceil(present.size / bins) + commonest


@given(values, values)
def test_ks_is_at_most_the_exact_one_and_near_it(then: np.ndarray, now: np.ndarray) -> None:
    before = reference("x", then)
    found = drift(before, now)
    a, b = then[~np.isnan(then)], now[~np.isnan(now)]
    if not a.size or not b.size:
        assert math.isnan(found.ks)
        return
    exact = ks_2samp(a, b, method="asymp").statistic
    widest = max(before.counts) / sum(before.counts)
    inside = np.histogram(b, [-np.inf, *before.edges, np.inf])[0].max() / b.size
    assert found.ks <= exact + 1e-12
    assert exact - found.ks <= max(widest, inside) + 1e-12
    assert found.missing == pytest.approx(np.isnan(now).mean())
    assert found.missing_before == pytest.approx(np.isnan(then).mean())


@given(values, values)
def test_psi_is_symmetric_and_zero_only_for_equal_shares(a: np.ndarray, b: np.ndarray) -> None:
    before = reference("x", a)
    assert drift(before, a).psi == 0.0
    assert drift(before, b).psi >= 0.0
    counts = np.array([5, 3, 0, 2]), np.array([1, 9, 0, 4])
    assert psi(*counts) == pytest.approx(psi(*counts[::-1]))


def test_psi_by_hand() -> None:
    p, q = (30.5 / 101, 70.5 / 101), (60.5 / 101, 40.5 / 101)
    by_hand = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert psi(np.array([30, 70]), np.array([60, 40])) == pytest.approx(by_hand)


def test_what_is_the_same_is_stable_and_what_moved_is_not() -> None:
    rng = np.random.default_rng(4)
    then = rng.lognormal(3, 1, 20_000)
    before = reference("amount", then)
    same = drift(before, rng.lognormal(3, 1, 5000))
    assert same.psi < STABLE / 5
    assert same.ks < 0.03
    moved = drift(before, rng.lognormal(3.7, 1, 5000))
    assert moved.psi > SHIFTED
    assert moved.ks > 0.2
    gone = np.where(rng.random(5000) < 0.4, np.nan, rng.lognormal(3, 1, 5000))
    assert drift(before, gone).psi > SHIFTED
    assert drift(before, gone).ks < 0.05


def test_a_table_and_its_references_travel_as_json() -> None:
    rng = np.random.default_rng(5)
    table = np.column_stack([rng.random(500), rng.integers(0, 3, 500), np.full(500, np.nan)])
    before = references(["a", "b", "c"], table)
    assert [r.name for r in before] == ["a", "b", "c"]
    assert before[1].edges == (0.0, 1.0)
    text = msgspec.json.encode(before)
    assert len(text) < 1000
    assert msgspec.json.decode(text, type=list[Reference]) == before
    found = drifts(before, table)
    assert [d.psi for d in found] == [0.0, 0.0, 0.0]
    assert math.isnan(found[2].ks)
    with pytest.raises(DriftError, match="3 references"):
        drifts(before, table[:, :2])


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ({"edges": [1.0], "counts": [1]}, "1 counts for 1 edges"),
        ({"edges": [1.0, 1.0], "counts": [1, 1, 1]}, "ascend"),
        ({"edges": [1.0], "counts": [-1, 3]}, "counts"),
        ({"edges": [], "counts": [0]}, "some values"),
    ],
)
def test_a_damaged_reference_is_refused(broken: dict[str, Any], why: str) -> None:
    with pytest.raises((DriftError, ValueError), match=why):
        msgspec.convert({"name": "x", **broken}, Reference)


def test_nothing_to_summarise_or_compare() -> None:
    with pytest.raises(DriftError, match="no values"):
        reference("x", np.empty(0))
    with pytest.raises(DriftError, match="infinite"):
        reference("x", np.array([np.inf]))
    with pytest.raises(DriftError, match="no values to compare"):
        drift(reference("x", np.ones(3)), np.empty(0))


@pytest.mark.parametrize(
    ("found", "word"),
    [(0.0, "stable"), (0.0999, "stable"), (0.1, "watch"), (0.2499, "watch"), (0.25, "shifted")],
)
def test_verdicts(found: float, word: str) -> None:
    assert verdict(Drift("x", found, 0.0, 0.0, 0.0)) == word


def test_a_model_is_compared_feature_by_feature_and_by_its_score() -> None:
    table = np.random.default_rng(3).normal(size=(400, 3))
    before = ModelReference(
        tuple(references(("a", "b"), table[:200, :2])), reference("raw_score", table[:200, 2])
    )
    found = model_drifts(before, table[200:, :2], table[200:, 2])
    assert [d.name for d in found] == ["a", "b", "raw_score"]
    assert found[1] == drift(before.features[1], table[200:, 1])
    assert found[2] == drift(before.score, table[200:, 2])
    with pytest.raises(DriftError, match="for 2 references"):
        model_drifts(before, table[200:], table[200:, 2])


@pytest.mark.parametrize("n", [200, 2000])
def test_what_chance_alone_makes_of_the_psi(n: int) -> None:
    rng = np.random.default_rng(8)
    before = reference("x", rng.normal(size=20_000))
    found = [drift(before, rng.normal(size=n)).psi for _ in range(200)]
    # The mean of 200 draws of chi-square with 19 degrees of freedom is within 7 % of its own.
    assert np.mean(found) == pytest.approx(psi_by_chance(before, n), rel=0.15)
