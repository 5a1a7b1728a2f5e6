"""Records scored batch by batch with state carried on, as a worker would score them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dafu.features.catalogue import INDEX
from dafu.ingest import to_records
from dafu.models.model import Model
from dafu.models.recurrent import RecurrentModel
from dafu.notebook.encoding import Encoder
from dafu.notebook.errors import NotebookError
from dafu.notebook.prepared import entities_of
from dafu.rules import compile_rules
from dafu.schema import decode_decision
from dafu.stages.batch import MerchantOutput, UserOutput
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.pipeline import Pipeline
from dafu.stages.users import UserStage

F64 = NDArray[np.float64]
Row = dict[str, Any]
Alert = Callable[[float, float], bool]
"""Whether a raw score and a risk make an alert."""

BATCH_ROWS: Final = 1000
"""Records that are decided together; the results do not depend on it."""

DECIDED: Final = "decided"
DUPLICATE: Final = "duplicate"
REJECTED: Final = "rejected"
"""What became of a record; a duplicate repeats an earlier transaction and gets no answer."""


class PaymentStream:
    """Both stages with the model, without rules; state is empty at first.

    Parameters
    ----------
    model
        A model of rows, which decides, or a recurrent one, whose view is the risk.
    thresholds
        Of decisions.
    alert
        What makes an alert.
    """

    def __init__(self, model: Model | RecurrentModel, thresholds: Thresholds, alert: Alert) -> None:
        self._recurrent = isinstance(model, RecurrentModel)
        self._model = model
        self._alert = alert
        rules = compile_rules([], {}, {}, {})
        if isinstance(model, RecurrentModel):
            stages = UserStage(0, model), MerchantStage(rules, None, thresholds)
        else:
            stages = UserStage(0), MerchantStage(rules, model, thresholds)
        self._pipeline = Pipeline(*stages)

    def run(self, batches: Iterable[Any]) -> list[Row]:
        """Score mapped batches; one row for every record, in order."""
        rows: list[Row] = []
        for batch in batches:
            records = to_records(batch)
            names = ("transaction_id", "user_id", "merchant_id")
            ids = list(zip(*(batch.column(n).to_pylist() for n in names), strict=True))
            for start in range(0, len(records), BATCH_ROWS):
                piece = records[start : start + BATCH_ROWS]
                first, second = self._pipeline.run([k for k, _ in piece], [v for _, v in piece])
                rows += self._rows(ids[start : start + len(piece)], first, second)
        return rows

    def _rows(
        self, ids: Sequence[tuple[str, str, str]], first: UserOutput, second: MerchantOutput
    ) -> list[Row]:
        rejected = {r.index: r for r in first.rejected}
        decisions = [decode_decision(payload) for payload in second.decisions.present()]
        raws, risks = self._scores(second.features)
        rows: list[Row] = []
        at = 0
        for k, (transaction, user, merchant) in enumerate(ids):
            row = _row(transaction, user, merchant)
            rows.append(row)
            if k in rejected:
                row["status"] = REJECTED
                row["reasons"] = [f"{rejected[k].reason}: {rejected[k].detail}"]
                continue
            # Decisions are in order, and a user's transaction gets one only once.
            decision = decisions[at] if at < len(decisions) else None
            if decision is None or (decision.transaction_id, decision.user_id) != (
                transaction,
                user,
            ):
                row["status"] = DUPLICATE
                continue
            risk = risks[at] if self._recurrent else decision.risk_score
            row["timestamp"] = decision.timestamp
            row["score"], row["risk_score"] = raws[at], risk
            row["is_alert"] = self._alert(raws[at], risk)
            if not self._recurrent:
                row["decision"], row["risk_level"] = decision.decision, decision.risk_level
                row["reasons"] = [reason.text for reason in decision.reasons]
            at += 1
        return rows

    def _scores(self, features: F64) -> tuple[list[float], list[float]]:
        if isinstance(self._model, RecurrentModel):
            # Stage one has put the model's view among the features.
            risks = features[:, INDEX["sequence_risk"]].tolist()
            return risks, risks
        scores = self._model.score(features, self._model.column_index(INDEX))
        return scores.raw.tolist(), scores.risk.tolist()


class ColumnStream:
    """Rows of a table that is no payments, encoded as in training.

    Parameters
    ----------
    entity
        The column that says whose row it is; needed by a recurrent model only.
    """

    def __init__(
        self, model: Model | RecurrentModel, encoder: Encoder, entity: str | None, alert: Alert
    ) -> None:
        self._model = model
        self._encoder = encoder
        self._columns = model.column_index({n: k for k, n in enumerate(encoder.names)})
        self._entity = entity
        self._alert = alert
        self._names: dict[str, int] = {}
        self._state = np.zeros((0, 0), np.float32)
        self._seen = 0

    def run(self, table: Any) -> list[Row]:
        """Score the rows of an Arrow table, in order."""
        x = self._encoder.encode(table)
        if isinstance(self._model, RecurrentModel):
            raws, risks = self._model.step(x, self._columns, *self._memory(self._model, table))
        else:
            raws, risks, *_ = self._model.score(x, self._columns)
        rows = []
        for raw, risk in zip(raws.tolist(), risks.tolist(), strict=True):
            self._seen += 1
            row = _row(f"row-{self._seen}", None, None)
            row["score"], row["risk_score"] = raw, risk
            row["is_alert"] = self._alert(raw, risk)
            rows.append(row)
        return rows

    def _memory(
        self, model: RecurrentModel, table: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        if self._entity is None or self._entity not in table.column_names:
            raise NotebookError(f"the records lack the column {self._entity} that says whose")
        entity = entities_of(table, self._entity, self._names)
        state = np.zeros((len(self._names), model.state_size), np.float32)
        state[: len(self._state)] = self._state.reshape(-1, model.state_size)
        self._state = state
        return entity, state


def _row(transaction: str, user: str | None, merchant: str | None) -> Row:
    """One answer, with a place for everything that there is to say; the keys are always the same.

    `score` is the model's own, `risk_score` is 0..1, `is_alert` goes by the prediction mode.
    """
    return {
        "transaction_id": transaction,
        "user_id": user,
        "merchant_id": merchant,
        "timestamp": None,
        "status": DECIDED,
        "score": None,
        "risk_score": None,
        "is_alert": False,
        "decision": None,
        "risk_level": None,
        "reasons": [],
    }
