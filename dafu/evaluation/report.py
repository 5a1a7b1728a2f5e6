"""What came out of an evaluation, as files: figures for machines, pictures and a page for people.

A report is a directory with `metrics.json`, `metrics.csv`, PNG figures and `index.html`, which
needs none of the others: its pictures are embedded. Writing figures needs matplotlib, from the
train extra.
"""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from dafu.evaluation.description import DataDescription
from dafu.evaluation.evaluate import Evaluation
from dafu.evaluation.intervals import Interval
from dafu.evaluation.thresholds import Confusion
from dafu.history import FRAUD
from dafu.offline import OutputFileError

F64 = NDArray[np.float64]

SHOWN_FEATURES: Final = 20

_GENUINE_COLOUR: Final = "#0072b2"  # of Okabe and Ito's palette, told apart by the colour-blind
_FRAUD_COLOUR: Final = "#d55e00"
_MAX_POINTS: Final = 2000
_DPI: Final = 110


def write_report(
    directory: Path, evaluation: Evaluation, labels: NDArray[np.int8], scores: F64
) -> list[Path]:
    """Write a report, replacing files of the same names; gives their paths.

    Parameters
    ----------
    directory
        Made if it is not there.
    labels, scores
        Of the evaluated transactions: int8 [n] (1 fraud, 0 genuine), float64 [n].

    Raises
    ------
    OutputFileError
        If a file can not be written.
    """
    pictures = {"panels.png": _panels(evaluation, labels, scores)}
    if evaluation.calibration:
        pictures["calibration.png"] = _calibration(evaluation)
    if shown := _shown(evaluation.importances):
        pictures["importance.png"] = _importance(shown)
    document = msgspec.json.format(msgspec.json.encode(evaluation), indent=2) + b"\n"
    files = {
        "metrics.json": document,
        "metrics.csv": metrics_csv(evaluation).encode(),
        **pictures,
        "index.html": page(evaluation, pictures).encode(),
    }
    paths = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            paths.append(directory / name)
            paths[-1].write_bytes(content)
    except OSError as exc:
        where = exc.filename or directory
        raise OutputFileError(f"{where} can not be written: {exc.strerror or exc}") from exc
    return paths


def metrics_csv(evaluation: Evaluation) -> str:
    """The figures as a table: metric, value, low, high; an empty cell where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("metric", "value", "low", "high"))
    for name, figure in evaluation.metrics.items():
        writer.writerow((name, figure.value, figure.low, figure.high))
    plain: dict[str, Any] = {
        "threshold": evaluation.threshold,
        **evaluation.confusion._asdict(),
        **{f"threshold_{name}": value for name, value in evaluation.at_threshold.items()},
        "calibration_error": evaluation.calibration_error,
        "brier": evaluation.brier,
    }
    for name, value in plain.items():
        if value is not None:
            writer.writerow((name, value, None, None))
    return out.getvalue()


# ---------------------------------------------------------------------------------------------
# The page
# ---------------------------------------------------------------------------------------------

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: 1rem 0; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { border-bottom: 1px solid #ccc; padding: .3rem .8rem; text-align: left; }
td { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; border: 1px solid #ddd; }
figure { margin: 1rem 0; } figcaption { color: #444; }
"""

_TITLES: Final = {
    "auc_roc": "AUC ROC",
    "average_precision": "Average precision",
    "card_precision": "Card precision",
    "alert_precision": "Precision of the daily alerts",
    "alert_recall": "Recall of the daily alerts",
    "value_detected": "Share of the fraud's value detected",
    "cost": "Cost of reviews and missed fraud",
}


