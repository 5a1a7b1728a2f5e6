"""The model's part of a decision's reasons: which group stands out, and by which values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from dafu.features.catalogue import INDEX
from dafu.models.isolation import GROUPS
from dafu.schema import Reason

_Text = Callable[[float], str | None]


def _above(limit: float, text: str) -> _Text:
    return lambda v: text.format(v) if v > limit else None


_WORDS: Final[dict[str, tuple[tuple[str, _Text], ...]]] = {
    "amount": (
        ("amount", _above(-1, "amount {:,.2f}")),
        ("amount_to_user_mean_30d", _above(1.5, "{:,.1f} times the user's 30-day mean")),
        ("amount_zscore_30d", _above(2, "{:,.1f} standard deviations above it")),
    ),
    "behavior": (
        ("user_count_1h", _above(1, "{:.0f} transactions in an hour")),
        ("user_merchants_1h", _above(2, "{:.0f} merchants in an hour")),
        ("new_device", _above(0, "a new device")),
        ("new_country", _above(0, "a new country")),
        ("speed_kmh", _above(500, "{:,.0f} km/h since the last transaction")),
        ("km_from_home", _above(200, "{:,.0f} km from home")),
        ("is_night", _above(0, "at night")),
        ("user_total_count", lambda v: "the user's first transaction" if v == 1 else None),
    ),
    "merchant": (
        ("merchant_count_1h", _above(1, "{:.0f} transactions at the merchant in an hour")),
        ("merchant_users_1h", _above(1, "by {:.0f} users")),
        ("amount_to_merchant_mean_30d", _above(2, "{:,.1f} times the merchant's 30-day mean")),
        ("merchant_age_days", lambda v: "a merchant seen for the first time" if v == 0 else None),
    ),
}
_TITLES: Final = {
    "amount": "unusual amount",
    "behavior": "unusual behaviour of the user",
    "merchant": "unusual activity at the merchant",
}


def model_reason(
    name: str, risk: float, group_risk: np.ndarray, features: np.ndarray
) -> Reason | None:
    """Say in words why the model finds one transaction unusual; None if no group stands out.

    Parameters
    ----------
    name : the model's name
    risk : float, 0..1
    group_risk : float64 [3], by `GROUPS`
    features : float64 [83], catalogue order
    """
    largest = int(np.argmax(group_risk))
    if group_risk[largest] <= 0.0:
        return None
    group = GROUPS[largest]
    details = []
    for feature, words in _WORDS[group]:
        value = float(features[INDEX[feature]])
        text = None if math.isnan(value) else words(value)
        if text is not None:
            details.append(text)
    values = f": {', '.join(details)}" if details else ""
    return Reason(f"model:{name}", f"{_TITLES[group]} (risk {risk:.2f}){values}")
