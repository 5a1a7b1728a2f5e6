"""Evaluations and their report: both ways to learn, both ways to alert, files and the page."""

from __future__ import annotations

import base64
import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import brier_score_loss, precision_recall_curve, roc_curve

from dafu.evaluation.description import DataDescription
from dafu.evaluation.evaluate import (
    Evaluation,
    Labelled,
    Rules,
    calibration_bins,
    evaluate,
    permutation_importances,
    scores_of,
)
from dafu.evaluation.metrics import METRICS, Budget, EvaluationError, average_precision
from dafu.evaluation.report import curves, metrics_csv, page, write_report
from dafu.offline import OutputFileError

DAY = 86_400_000
DATA = DataDescription("<pay> & more.csv", 4000, 300, 9, None, None, 90, 3910, 0, 0, {})


def labelled(seed: int = 0, n: int = 4000) -> Labelled:
    """Risks that are true probabilities, and raw scores that rank in the same order."""
    rng = np.random.default_rng(seed)
    risk = rng.beta(0.1, 3.0, n)
    labels = (rng.random(n) < risk).astype(np.int8)
    times = np.sort(rng.integers(0, 5 * DAY, n))
    return Labelled(labels, rng.integers(0, 300, n), times, rng.random(n) * 90, 5 + 2 * risk, risk)


def evaluated(rows: Labelled, rules: Rules, **more: Any) -> Evaluation:
    return evaluate(
        "a <model>", rows, rules, budget=Budget(20, 30), replicates=20, seed=1, data=DATA,
        versions={"dafu": "0"}, config={"seed": 1}, **more,
    )  # fmt: skip


@pytest.mark.parametrize("learning", ["supervised", "unsupervised"])
@pytest.mark.parametrize("detection", ["classic", "risk"])
def test_both_ways_to_learn_and_to_alert(learning: Any, detection: Any) -> None:
    rows = labelled()
    result = evaluated(rows, Rules(learning, detection, contamination=0.02, threshold=0.6))
    alerts = result.confusion.true_positives + result.confusion.false_positives
    assert sum(result.confusion) == len(rows.labels)
    if detection == "classic":
        assert alerts == 80
        assert result.threshold == np.sort(rows.raw)[-80]
        assert scores_of(rows, detection) is rows.raw
    else:
        assert result.threshold == 0.6
        assert alerts == (rows.risk >= 0.6).sum()
        assert scores_of(rows, detection) is rows.risk
    assert tuple(result.metrics) == METRICS
    assert result.at_threshold["precision"] == result.confusion.precision
    assert sum(b.rows for b in result.calibration) == len(rows.labels)
    if learning == "supervised":
        assert result.calibration_error is not None
        assert result.calibration_error < 0.02
        assert result.brier == pytest.approx(brier_score_loss(rows.labels, rows.risk))
    else:
        assert result.calibration_error is result.brier is None
        assert [b.rows for b in result.calibration] == [400] * 10


def test_calibration_groups() -> None:
    labels = np.array([0, 1, 1, 0], dtype=np.int8)
    risks = np.array([0.0, 0.099, 1.0, 0.95])
    groups = calibration_bins(labels, risks, "supervised")
    assert [(b.rows, b.fraud) for b in groups] == [(2, 0.5), (2, 0.5)]
    assert [b.risk for b in groups] == pytest.approx([0.0495, 0.975])
    ranks = calibration_bins(labels, risks * 100, "unsupervised")
    assert [(b.rows, b.fraud) for b in ranks] == [(1, 0.0), (1, 1.0), (1, 0.0), (1, 1.0)]


def test_a_supervised_model_gives_probabilities() -> None:
    rows = labelled()
    with pytest.raises(EvaluationError, match=r"which are no probabilities"):
        evaluated(rows._replace(risk=rows.raw), Rules("supervised", "classic"))
    evaluated(rows._replace(risk=rows.raw), Rules("unsupervised", "classic"))


