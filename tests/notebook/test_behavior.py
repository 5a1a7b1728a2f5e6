from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dafu.models import UserBehaviorAnalyzer
from dafu.notebook.behavior import SIGNALS, strengths
from dafu.notebook.errors import NotebookError

DAY = 86_400_000
START = 1_704_067_200_000


def quiet_user(user: str, days: int = 20) -> list[dict[str, Any]]:
    return [
        {
            "transaction_id": f"{user}-{d}",
            "user_id": user,
            "merchant_id": "grocer",
            "amount": 20.0 + d % 3,
            "timestamp": START + d * DAY,
            "device_fingerprint": f"phone of {user}",
            "country": "US",
        }
        for d in range(days)
    ]


def test_what_departs_from_the_users_own_history_is_found_and_told() -> None:
    rows = quiet_user("ada") + quiet_user("bob")
    odd = {**quiet_user("ada", 21)[-1], "transaction_id": "odd", "amount": 2000.0}
    odd |= {"country": "BR", "device_fingerprint": "other"}
    usual_of_a_rich_user = [
        {**r, "transaction_id": f"rich-{k}", "user_id": "rich", "amount": 2000.0 + k}
        for k, r in enumerate(quiet_user("rich"))
    ]
    report = UserBehaviorAnalyzer().detect_behavioral_anomalies([*rows, *usual_of_a_rich_user, odd])
    assert [t.transaction_id for t in report.transactions] == ["odd"]
    assert [u.user_id for u in report.users] == ["ada"]
    assert report.users[0].unusual == 1 and report.users[0].transactions == 21
    reasons = " / ".join(report.transactions[0].reasons)
    assert "times the user's median" in reasons
    assert "a new device" in reasons and "a new country" in reasons
    assert report.seen == 61 and report.judged == 3 * 15 + 1


def test_bursts_are_found() -> None:
    rows = quiet_user("ada")
    at = START + 19 * DAY
    burst = [
        {**rows[-1], "transaction_id": f"b{k}", "timestamp": at + 1000 * k, "merchant_id": f"m{k}"}
        for k in range(1, 9)
    ]
    found = UserBehaviorAnalyzer().detect_behavioral_anomalies(rows + burst).transactions
    last = next(t for t in found if t.transaction_id == "b8")
    assert "9 transactions in five minutes" in last.reasons
    assert "9 merchants in an hour" in last.reasons
    assert any("usual number of transactions a day" in r for r in last.reasons)


def test_users_without_history_are_not_judged() -> None:
    rows = quiet_user("ada", 3)
    rows[-1]["amount"] = 1e6
    report = UserBehaviorAnalyzer().detect_behavioral_anomalies(rows)
    assert report.transactions == [] and report.judged == 0


def test_more_sensitivity_finds_more(payments: Any) -> None:
    sets = [
        {
            t.transaction_id
            for t in UserBehaviorAnalyzer()
            .detect_behavioral_anomalies(payments, sensitivity=s)
            .transactions
        }
        for s in (0.0, 0.5, 1.0)
    ]
    assert sets[0] < sets[1] < sets[2]


figures = arrays(
    np.float64,
    (3, len(SIGNALS)),
    elements=st.one_of(st.just(np.nan), st.floats(0, 1e6)),
)


@given(figures, st.floats(0.5, 2.0), st.floats(0.5, 2.0))
def test_strengths_grow_with_the_scale(x: Any, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert (strengths(x, low) <= strengths(x, high)).all()
    assert not np.isnan(strengths(x, low)).any()


@pytest.mark.parametrize("sensitivity", [-0.1, 1.1])
def test_sensitivity_has_a_range(sensitivity: float) -> None:
    with pytest.raises(NotebookError, match="within"):
        UserBehaviorAnalyzer().detect_behavioral_anomalies([], sensitivity=sensitivity)


def test_other_tables_are_refused() -> None:
    with pytest.raises(NotebookError, match="plainly user_id"):
        UserBehaviorAnalyzer().detect_behavioral_anomalies([{"a": 1}])
