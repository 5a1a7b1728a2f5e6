"""How risky a merchant looks by its transactions: bursts as the stream finds them, and labels.

The transactions pass through both kernels of the stream, from empty state and in order of time, so
that an episode found here is one that workers would have told of (`dafu.features.bursts`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
from msgspec import Struct

from dafu.features.bursts import CLOSED, HOLD
from dafu.history import FRAUD, GENUINE, Inputs, Step, read_inputs, replay
from dafu.notebook.columns import find_columns
from dafu.notebook.errors import NotebookError
from dafu.notebook.prepared import PaymentReader, mapped
from dafu.notebook.tables import Named, TableLike, read_table
from dafu.rings.bursts import burst_parts, burst_reasons

FRAUD_CEILING: Final = 0.05
"""Share of fraud that makes a part of 1. Card schemes act at shares around 0.01."""
_Z: Final = 1.96
_NAMED: Final = 5


class BurstEpisode(Struct, frozen=True, kw_only=True):
    """Many users who paid alike at the merchant within minutes or hours.

    Times are ISO 8601 in UTC: of the transaction with which it was found, and of its first and last
    one. `score` is the highest of its transactions, which `parts` and `reasons` explain. `over`
    says whether the merchant has had six hours without since.
    """

    opened: str
    first: str
    last: str
    users: int
    transactions: int
    amount: float
    score: float
    parts: dict[str, float]
    reasons: list[str]
    over: bool


class MerchantRisk(Struct, frozen=True, kw_only=True):
    """What is to be thought of a merchant.

    Attributes
    ----------
    risk : float
        0..1: that at least one of the parts holds, if each were a probability of its own.
    parts : dict of float
        0..1 each: `bursts` (the highest score of a transaction), `fraud` (the share of fraud that
        labels prove, to `FRAUD_CEILING`; only with labels), and the risk factors given.
    reasons : list of str
        In words, the largest part first; parts of 0 have none.
    bursts : list of BurstEpisode
        In order of time.
    transactions, users : int
    amount : float
    first, last : str
    in_bursts : int
        Transactions that show the pattern of a burst.
    labelled, frauds : int
    fraud_share : float or None
        None without labels.
    """

    merchant_id: str
    risk: float
    parts: dict[str, float]
    reasons: list[str]
    bursts: list[BurstEpisode]
    transactions: int
    users: int
    amount: float
    first: str
    last: str
    in_bursts: int
    labelled: int
    frauds: int
    fraud_share: float | None


class MerchantRiskProcessor(PaymentReader):
    """Looks at one merchant's transactions.

    Parameters
    ----------
    columns, time_format
        Which column is what; see `FraudDetector.load_and_analyze_data`.

    Examples
    --------
    See docs/notebooks.md.
    """

    def assess_merchant_risk(
        self,
        merchant_id: str,
        transaction_history: TableLike,
        risk_factors: Mapping[str, float] | None = None,
    ) -> MerchantRisk:
        """Assess a merchant by past transactions.

        Parameters
        ----------
        merchant_id
            Whose; other merchants' transactions do not count.
        transaction_history
            A path, a data frame, an Arrow table, or records, of payments; sorted by time if they
            are not. Rows that are no valid transactions are left out. Without a column of merchants
            all are this one's.
        risk_factors
            What else is known, 0..1 by name, such as ``{"high_risk_category": 0.3}``.

        Raises
        ------
        NotebookError
            If columns are not found, the merchant has no transactions, or a factor is out of range.
        """
        factors = _checked(risk_factors or {})
        loaded = self._load(self._with_merchant(merchant_id, transaction_history))
        inputs = read_inputs(mapped(loaded, skip_bad=True).batches, skip_bad=True)
        number = _number(inputs, merchant_id)
        rows, bursts = _of_merchant(inputs, number, replay(inputs, skip_bad=True))
        labels = inputs.labels[rows]
        frauds = int((labels == FRAUD).sum())
        labelled = frauds + int((labels == GENUINE).sum())
        parts = {"bursts": float(bursts["score"].max())}
        if labelled:
            parts["fraud"] = min(_at_least(frauds, labelled) / FRAUD_CEILING, 1.0)
        parts |= factors
        episodes = _episodes(bursts)
        times = inputs.merchants["time"][rows]
        return MerchantRisk(
            merchant_id=merchant_id,
            risk=1.0 - math.prod(1.0 - part for part in parts.values()),
            parts=parts,
            reasons=_reasons(parts, episodes, bursts, frauds, labelled),
            bursts=episodes,
            transactions=len(rows),
            users=len(np.unique(inputs.merchants["user"][rows])),
            amount=math.fsum(inputs.merchants["amount"][rows].tolist()),
            first=_iso(times.min()),
            last=_iso(times.max()),
            in_bursts=int((bursts["score"] >= HOLD).sum()),
            labelled=labelled,
            frauds=frauds,
            fraud_share=frauds / labelled if labelled else None,
        )

    def _with_merchant(self, merchant_id: str, data: TableLike) -> Any:
        """The table, with a column of the merchant where it has none."""
        named = read_table(data)
        found = find_columns(Named(named.name, named.table), self._columns)
        given = "merchant_id" in (self._columns or {}) or "merchant_id" in found.doubts
        if "merchant_id" in found.columns or given:
            return named.table
        whose = pa.array([merchant_id] * named.table.num_rows)
        return named.table.append_column("merchant_id", whose)


def _checked(factors: Mapping[str, float]) -> dict[str, float]:
    for name, value in factors.items():
        if not 0.0 <= value <= 1.0:
            raise NotebookError(f"risk factor {name} is {value}; it must be within 0..1")
        if name in ("bursts", "fraud"):
            raise NotebookError(f"risk factor {name}: that is the name of a part; choose another")
    return {name: float(value) for name, value in factors.items()}


def _number(inputs: Inputs, merchant_id: str) -> int:
    names = inputs.merchant_ids.to_pylist()
    if merchant_id not in names:
        others = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
        raise NotebookError(
            f"there are no valid transactions of merchant {merchant_id!r}; there are of: {others}"
        )
    return int(names.index(merchant_id))


def _of_merchant(inputs: Inputs, number: int, steps: Any) -> tuple[np.ndarray, np.ndarray]:
    """The merchant's rows that count, and what the kernel said of them."""
    rows, bursts = [], []
    step: Step
    for step in steps:
        own = inputs.merchants["merchant"][step.rows] == number
        rows.append(step.rows[own])
        bursts.append(step.bursts[own])
    return np.concatenate(rows), np.concatenate(bursts)


