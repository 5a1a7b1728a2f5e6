"""Named selections of features, for models of rows.

None has figures that grow with an account (totals, account age) or that name a day (weekend): a
model would learn the weeks that it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

BEHAVIOR: Final = (
    "amount",
    "amount_to_user_mean_30d",
    "amount_to_user_median_30d",
    "amount_zscore_30d",
    "user_amount_sum_1h",
    "user_amount_sum_1d",
    "user_count_5m",
    "user_count_1h",
    "user_count_1d",
    "user_merchants_1h",
    "user_merchants_1d",
    "user_devices_1d",
    "user_ips_1d",
    "user_countries_1d",
    "new_device",
    "new_country",
    "new_ip",
    "new_merchant",
    "km_since_last",
    "speed_kmh",
    "km_from_home",
    "km_to_merchant",
    "seconds_since_last",
    "is_night",
    "merchant_count_5m",
    "merchant_count_1h",
    "merchant_users_5m",
    "merchant_users_1h",
    "amount_to_merchant_mean_30d",
    "merchant_age_days",
)
"""Of transactions alone, with no word about labels: what the model that ships looks at."""

UNSUPERVISED: Final = (
    "amount",
    "amount_to_user_median_30d",
    "user_high_amounts_14d",
    "merchant_fraud_share_7d",
)
"""Few, for more of them drown what stands out.

One is made of labels that became known in time: frauds at a compromised merchant show in nothing
else. A model that takes it learns from no labels, and yet is not blind to them.
"""

TAILS: Final = (*UNSUPERVISED, "merchant_fraud_streak")
"""The same for models that measure each feature by itself; of each the high side is suspicious."""

SUPERVISED: Final = (
    "amount",
    "amount_to_user_mean_30d",
    "amount_to_user_median_30d",
    "amount_zscore_30d",
    "user_high_amounts_14d",
    "days_since_first_high_amount_14d",
    "user_amount_ratio_max_7d",
    "merchant_fraud_share_1d",
    "merchant_fraud_share_7d",
    "merchant_fraud_share_30d",
    "merchant_fraud_streak",
    "merchant_fraud_streak_days",
    "merchant_days_since_labelled",
)
"""How unusual the amount is for the user, what the user did lately, and what is known of the
merchant. Each pays for itself where fraud is told by these; noise costs a rare class more than it
costs a frequent one."""

GENERAL: Final = (
    *SUPERVISED,
    *(name for name in BEHAVIOR if name not in (*SUPERVISED, "merchant_age_days", "is_night")),
    "user_fraud_share_30d",
    "user_known_frauds",
    "merchant_known_frauds",
    "merchant_days_since_last_fraud",
)
"""For payments with devices, addresses and places, and much fraud to learn from."""

SELECTIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "behavior": BEHAVIOR,
        "unsupervised": UNSUPERVISED,
        "tails": TAILS,
        "supervised": SUPERVISED,
        "general": GENERAL,
    }
)
"""Selections by name."""
