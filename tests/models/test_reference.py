"""References of features and scores: what they hold, in packages and on the way there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from dafu.models import package
from dafu.models.ensemble import EnsembleModel
from dafu.models.errors import ModelError, ModelPackageError
from dafu.models.model import Manifest
from dafu.models.package import load_model, save_package
from dafu.models.reference import SCORE, DriftError, ModelReference, Reference, reference
from dafu.models.trainers import reference as trained
from dafu.models.trainers import with_reference
from tests.models.zoo import COLUMNS, INDEX, MAKERS, NAMES, payments, specimen

every_kind = pytest.mark.parametrize("name", MAKERS)


@every_kind
def test_a_model_of_any_kind_takes_a_reference_along(name: str, tmp_path: Path) -> None:
    bare = replace(specimen(name).model, reference=None)  # type: ignore[type-var]
    x = payments(4, 500)
    model = with_reference(bare, x, COLUMNS)
    assert model.reference is not None
    assert tuple(r.name for r in model.reference.features) == NAMES
    for k, found in enumerate(model.reference.features):
        assert found == reference(NAMES[k], x[:, INDEX[k]])
    assert model.reference.score == reference(SCORE, bare.score(x, INDEX).raw)
    saved = save_package(model, tmp_path / "with")
    loaded = load_model(tmp_path / "with", "abc")
    assert loaded.reference == model.reference
    assert loaded.score(x, INDEX).raw.tobytes() == bare.score(x, INDEX).raw.tobytes()
    without = save_package(bare, tmp_path / "without")
    assert without.reference is None
    assert without.version != saved.version
    other = replace(model, reference=with_reference(bare, x[:400], COLUMNS).reference)  # type: ignore[type-var]
    assert save_package(other, tmp_path / "other").version != saved.version


@every_kind
def test_a_package_without_one_says_nothing_of_it(name: str, tmp_path: Path) -> None:
    bare = _bare(specimen(name).model)
    save_package(bare, tmp_path / "m")
    assert '"reference"' not in (tmp_path / "m" / "manifest.json").read_text()


def test_members_keep_theirs(tmp_path: Path) -> None:
    model: Any = specimen("weighted ensemble").model
    members = tuple(with_reference(m, payments(5, 100), COLUMNS) for m in model.members)
    save_package(replace(model, members=members), tmp_path / "m")
    loaded = load_model(tmp_path / "m", "abc")
    assert isinstance(loaded, EnsembleModel)
    assert [m.reference for m in loaded.members] == [m.reference for m in members]


def _bare(model: Any) -> Any:
    if isinstance(model, EnsembleModel):
        model = replace(model, members=tuple(_bare(m) for m in model.members))
    return replace(model, reference=None)


def test_of_many_rows_evenly_spaced_ones_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "MAX_ROWS", 100)
    model = specimen("random forest").model
    x = payments(6, 250)
    found, expected = (with_reference(model, rows, COLUMNS) for rows in (x, x[::3]))
    assert found.reference == expected.reference
    assert found.reference is not None
    assert sum(found.reference.score.counts) == 84


def test_a_reference_of_other_features_is_refused() -> None:
    model: Any = with_reference(specimen("random forest").model, payments(1, 50), COLUMNS)
    known = model.reference
    for features in (known.features[:-1], known.features[::-1], ()):
        with pytest.raises(ModelError, match="its reference is of other features"):
            replace(model, reference=ModelReference(features, known.score))


def test_rows_that_give_none() -> None:
    model = specimen("random forest").model
    with pytest.raises(DriftError, match="there are no values"):
        with_reference(model, payments(1, 50)[:0], COLUMNS)
    infinite = payments(1, 50)
    infinite[3, INDEX[0]] = np.inf
    with pytest.raises(DriftError, match="a value is infinite"):
        with_reference(model, infinite, COLUMNS)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"counts": [1]}, "1 counts for"),
        ({"edges": [2.0, 1.0], "counts": [1, 1, 1]}, "must be finite and ascend"),
        ({"missing": -1}, "must tell of some values"),
        ({"edges": "many"}, "Expected `array`"),
        ({"mode": 1}, "unknown field `mode`"),
        ({"name": "nonsense"}, "its reference is of other features"),
    ],
)
def test_a_damaged_reference_is_refused(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    model = with_reference(specimen("random forest").model, payments(1, 50), COLUMNS)
    save_package(model, tmp_path / "m")
    where = tmp_path / "m" / "manifest.json"
    document = json.loads(where.read_text())
    document["reference"]["features"][0].update(change)
    raw = json.dumps(document).encode()
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
        signed = msgspec.structs.replace(manifest, version=package._version(manifest))
        raw = msgspec.json.encode(signed)
    except (msgspec.ValidationError, ModelError):
        pass  # refused before anybody asks for the version
    where.write_bytes(raw)
    with pytest.raises(ModelPackageError, match=why):
        load_model(tmp_path / "m", "abc")


def test_bins() -> None:
    assert reference("x", np.array([1.0, 1.0, 2.0, 3.0, np.nan]), 4) == Reference(
        "x", (1.0, 2.0), (2, 1, 1), 1
    )