def test_importances_find_what_a_model_looks_at() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3000, 4))
    x[rng.random((3000, 4)) < 0.05] = np.nan
    labels = (np.nan_to_num(2 * x[:, 2] + x[:, 0]) > 4).astype(np.int8)

    def score(rows: np.ndarray) -> np.ndarray:
        return np.asarray(np.nan_to_num(2 * rows[:, 2] + rows[:, 0]))

    before = x.copy()
    seen: list[tuple[int, int]] = []
    columns = {"none": 1, "some": 0, "most": 2}
    found = permutation_importances(score, x, labels, columns, 0, lambda *at: seen.append(at))
    assert list(found) == ["most", "some", "none"]
    assert found["none"] == 0.0
    assert found["most"] > found["some"] > 0.1
    assert found["most"] < average_precision(labels, score(x)) == 1.0
    assert seen == [(1, 3), (2, 3), (3, 3)]
    np.testing.assert_array_equal(x, before)
    assert permutation_importances(score, x, labels, columns, 0) == found


def test_curves_are_those_of_scikit_learn() -> None:
    rows = labelled(n=800)
    scores = np.round(rows.risk, 2)
    false, recall, precision = curves(rows.labels, scores)
    expected = roc_curve(rows.labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(false, expected[0])
    np.testing.assert_allclose(recall, expected[1])
    p, r, _ = precision_recall_curve(rows.labels, scores)
    np.testing.assert_allclose(precision, p[::-1])
    np.testing.assert_allclose(recall, r[::-1])


class Page(HTMLParser):
    """Collects what matters for people who can not see the pictures, and for being complete."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.outside: list[str] = []
        self.language: str | None = None
        self.captions = self.tables = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "img":
            self.images.append(given)
        if tag == "html":
            self.language = given.get("lang")
        if tag == "th":
            assert given.get("scope") in ("row", "col")
        self.outside += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("learning", ["supervised", "unsupervised"])
def test_a_report_is_complete_and_stands_alone(tmp_path: Path, learning: Any) -> None:
    rows = labelled()
    result = evaluated(
        rows,
        Rules(learning, "classic", 0.01),
        importances={f"feature_{k}": 1.0 / (k + 1) for k in range(30)},
    )
    paths = write_report(tmp_path / "r", result, rows.labels, rows.raw)
    assert sorted(p.name for p in paths) == [
        "calibration.png",
        "importance.png",
        "index.html",
        "metrics.csv",
        "metrics.json",
        "panels.png",
    ]
    document = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert document["rules"]["learning"] == learning
    assert document["confusion"] == list(result.confusion)
    assert document["metrics"]["auc_roc"]["value"] == result.metrics["auc_roc"].value
    table = list(csv.DictReader(io.StringIO((tmp_path / "r" / "metrics.csv").read_text())))
    by_name = {row["metric"]: row for row in table}
    assert float(by_name["auc_roc"]["high"]) == result.metrics["auc_roc"].high
    assert int(by_name["true_positives"]["value"]) == result.confusion.true_positives
    assert ("brier" in by_name) == (learning == "supervised")

    text = (tmp_path / "r" / "index.html").read_text()
    parsed = Page(text)
    assert parsed.open == []
    assert parsed.language == "en"
    assert parsed.tags.count("h1") == parsed.tags.count("title") == parsed.tags.count("main") == 1
    assert parsed.tags.count("caption") == parsed.tags.count("table") >= 6
    assert len(parsed.images) == 3
    assert "a &lt;model&gt;" in text
    assert "&lt;pay&gt; &amp; more.csv" in text
    assert parsed.outside
    assert all(link.startswith("data:image/png;base64,") for link in parsed.outside)
    for image, name in zip(
        parsed.images, ("panels.png", "calibration.png", "importance.png"), strict=True
    ):
        assert len(image["alt"] or "") > 60
        data = base64.b64decode((image["src"] or "").partition(",")[2])
        assert data == (tmp_path / "r" / name).read_bytes()
        picture = Image.open(io.BytesIO(data))
        assert picture.width > 400
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_without_features_there_is_no_importance(tmp_path: Path) -> None:
    rows = labelled()
    result = evaluated(rows, Rules("supervised", "risk", threshold=0.5))
    names = {p.name for p in write_report(tmp_path, result, rows.labels, rows.risk)}
    assert "importance.png" not in names
    assert "shuffled" not in page(result, {})
    assert metrics_csv(result).count("\n") > 15


def test_a_place_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    rows = labelled(n=300)
    result = evaluated(rows, Rules("supervised", "risk"))
    with pytest.raises(OutputFileError, match="can not be written"):
        write_report(tmp_path / "taken", result, rows.labels, rows.risk)
