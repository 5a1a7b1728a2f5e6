"""What every kind of model must do, whoever trained it. A new kind is a line in `zoo.MAKERS`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

from dafu.models.errors import ModelError, ModelPackageError
from dafu.models.kinds import KINDS
from dafu.models.model import Model, Scores
from dafu.models.package import load_model, save_package
from tests.models.zoo import (
    COLUMNS,
    F64,
    FEATURE_GROUPS,
    GROUPS,
    INDEX,
    MAKERS,
    NAMES,
    payments,
    specimen,
)

PROBE = np.vstack([payments(1, 300), payments(7, 300) * 4.0])
every_kind = pytest.mark.parametrize("name", MAKERS)


def parts(scores: Scores) -> dict[str, F64]:
    named = {"raw": scores.raw, "risk": scores.risk, "group_risk": scores.group_risk}
    return named | {f"member {name}": risk for name, risk in scores.members.items()}


def same_bits(a: Scores, b: Scores) -> None:
    ours, theirs = parts(a), parts(b)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert values.tobytes() == theirs[name].tobytes(), name


def test_every_kind_is_tried() -> None:
    assert {specimen(name).model.kind for name in MAKERS} == {
        kind for kind, known in KINDS.items() if hasattr(known, "score")
    }


@every_kind
def test_it_is_a_model(name: str) -> None:
    model = specimen(name).model
    assert isinstance(model, Model)
    assert KINDS[model.kind] is type(model)
    assert (model.feature_names, model.groups) == (NAMES, GROUPS)
    assert (model.catalogue_hash, model.provenance.data) == ("abc", "payments")


@every_kind
def test_raw_scores_are_the_librarys(name: str) -> None:
    made = specimen(name)
    np.testing.assert_allclose(
        made.model.score(PROBE, INDEX).raw, made.library(PROBE), rtol=0, atol=1e-6
    )


@every_kind
def test_scores_are_finite_risks(name: str) -> None:
    model = specimen(name).model
    scores = model.score(PROBE, INDEX)
    assert tuple(scores.members) == model.member_names
    for what, values in parts(scores).items():
        assert values.dtype == np.float64
        assert len(values) == len(PROBE)
        assert np.isfinite(values).all(), what
        if what != "raw":
            assert values.min() >= 0.0, what
            assert values.max() <= 1.0, what
    assert scores.group_risk.shape == (len(PROBE), len(GROUPS))
    assert np.unique(scores.raw).size > 50
    assert (scores.group_risk[:, :3] > 0.0).any(axis=0).all()
    assert (scores.group_risk[:, 3] == 0.0).all(), "its feature is always missing"
    order = np.argsort(scores.raw, kind="stable")
    assert (np.diff(scores.risk[order]) >= 0.0).all(), "risk follows the raw score"


@every_kind
@pytest.mark.parametrize("size", [1, 3, 64, 65])
def test_a_row_scores_the_same_bits_in_any_batch(name: str, size: int) -> None:
    model = specimen(name).model
    rows = PROBE[:130]
    whole = parts(model.score(rows, INDEX))
    cut = [parts(model.score(rows[i : i + size], INDEX)) for i in range(0, len(rows), size)]
    for what, values in whole.items():
        assert np.concatenate([each[what] for each in cut]).tobytes() == values.tobytes(), what


@every_kind
def test_explanations_of_a_row_are_the_same_bits_in_any_batch(name: str) -> None:
    model = specimen(name).model
    whole = model.explain(PROBE[:40], INDEX)
    for i in range(40):
        alone = model.explain(PROBE[i : i + 1], INDEX)
        assert alone.features.tobytes() == whole.features[i].tobytes()
        assert alone.groups.tobytes() == whole.groups[i].tobytes()
        risk = model.explained_risk(alone)
        assert risk.tobytes() == model.explained_risk(whole)[i].tobytes()


@every_kind
def test_extreme_values_are_scored(name: str) -> None:
    model = specimen(name).model
    values = [np.nan, np.inf, -np.inf, 1e300, -1e300, 5e-324, -0.0, 3.4028235e38, 1e-40]
    rng = np.random.default_rng(0)
    rows = rng.choice(values, (400, len(NAMES)))
    for what, found in parts(model.score(rows, INDEX)).items():
        assert np.isfinite(found).all(), what
        assert found.min() >= 0.0, what
        assert found.max() <= 1.0, what
    assert np.isfinite(model.explain(rows, INDEX).features).all()


@every_kind
def test_features_are_found_in_a_wider_matrix(name: str) -> None:
    model = specimen(name).model
    where = {n: 20 - 2 * i for i, n in enumerate(NAMES)}
    index = model.column_index(where)
    wide = np.full((len(PROBE), 22), 1e6)
    wide[:, index] = PROBE
    same_bits(model.score(wide, index), model.score(PROBE, INDEX))
    assert model.column_index(COLUMNS).tolist() == INDEX.tolist()
    with pytest.raises(ModelError, match="not computed: amount"):
        model.column_index({n: i for i, n in enumerate(NAMES[1:])})
    with pytest.raises(ModelError, match="do not fit a matrix of 6 columns"):
        model.score(PROBE[:, :6], INDEX)
    with pytest.raises(ModelError, match="float matrix"):
        model.score(np.zeros((3, 7), dtype=np.int64), INDEX)
    assert len(model.score(PROBE[:0], INDEX).risk) == 0


@every_kind
def test_contributions_add_up_by_group(name: str) -> None:
    model = specimen(name).model
    rows = PROBE[::7]
    found = model.explain(rows, INDEX)
    assert found.features.shape == (len(rows), len(NAMES))
    for g, group in enumerate(GROUPS):
        own = [i for i, each in enumerate(FEATURE_GROUPS) if each == group]
        np.testing.assert_allclose(found.groups[:, g], found.features[:, own].sum(axis=1))
    total = found.expected + found.features.sum(axis=1)
    ranks = np.argsort(np.argsort(total, kind="stable")).astype(float)
    wanted = np.argsort(np.argsort(model.score(rows, INDEX).raw, kind="stable")).astype(float)
    assert np.corrcoef(ranks, wanted)[0, 1] > 0.999, "they add up to the score, on its own scale"
    risk = model.explained_risk(found)
    assert ((risk >= 0.0) & (risk <= 1.0)).all()
    assert (risk[found.groups <= 0.0] == 0.0).all()


@every_kind
def test_a_package_keeps_every_bit(name: str, tmp_path: Path) -> None:
    model = specimen(name).model
    saved = save_package(model, tmp_path / "m")
    loaded = load_model(tmp_path / "m", "abc")
    assert type(loaded) is type(model)
    assert len(loaded.version) == 16
    assert saved.version == loaded.version
    assert loaded.parameters() == model.parameters()
    same_bits(loaded.score(PROBE, INDEX), model.score(PROBE, INDEX))
    ours, theirs = loaded.explain(PROBE[:20], INDEX), model.explain(PROBE[:20], INDEX)
    assert ours.features.tobytes() == theirs.features.tobytes()
    again = save_package(loaded, tmp_path / "again")
    assert again.version == loaded.version
    for file in (tmp_path / "m").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


@every_kind
def test_a_changed_byte_in_any_file_is_refused(name: str, tmp_path: Path) -> None:
    save_package(specimen(name).model, tmp_path / "m")
    for file in sorted((tmp_path / "m").iterdir()):
        whole = file.read_bytes()
        for at in (0, len(whole) // 3, len(whole) // 2, len(whole) - 1):
            damaged = bytearray(whole)
            damaged[at] ^= 1
            file.write_bytes(damaged)
            with pytest.raises(ModelPackageError, match=f"{file.name}: "):
                load_model(tmp_path / "m", "abc")
        file.write_bytes(whole)
        file.rename(tmp_path / "aside")
        with pytest.raises(ModelPackageError, match=f"{file.name}: file not found"):
            load_model(tmp_path / "m", "abc")
        (tmp_path / "aside").rename(file)
    load_model(tmp_path / "m", "abc")


@every_kind
def test_the_same_seed_gives_the_same_model(name: str, tmp_path: Path) -> None:
    first = save_package(specimen(name).model, tmp_path / "a")
    assert save_package(MAKERS[name](1).model, tmp_path / "b").version == first.version
    other = MAKERS[name](2).model
    assert save_package(other, tmp_path / "c").version != first.version
    assert other.score(PROBE, INDEX).raw.tobytes() != first.score(PROBE, INDEX).raw.tobytes()


@every_kind
def test_a_single_row_needs_no_other_code_than_a_batch(name: str) -> None:
    """Kernels are compiled when a worker warms up, not when the first lone row comes."""

    def compiled() -> int:
        modules = [m for n, m in list(sys.modules.items()) if n.startswith("dafu.models")]
        kernels = [k for m in modules for k in vars(m).values() if isinstance(k, Dispatcher)]
        return sum(len(k.signatures) for k in kernels)

    model = specimen(name).model
    model.score(PROBE[:3], INDEX)
    model.explained_risk(model.explain(PROBE[:3], INDEX))
    before = compiled()
    for n in (1, 2, 100):
        model.score(PROBE[:n], INDEX)
        model.explained_risk(model.explain(PROBE[:n], INDEX))
    assert compiled() == before
