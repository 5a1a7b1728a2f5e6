"""The model's reasons in words, and that each row's are its own."""

from __future__ import annotations

import numpy as np

from dafu.features.catalogue import INDEX
from dafu.stages.reasons import model_reasons


def row(**values: float) -> np.ndarray:
    features = np.full(len(INDEX), np.nan)
    for name, value in values.items():
        features[INDEX[name]] = value
    return features


ROWS = (
    (0.912, (0.5, 0.2, 0.1), row(amount=12_400.5, amount_to_user_mean_30d=1.5, new_device=1.0)),
    (0.355, (0.0, 0.2, 0.2), row(user_count_1h=14.0, is_night=0.0, speed_kmh=1234.5, amount=1.0)),
    (0.355, (0.0, 0.2, 0.1), row(user_total_count=1.0, new_country=1.0, user_merchants_1h=2.0)),
    (1.0, (0.0, 0.0, 0.1), row(merchant_age_days=0.0, amount_to_merchant_mean_30d=2.04)),
    (0.4, (0.0, 0.0, 0.1), row()),
    (0.9, (0.0, 0.0, 0.0), row(amount=5.0, new_device=1.0)),
)
TEXTS = [
    "unusual amount (risk 0.91): amount 12,400.50",
    "unusual behaviour of the user (risk 0.35): 14 transactions in an hour, "
    "1,234 km/h since the last transaction",
    "unusual behaviour of the user (risk 0.35): a new country, the user's first transaction",
    "unusual activity at the merchant (risk 1.00): 2.0 times the merchant's 30-day mean, "
    "a merchant seen for the first time",
    "unusual activity at the merchant (risk 0.40)",
    None,
]


def test_the_group_that_stands_out_and_what_is_notable_in_it() -> None:
    risk, groups, features = (np.array(column) for column in zip(*ROWS, strict=True))
    found = model_reasons("forest", risk, groups, features)
    assert [reason and reason.text for reason in found] == TEXTS
    assert {reason.source for reason in found if reason} == {"model:forest"}
    for i, reason in enumerate(found):
        one = slice(i, i + 1)
        assert model_reasons("forest", risk[one], groups[one], features[one]) == [reason]
    assert model_reasons("forest", risk[:0], groups[:0], features[:0]) == []
