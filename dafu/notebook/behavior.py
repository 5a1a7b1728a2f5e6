"""Who departs from their own habits, and how: the stream's features against plain limits.

No model and no training. A figure of a transaction is compared with what the same user did before;
reaching its limit makes a strength of 1, going beyond makes more, up to 3. Something new (a device,
a country, an address) counts 0.4: one or two are common, all three at once are not. A transaction
stands out if its strengths add up to 1. The sensitivity scales all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.features.catalogue import INDEX
from dafu.history import History, read_history
from dafu.notebook.errors import NotebookError
from dafu.notebook.prepared import PaymentReader, mapped
from dafu.notebook.tables import TableLike

F64 = NDArray[np.float64]

LARGEST: Final = 3.0
"""Most that one figure counts."""

NEW: Final = 0.4


class Signal(NamedTuple):
    """A figure, the limit from which it stands out, and words for it.

    A limit of 0 is for figures that are 1 if something is new.
    """

    name: str
    limit: float
    text: str


SIGNALS: Final = (
    Signal("amount_zscore_30d", 6.0, "amount {:,.1f} standard deviations above the user's mean"),
    Signal("amount_to_user_median_30d", 12.0, "amount {:,.1f} times the user's median"),
    Signal("daily_rate", 6.0, "{:,.1f} times the user's usual number of transactions a day"),
    Signal("user_count_5m", 5.0, "{:.0f} transactions in five minutes"),
    Signal("user_merchants_1h", 5.0, "{:.0f} merchants in an hour"),
    Signal("speed_kmh", 900.0, "{:,.0f} km/h since the last transaction"),
    Signal("km_from_home", 1500.0, "{:,.0f} km from home"),
    Signal("new_device", 0.0, "a new device"),
    Signal("new_country", 0.0, "a new country"),
    Signal("new_ip", 0.0, "a new address"),
)
"""In the order in which they are told. `daily_rate` is computed here, the others are features."""


class UnusualTransaction(Struct, frozen=True):
    """A transaction that stands out; `timestamp` is ISO 8601 in UTC, the strength 1 or more."""

    transaction_id: str
    user_id: str
    merchant_id: str
    timestamp: str
    amount: float
    strength: float
    reasons: list[str]


class UnusualUser(Struct, frozen=True):
    """A user with transactions that stand out: how many, of how many, the strongest, and why.

    `reasons` are those of the strongest one.
    """

    user_id: str
    unusual: int
    transactions: int
    strength: float
    reasons: list[str]


class BehaviorReport(Struct, frozen=True):
    """What stands out, strongest first.

    Attributes
    ----------
    transactions : list of UnusualTransaction
    users : list of UnusualUser
    judged : int
        Transactions of users with enough history to be judged.
    seen : int
        All transactions.
    """

    transactions: list[UnusualTransaction]
    users: list[UnusualUser]
    judged: int
    seen: int


class UserBehaviorAnalyzer(PaymentReader):
    """Compares each transaction with its user's earlier ones.

    Parameters
    ----------
    min_history
        Transactions that a user must have had before one is judged.
    columns, time_format
        Which column is what; see `FraudDetector.load_and_analyze_data`.

    Examples
    --------
    See docs/notebooks.md.
    """

    def __init__(
        self,
        *,
        min_history: int = 5,
        columns: Mapping[str, str | None] | None = None,
        time_format: str | None = None,
    ) -> None:
        if min_history < 1:
            raise NotebookError(f"min_history is {min_history}; it must be at least 1")
        super().__init__(columns=columns, time_format=time_format)
        self.min_history = min_history

    def detect_behavioral_anomalies(
        self, transactions: TableLike, *, sensitivity: float = 0.5
    ) -> BehaviorReport:
        """Find transactions and users that stand out from their own history.

        Parameters
        ----------
        transactions
            A path, a data frame, an Arrow table, or records, of payments; sorted by time if they
            are not. Rows that are no valid transactions are left out.
        sensitivity
            0..1. At 0 strengths are half of what they are at 0.5, at 1 twice as much: more
            sensitivity finds all that less finds, and more.

        Raises
        ------
        NotebookError
            If columns are not found, or the sensitivity is out of its range.
        """
        if not 0.0 <= sensitivity <= 1.0:
            raise NotebookError(f"sensitivity is {sensitivity}; it must be within 0..1")
        loaded = self._load(transactions)
        history = read_history(mapped(loaded, skip_bad=True).batches, skip_bad=True)
        figures = behavior_figures(history.features)
        each = strengths(figures, 2.0 ** (2.0 * sensitivity - 1.0))
        judged = history.features[:, INDEX["user_total_count"]] > self.min_history
        total = np.where(judged, each.sum(axis=1), 0.0)
        at = np.flatnonzero(total >= 1.0)
        order = at[np.argsort(-total[at], kind="stable")]
        ids = history.transaction_ids.to_pylist() if len(at) else []
        found = [_unusual(history, ids, i, total, each, figures) for i in order.tolist()]
        return BehaviorReport(found, _users(found, history), int(judged.sum()), len(history))


def behavior_figures(features: F64) -> F64:
    """The figures of `SIGNALS`, float64 [n, S], of features [n, F] in catalogue order."""
    figures = np.full((len(features), len(SIGNALS)), np.nan)
    for k, signal in enumerate(SIGNALS):
        if signal.name in INDEX:
            figures[:, k] = features[:, INDEX[signal.name]]
        else:
            figures[:, k] = _daily_rate(features)
    return figures


def _daily_rate(features: F64) -> F64:
    """Transactions of the last day by those of an earlier day, of the last 30 that there are.

    At least one a day is taken for usual, so that a quiet user's second one is no burst; missing
    before the second day.
    """
    day, month, age = (
        features[:, INDEX[name]] for name in ("user_count_1d", "user_count_30d", "account_age_days")
    )
    days = np.minimum(age, 30.0) - 1.0
    usual = np.full(len(features), np.nan)
    np.divide(month - day, days, out=usual, where=days >= 1.0)
    return np.asarray(day / np.maximum(usual, 1.0), dtype=np.float64)


def strengths(figures: F64, scale: float) -> F64:
    """How much each figure [n, S] stands out, 0 where it does not.

    >>> figures = np.full((1, len(SIGNALS)), np.nan)
    >>> figures[0, [0, 7]] = 12.0, 1.0
    >>> strengths(figures, 1.0)[0, [0, 7]].tolist()
    [2.0, 0.4]
    """
    limits = np.array([signal.limit for signal in SIGNALS])
    graded = limits > 0.0
    each = np.zeros_like(figures)
    each[:, graded] = np.minimum(scale * figures[:, graded] / limits[graded], LARGEST)
    each[:, graded] = np.where(each[:, graded] >= 1.0, each[:, graded], 0.0)
    each[:, ~graded] = np.where(figures[:, ~graded] > 0.0, scale * NEW, 0.0)
    return each


def _unusual(
    history: History, ids: list[str], i: int, total: F64, each: F64, figures: F64
) -> UnusualTransaction:
    strongest = np.argsort(-each[i], kind="stable")
    reasons = [
        SIGNALS[k].text.format(figures[i, k]) for k in strongest.tolist() if each[i, k] > 0.0
    ]
    return UnusualTransaction(
        ids[i],
        history.user_ids[int(history.users[i])].as_py(),
        history.merchant_ids[int(history.merchants[i])].as_py(),
        str(np.datetime_as_string(np.datetime64(int(history.times[i]), "ms"), timezone="UTC")),
        float(history.amounts[i]),
        float(total[i]),
        reasons,
    )


def _users(found: list[UnusualTransaction], history: History) -> list[UnusualUser]:
    counts = np.bincount(history.users, minlength=len(history.user_ids))
    numbers: dict[Any, int] = {name: k for k, name in enumerate(history.user_ids.to_pylist())}
    by_user: dict[str, list[UnusualTransaction]] = {}
    for each in found:  # strongest first
        by_user.setdefault(each.user_id, []).append(each)
    return [
        UnusualUser(user, len(own), int(counts[numbers[user]]), own[0].strength, own[0].reasons)
        for user, own in by_user.items()
    ]
