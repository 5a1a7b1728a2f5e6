"""A user's amount against the earlier ones; for the kernel in `dafu.features.users`."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from dafu.features.catalogue import DAY, USER_INDEX
from dafu.features.windows import median
from dafu.kernel import kernel

_MEDIAN: Final = USER_INDEX["user_amount_median_30d"]
_TO_MEAN: Final = USER_INDEX["amount_to_user_mean_30d"]
_TO_MEDIAN: Final = USER_INDEX["amount_to_user_median_30d"]
_ZSCORE: Final = USER_INDEX["amount_zscore_30d"]
_HIGH_AMOUNTS: Final = USER_INDEX["user_high_amounts_14d"]
_FIRST_HIGH: Final = USER_INDEX["days_since_first_high_amount_14d"]
_RATIO_MAX: Final = USER_INDEX["user_amount_ratio_max_7d"]
_HIGH: Final = 3.0


@kernel
def high_amount_features(events: Any, low: int, high: int, time: int, row: np.ndarray) -> None:
    """Compare earlier amounts with their median, of which there is one in `row`."""
    middle = row[_MEDIAN]
    if middle <= 0.0:
        return
    many = 0.0
    largest = 0.0
    oldest = -1
    for i in range(low, high):
        age = time - events[i].time
        if age < 0 or age >= 14 * DAY:
            continue
        if age < 7 * DAY:
            largest = max(largest, events[i].amount)
        if events[i].amount > _HIGH * middle:
            many += 1.0
            oldest = max(oldest, age)
    row[_HIGH_AMOUNTS] = many
    row[_RATIO_MAX] = largest / middle
    if oldest >= 0:
        row[_FIRST_HIGH] = oldest / DAY


@kernel
def earlier_amount_features(earlier: np.ndarray, n: int, amount: float, row: np.ndarray) -> None:
    """Compare the amount with the n >= 1 earlier ones; two passes keep the spread accurate."""
    mean = 0.0
    for i in range(n):
        mean += earlier[i]
    mean /= n
    spread = 0.0
    for i in range(n):
        spread += (earlier[i] - mean) ** 2
    spread = math.sqrt(spread / n)
    middle = median(earlier, n)
    row[_MEDIAN] = middle
    if mean > 0.0:
        row[_TO_MEAN] = amount / mean
    if middle > 0.0:
        row[_TO_MEDIAN] = amount / middle
    # Equal amounts leave a rounding residue, which is no spread to measure a deviation in.
    if n >= 2 and spread > 1e-9 * mean:
        row[_ZSCORE] = (amount - mean) / spread
