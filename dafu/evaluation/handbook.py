"""The Fraud Detection Handbook's fifteen features, from raw columns: the baseline to compare with.

Chapter 3 of the book (Le Borgne, Siblini, Lebichot, Bontempi, 2022), "Baseline feature
transformation". Nothing of dafu's own features goes in, so that a fault there can not hide here.
Windows are (t - w, t] in the order of time, equal times in order of arrival. Risk of a terminal is
the share of fraud in a window that ended a delay ago.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dafu.features.catalogue import DAY, HOUR

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

WINDOW_DAYS: Final = (1, 7, 30)

HANDBOOK_FEATURES: Final = (
    "TX_AMOUNT",
    "TX_DURING_WEEKEND",
    "TX_DURING_NIGHT",
    *(f"CUSTOMER_ID_{what}_{d}DAY_WINDOW" for d in WINDOW_DAYS for what in ("NB_TX", "AVG_AMOUNT")),
    *(f"TERMINAL_ID_{what}_{d}DAY_WINDOW" for d in WINDOW_DAYS for what in ("NB_TX", "RISK")),
)
"""Names as in the book, in the order of the columns."""


def handbook_features(
    times: I64,
    users: I64,
    merchants: I64,
    amounts: F64,
    labels: NDArray[np.int8],
    delay_days: int = 7,
) -> F64:
    """Compute the features of a whole history.

    Parameters
    ----------
    times : int64 [n]
        Epoch milliseconds, in any order.
    users, merchants : int64 [n]
        Numbers of cards and terminals, not negative.
    amounts : float64 [n]
    labels : int8 [n]
        1 is fraud; a transaction's label counts once `delay_days` have passed.

    Returns
    -------
    float64 [n, 15]
        In the order of HANDBOOK_FEATURES.
    """
    hours = times % DAY // HOUR
    columns = [
        amounts,
        ((times // DAY + 3) % 7 >= 5).astype(np.float64),  # 1970-01-01 was a Thursday
        (hours <= 6).astype(np.float64),
    ]
    customers = _Windows(users, times)
    for days in WINDOW_DAYS:
        count = customers.sums(np.ones(len(times)), 0, days * DAY)
        columns += [count, customers.sums(amounts, 0, days * DAY) / count]
    terminals = _Windows(merchants, times)
    delay = delay_days * DAY
    fraud = (labels == 1).astype(np.float64)
    for days in WINDOW_DAYS:
        count = terminals.sums(np.ones(len(times)), delay, days * DAY)
        frauds = terminals.sums(fraud, delay, days * DAY)
        columns += [count, np.divide(frauds, count, out=np.zeros(len(times)), where=count > 0)]
    return np.column_stack(columns)


class _Windows:
    """Sums over windows of each transaction's entity."""

    def __init__(self, entities: I64, times: I64) -> None:
        self._order = np.lexsort((times, entities))
        self._entities = entities[self._order]
        self._times = times[self._order]
        span = int(times.max(initial=0) - times.min(initial=0)) + 1
        # One ascending key for all: an entity's times, far from those of the next one.
        self._stride = 2 * (span + 2 * 366 * DAY)
        self._base = self._entities * self._stride - int(times.min(initial=0))
        self._keys = self._base + self._times

    def sums(self, values: F64, delay: int, length: int) -> F64:
        """Sum of `values` [n] over (t - delay - length, t - delay] of each row's entity."""
        totals = np.concatenate(([0.0], np.cumsum(values[self._order])))
        low = np.searchsorted(self._keys, self._keys - delay - length, side="right")
        if delay:
            high = np.searchsorted(self._keys, self._keys - delay, side="right")
        else:
            high = np.arange(1, len(self._keys) + 1)  # not those that came after at the same time
        out = np.empty(len(values))
        out[self._order] = totals[high] - totals[low]
        return out
