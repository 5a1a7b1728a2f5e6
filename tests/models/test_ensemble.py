"""Ensembles: their members' risks, the blame of the groups, stacking, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from dafu.models.ensemble import EnsembleModel, Part
from dafu.models.errors import ModelError, ModelPackageError, TrainingError
from dafu.models.model import Model
from dafu.models.package import load_package, save_package
from dafu.models.trainers.ensemble import stacked_ensemble, weighted_ensemble
from tests.models.test_package import manifest_edit
from tests.models.zoo import COLUMNS, DESCRIPTION, GROUPS, INDEX, fraud, payments, specimen

PROBE = payments(9, 400)


def ensemble(name: str) -> EnsembleModel:
    model = specimen(name).model
    assert isinstance(model, EnsembleModel)
    return model


@pytest.mark.parametrize("name", ["weighted ensemble", "stacked ensemble"])
def test_every_member_says_its_own_risk(name: str) -> None:
    model = ensemble(name)
    scores = model.score(PROBE, INDEX)
    assert list(scores.members) == ["m0", "m1", "m2"]
    for member in model.members:
        assert scores.members[member.name].tobytes() == member.score(PROBE, INDEX).risk.tobytes()


def test_group_risk_is_the_members_lift_shared_by_their_group_risks() -> None:
    model = ensemble("stacked ensemble")
    found = model.score(PROBE, INDEX).group_risk
    expected = model.intercept + sum(p.weight * p.average for p in model.parts)
    for i in range(0, 400, 9):
        row = PROBE[i : i + 1]
        lift = dict.fromkeys(GROUPS, 0.0)
        for part, member in zip(model.parts, model.members, strict=True):
            scores = member.score(row, INDEX)
            p = float(scores.raw[0])
            value = np.log(p / (1 - p)) if part.input == "log_odds" else p
            own = part.weight * (value - part.average)
            if own > 0 and scores.group_risk.sum() > 0:
                for group, risk in zip(member.groups, scores.group_risk[0], strict=True):
                    lift[group] += own * risk / scores.group_risk.sum()
        for g, group in enumerate(GROUPS):
            alone = 1 / (1 + np.exp(-(expected + lift[group])))
            wanted = model.calibration.risk(np.array([alone]))[0] if lift[group] > 0 else 0.0
            assert found[i, g] == pytest.approx(wanted, abs=1e-9)
    assert (found > 0.3).any()


@pytest.mark.parametrize("name", ["weighted ensemble", "stacked ensemble"])
def test_contributions_add_up_to_the_score(name: str) -> None:
    model = ensemble(name)
    found = model.explain(PROBE, INDEX)
    total = found.expected + found.features.sum(axis=1)
    raw = model.score(PROBE, INDEX).raw
    wanted = np.log(raw / (1 - raw)) if model.link == "logistic" else raw
    np.testing.assert_allclose(total, wanted, atol=1e-8)


def test_stacking_finds_the_weights_of_a_logistic_regression() -> None:
    """Where no weight wants to be negative, the bounds change nothing."""
    members = [m for m in ensemble("stacked ensemble").members if m.kind != "isolation_forest"]
    x = payments(3)
    model = stacked_ensemble(members, x, fraud(x, 4), COLUMNS, DESCRIPTION)
    values = model.inputs([m.score(x, INDEX) for m in members]).T
    scale = values.std(axis=0)
    # Our penalty counts per row, scikit-learn's once.
    reference = LogisticRegression(C=1.0 / (2e-3 * len(x)), tol=1e-10, max_iter=10_000)
    reference.fit(values / scale, fraud(x, 4))
    found = [part.weight for part in model.parts]
    assert min(found) > 0
    assert found == pytest.approx((reference.coef_[0] / scale).tolist(), rel=1e-3)
    assert model.intercept == pytest.approx(float(reference.intercept_[0]), rel=1e-3, abs=1e-3)


def test_a_harmful_member_gets_no_weight() -> None:
    good, bad = ensemble("stacked ensemble").members[1:]
    x = payments(3)
    y = fraud(x, 4)

    class Contrary:
        """Says the opposite of a member."""

        def __init__(self, of: Any) -> None:
            self._of = of

        def __getattr__(self, name: str) -> Any:
            return getattr(self._of, name)

        def score(self, x: Any, column_index: Any) -> Any:
            scores = self._of.score(x, column_index)
            return scores._replace(raw=1.0 - scores.raw)

    contrary: Any = Contrary(bad)
    model = stacked_ensemble([good, contrary], x, y, COLUMNS, DESCRIPTION)
    assert model.parts[1].weight == 0.0
    assert model.parts[0].weight > 0.5


def test_together_they_are_no_worse_than_the_best_alone() -> None:
    model = ensemble("stacked ensemble")
    x = payments(11, 4000)
    y = fraud(x, 12)
    scores = model.score(x, INDEX)
    best = max(average_precision_score(y, risk) for risk in scores.members.values())
    assert average_precision_score(y, scores.raw) > best - 0.005


CHANGES: dict[str, tuple[Callable[[EnsembleModel], Any], str]] = {
    "no members": (lambda m: {"members": (), "parts": ()}, "0 members"),
    "a part too few": (lambda m: {"parts": m.parts[1:]}, "3 members .*, 2 parts"),
    "one name twice": (lambda m: {"members": (m.members[0],) * 3}, "need names of their own, 'm0'"),
    "a negative weight": (
        lambda m: {"parts": (Part("raw", -0.1, 0.0), *m.parts[1:])},
        r"weight -0\.1 is negative",
    ),
    "an infinite intercept": (lambda m: {"intercept": float("inf")}, "must be finite"),
    "no mean of risks": (lambda m: {"link": "identity"}, "weighted mean of risks"),
    "a feature too few": (
        lambda m: {
            "feature_names": m.feature_names[1:],
            "feature_groups": m.feature_groups[1:],
        },
        r"lacks features or groups of its member 'm0' \(amount\)",
    ),
    "another catalogue": (lambda m: {"catalogue_hash": "def"}, "feature catalogue abc, the"),
    "an unknown group": (
        lambda m: {"feature_groups": ("weather", *m.feature_groups[1:])},
        "'weather' is none of",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_parts_that_do_not_fit_each_other_are_refused(name: str) -> None:
    change, says = CHANGES[name]
    model = ensemble("stacked ensemble")
    with pytest.raises(ModelError, match=says):
        replace(model, **change(model))


def test_what_a_member_requires_the_ensemble_requires() -> None:
    model = ensemble("stacked ensemble")
    first: Any = model.members[0]
    needy = replace(first, requires={"sequence": "1234"})
    with pytest.raises(ModelError, match="'m0' requires sequence 1234, the ensemble does not"):
        replace(model, members=(needy, *model.members[1:]))
    x = payments(3, 200)
    whole = weighted_ensemble([needy, model.members[1]], [1, 1], x, COLUMNS, DESCRIPTION)
    assert whole.requires == {"sequence": "1234"}


def edited(path: Path, change: Callable[[Any], Any]) -> None:
    parameters = json.loads((path / "manifest.json").read_text())["parameters"]
    change(parameters)
    manifest_edit(parameters=parameters)(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p["members"][0].update(kind="ensemble"), "kind 'ensemble', which can not be"),
        (lambda p: p["members"][0].update(kind="oracle"), "kind 'oracle', which can not be"),
        (lambda p: p["members"].pop(), r"the array '2\.\w+' belongs to no member"),
        (lambda p: p["members"][1].update(kind="random_forest"), "parameters of the random_forest"),
        (lambda p: p.update(link="cubic"), "Invalid enum value 'cubic'"),
    ],
)
def test_damaged_packages_are_refused(
    change: Callable[[Any], Any], says: str, tmp_path: Path
) -> None:
    save_package(ensemble("stacked ensemble"), tmp_path / "m")
    edited(tmp_path / "m", change)
    with pytest.raises(ModelPackageError, match=says):
        load_package(tmp_path / "m", None)


def test_ensembles_that_cannot_be_fitted_are_refused() -> None:
    members: list[Model] = list(ensemble("weighted ensemble").members)
    x = payments(3, 200)
    for weights in ([1.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0]):
        with pytest.raises(TrainingError, match="for 3 members; none negative"):
            weighted_ensemble(members, weights, x, COLUMNS, DESCRIPTION)
    same = np.repeat(x[:1], 200, axis=0)
    with pytest.raises(TrainingError, match="gives every row the same score"):
        stacked_ensemble(members, same, np.arange(200) % 2, COLUMNS, DESCRIPTION)
    with pytest.raises(TrainingError, match="inputs for 3 members"):
        stacked_ensemble(members, x, fraud(x, 4), COLUMNS, DESCRIPTION, inputs=["raw"])