def page(evaluation: Evaluation, pictures: Mapping[str, bytes]) -> str:
    """The report as one HTML page, with its pictures (PNG by name) inside."""
    e = evaluation
    c = e.confusion
    rows = [(_TITLES.get(name, name), _number(f.value), _range(f)) for name, f in e.metrics.items()]
    parts = [
        f"<h1>{html.escape(e.title)}</h1>",
        f"<p>{html.escape(_summary(e))}</p>",
        _table(
            "Figures, with 95 % intervals over resampled users", ("", "value", "interval"), rows
        ),
        _table(
            f"Alerts at a threshold of {_number(e.threshold)}",
            ("", "alert", "no alert"),
            [
                ("Fraud", f"{c.true_positives:,}", f"{c.false_negatives:,}"),
                ("Genuine", f"{c.false_positives:,}", f"{c.true_negatives:,}"),
            ],
        ),
        _table(
            "Of these alerts",
            ("", "value"),
            [(k.replace("_", " ").capitalize(), _number(v)) for k, v in e.at_threshold.items()],
        ),
    ]
    for name, (heading, words) in _captions(e).items():
        if name in pictures:
            parts += [f"<h2>{heading}</h2>", _figure(pictures[name], words)]
    if shown := _shown(e.importances):
        parts.append(
            _table("Features", ("", "loss"), [(name, _number(v)) for name, v in shown.items()])
        )
    parts += [
        "<h2>What this was made from</h2>",
        _table("Data", ("", "value"), [(k, str(v)) for k, v in _plain(e.data).items()]),
        _table("Settings", ("", "value"), [(k, str(v)) for k, v in e.config.items()]),
        _table("Versions", ("", "value"), list(e.versions.items())),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(e.title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        "<body>\n<main>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )


def _summary(e: Evaluation) -> str:
    c = e.confusion
    total = sum(c)
    how = {
        "classic": f"the {e.rules.contamination:.3%} with the highest scores",
        "risk": f"all whose risk is at least {e.rules.threshold:g}",
    }[e.rules.detection]
    kind = {
        "supervised": "The model learned from labels, and its risk is read as a probability.",
        "unsupervised": "The model learned without labels, and its risk is a rank.",
    }[e.rules.learning]
    return (
        f"{total:,} transactions, {c.true_positives + c.false_negatives:,} of them fraud, of the "
        f"file {e.data.file}. {kind} Alerts are {how}."
    )


def _captions(e: Evaluation) -> dict[str, tuple[str, str]]:
    """Heading and text alternative of each picture."""
    c = e.confusion
    auc, ap = e.metrics["auc_roc"].value, e.metrics["average_precision"].value
    if e.rules.learning == "supervised":
        curve = "Share of fraud against mean risk, by tenths of the scale of risk"
    else:
        curve = "Share of fraud against mean risk, by tenths of the transactions in order of risk"
    strongest = ", ".join(list(e.importances)[:3])
    return {
        "panels.png": (
            "Scores",
            "Four panels: the distribution of scores of fraud and of genuine transactions; the ROC "
            f"curve, with an area of {_number(auc)} under it; the precision-recall curve, with an "
            f"average precision of {_number(ap)}; and the confusion matrix at the threshold, "
            f"{c.true_positives:,} frauds alerted and {c.false_negatives:,} not, "
            f"{c.false_positives:,} genuine alerted and {c.true_negatives:,} not.",
        ),
        "calibration.png": (
            "Calibration",
            f"{curve}. "
            + "; ".join(f"risk {b.risk:.3f}: fraud {b.fraud:.4f}" for b in e.calibration)
            + ".",
        ),
        "importance.png": (
            "Features",
            "What average precision loses when a feature's values are shuffled. The strongest: "
            f"{strongest}.",
        ),
    }


def _shown(importances: Mapping[str, float]) -> dict[str, float]:
    """The strongest features, without those that change nothing."""
    moved = [(name, value) for name, value in importances.items() if value != 0.0]
    return dict(moved[:SHOWN_FEATURES])


def _figure(picture: bytes, words: str) -> str:
    data = base64.b64encode(picture).decode("ascii")
    text = html.escape(words, quote=True)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{text}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"<table><caption>{html.escape(caption)}</caption>", "<thead><tr>"]
    lines += [f'<th scope="col">{html.escape(name)}</th>' if name else "<td></td>" for name in head]
    lines.append("</tr></thead><tbody>")
    for first, *others in rows:
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>')
    lines.append("</tbody></table>")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _range(figure: Interval) -> str:
    if figure.low is None or figure.high is None:
        return "none"
    return f"{_number(figure.low)} to {_number(figure.high)}"


def _plain(data: DataDescription) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(data)
    return {
        k: f"{v:,}" if isinstance(v, int) else v for k, v in plain.items() if v not in ({}, None)
    }


# ---------------------------------------------------------------------------------------------
# The pictures
# ---------------------------------------------------------------------------------------------


def _panels(e: Evaluation, labels: NDArray[np.int8], scores: F64) -> bytes:
    """Distributions, ROC, precision-recall and confusion matrix."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.5), layout="constrained")
    (distributions, roc), (precision_recall, matrix) = figure.subplots(2, 2)
    _draw_distributions(distributions, e, labels == FRAUD, scores)
    false, true, precision = curves(labels, scores)
    keep = _thinned(len(true))
    roc.plot(false[keep], true[keep], color=_FRAUD_COLOUR)
    roc.plot([0, 1], [0, 1], color="#888", linestyle=":")
    roc.plot(e.confusion.false_positive_rate, e.confusion.recall, "ko", label="threshold")
    roc.set(
        title=f"ROC curve, area {_number(e.metrics['auc_roc'].value)}",
        xlabel="share of the genuine that is alerted",
        ylabel="share of the fraud that is alerted",
    )
    roc.legend()
    precision_recall.step(true[keep], precision[keep], where="pre", color=_FRAUD_COLOUR)
    precision_recall.plot(e.confusion.recall, e.confusion.precision, "ko", label="threshold")
    precision_recall.set(
        title=f"Precision and recall, average {_number(e.metrics['average_precision'].value)}",
        xlabel="recall: share of the fraud that is alerted",
        ylabel="precision: share of the alerts that are fraud",
        ylim=(0, 1.02),
    )
    precision_recall.legend()
    _draw_matrix(matrix, e.confusion)
    return _png(figure)


def curves(labels: NDArray[np.int8], scores: F64) -> tuple[F64, F64, F64]:
    """False positive rate, recall and precision at every threshold, highest first.

    All begin where nothing is alerted, with a precision of 1.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, fraud = scores[order], labels[order] == FRAUD
    ends = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    hits = np.cumsum(fraud)[ends]
    alerts = ends + 1
    recall = hits / max(int(fraud.sum()), 1)
    false = (alerts - hits) / max(int((~fraud).sum()), 1)
    return np.r_[0.0, false], np.r_[0.0, recall], np.r_[1.0, hits / alerts]


def _draw_distributions(axes: Any, e: Evaluation, fraud: NDArray[np.bool_], scores: F64) -> None:
    edges = np.histogram_bin_edges(scores, bins=50)
    for chosen, colour, name in (
        (~fraud, _GENUINE_COLOUR, "genuine"),
        (fraud, _FRAUD_COLOUR, "fraud"),
    ):
        counts, _ = np.histogram(scores[chosen], edges)
        axes.stairs(counts / max(int(chosen.sum()), 1), edges, color=colour, label=name, fill=False)
    axes.axvline(e.threshold, color="black", linestyle="--", label="threshold")
    axes.set(title="Scores", xlabel="score", ylabel="share of the class", yscale="log")
    axes.legend()


def _draw_matrix(axes: Any, c: Confusion) -> None:
    counts = np.array(
        [[c.true_positives, c.false_negatives], [c.false_positives, c.true_negatives]]
    )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = f"{count:,}\n{shares[row, column]:.2%}"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    axes.set_xticks([0, 1], ["alert", "no alert"])
    axes.set_yticks([0, 1], ["fraud", "genuine"])
    axes.set_title("Confusion matrix at the threshold")


def _calibration(e: Evaluation) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 5), layout="constrained")
    axes = figure.subplots()
    risks = [b.risk for b in e.calibration]
    shares = [b.fraud for b in e.calibration]
    axes.plot(risks, shares, "o-", color=_FRAUD_COLOUR, label="observed")
    if e.rules.learning == "supervised":
        axes.plot([0, 1], [0, 1], color="#888", linestyle=":", label="perfectly calibrated")
    axes.set(title="Share of fraud by risk", xlabel="mean risk", ylabel="share of fraud")
    axes.legend()
    return _png(figure)


def _importance(importances: Mapping[str, float]) -> bytes:
    from matplotlib.figure import Figure

    top = list(importances.items())[::-1]
    figure = Figure(figsize=(8, 0.6 + 0.3 * len(top)), layout="constrained")
    axes = figure.subplots()
    axes.barh([name for name, _ in top], [value for _, value in top], color=_GENUINE_COLOUR)
    axes.set(title="Features", xlabel="loss of average precision when shuffled")
    return _png(figure)


def _thinned(n: int) -> NDArray[np.int64]:
    """Positions to draw of a curve of n points, most of them where few alerts are."""
    evenly = np.linspace(0, n - 1, min(n, _MAX_POINTS))
    first = np.geomspace(1, n, min(n, _MAX_POINTS)) - 1
    return np.unique(np.concatenate((evenly, first)).astype(np.int64))


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out, pil_kwargs={"dpi": (_DPI, _DPI)})
    return out.getvalue()