def _at_least(frauds: int, labelled: int) -> float:
    """Lower end of Wilson's 95 % interval of a share: few labels prove little.

    >>> round(_at_least(1, 2), 3), round(_at_least(50, 100), 3), _at_least(0, 9)
    (0.095, 0.404, 0.0)
    """
    share, z = frauds / labelled, _Z * _Z / labelled
    spread = _Z * math.sqrt((share * (1.0 - share) + z / 4.0) / labelled)
    return max((share + z / 2.0 - spread) / (1.0 + z), 0.0) if frauds else 0.0


def _strongest(bursts: np.ndarray) -> Any:
    """What was said of the transaction with the highest score, of several that with most users."""
    return bursts[np.lexsort((bursts["users"], bursts["score"]))[-1]]


def _episodes(bursts: np.ndarray) -> list[BurstEpisode]:
    found = []
    for since in dict.fromkeys(bursts["since"][bursts["since"] > 0].tolist()):
        own = bursts[bursts["since"] == since]
        last, top = own[-1], _strongest(own)
        found.append(
            BurstEpisode(
                opened=_iso(since),
                first=_iso(last["episode_first"]),
                last=_iso(last["episode_last"]),
                users=int(last["episode_users"]),
                transactions=int(last["episode_count"]),
                amount=float(last["episode_amount"]),
                score=float(last["episode_score"]),
                parts=burst_parts(top),
                reasons=burst_reasons(top),
                over=bool(last["event"] == CLOSED),
            )
        )
    return found


def _reasons(
    parts: Mapping[str, float],
    episodes: list[BurstEpisode],
    bursts: np.ndarray,
    frauds: int,
    labelled: int,
) -> list[str]:
    words = {
        "bursts": "; ".join(burst_reasons(_strongest(bursts))) if parts["bursts"] > 0.0 else "",
        "fraud": f"{frauds} of {labelled} transactions with a label are fraud",
    }
    if len(episodes) > 1:
        words["bursts"] += f" (the strongest of {len(episodes)} bursts)"
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return [words.get(name, f"{name}: {value:g}") for name, value in ordered if value > 0.0]


def _iso(ms: Any) -> str:
    return str(np.datetime_as_string(np.datetime64(int(ms), "ms"), timezone="UTC"))
