"""Reasons of a decision other than rules: what the model finds unusual, and the user's ring.

Of the model: which group of features stands out, and by which values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from dafu.features.catalogue import INDEX
from dafu.models.model import GROUPS
from dafu.schema import Reason

_Text = Callable[[float], str | None]


def _above(limit: float, text: str) -> _Text:
    write = text.format
    return lambda v: write(v) if v > limit else None


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
    "sequence": (("sequence_risk", _above(-1, "risk {:.2f} by the sequence model")),),
    "network": (
        ("ring_size", _above(0, "in a ring of {:.0f} users")),
        ("ring_blocked", _above(0, "{:.0f} of them blocked")),
        ("ring_known_frauds", _above(0, "{:.0f} of them with a known fraud")),
    ),
}
_TITLES: Final = [
    {
        "amount": "unusual amount",
        "behavior": "unusual behaviour of the user",
        "merchant": "unusual activity at the merchant",
        "sequence": "unusual after the user's earlier transactions",
        "network": "unusual company of the user",
    }[group]
    for group in GROUPS
]
_COLUMNS: Final = sorted({INDEX[feature] for words in _WORDS.values() for feature, _ in words})
_PLACES: Final = [
    [(_COLUMNS.index(INDEX[feature]), text) for feature, text in _WORDS[group]] for group in GROUPS
]


def model_reasons(
    name: str, risk: np.ndarray, group_risk: np.ndarray, features: np.ndarray
) -> list[Reason | None]:
    """Say in words why the model finds transactions unusual; None where no group stands out.

    Parameters
    ----------
    name : the model's name
    risk : float64 [n], 0..1
    group_risk : float64 [n, G], by `GROUPS`
    features : float64 [n, F], catalogue order; NaN is never worth a word
    """
    source = f"model:{name}"
    largest = group_risk.argmax(axis=1)
    found: list[Reason | None] = []
    for group, stands_out, of_all, values in zip(
        largest.tolist(),
        (group_risk.max(axis=1) > 0.0).tolist(),
        risk.tolist(),
        features[:, _COLUMNS].tolist(),
        strict=True,
    ):
        if not stands_out:
            found.append(None)
            continue
        texts = [words(values[place]) for place, words in _PLACES[group]]
        details = ", ".join([text for text in texts if text is not None])
        title = f"{_TITLES[group]} (risk {of_all:.2f})"
        found.append(Reason(source, f"{title}: {details}" if details else title))
    return found


_RING: Final = [
    INDEX[name] for name in ("ring_size", "ring_sharers", "ring_blocked", "ring_known_frauds")
]


def ring_reason(ring_id: str, shared: str, features: np.ndarray) -> Reason:
    """Say in words what ties a user to a fraud ring, and what is known of the others in it.

    Parameters
    ----------
    ring_id : str
    shared : str
        What the user shares with others, as in "device fp_12"; empty if that is not known.
    features : float64 [F], catalogue order
    """
    size, sharers, blocked, frauds = features[_RING].tolist()
    if shared:
        text = f"shares {shared} with {_users(sharers)}"
        whose = "of them"
        if sharers < size - 1:
            text += f" in a ring of {size:.0f}"
            whose = "of its other users"
    else:
        text, whose = f"in a ring of {_users(size)}", "of the others"
    if blocked > 0:
        text += f", {blocked:.0f} {whose} blocked"
    if frauds > 0:
        text += f", {frauds:.0f} {whose} with a known fraud"
    return Reason(f"ring:{ring_id}", text)


def _users(n: float) -> str:
    return f"{n:.0f} user" if n == 1 else f"{n:.0f} users"
