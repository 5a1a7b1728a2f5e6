"""What an alert of a burst says, from what the kernel found."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from dafu.features.bursts import BURST, CLOSED, GROWN, HIGH, NEWCOMERS, OPENED, SMALL
from dafu.rings import bursts as module
from dafu.rings.bursts import burst_alert, burst_reasons
from dafu.rings.records import Facts, Member, decode_alert, encode

TIME = 1_700_000_000_000
KNOWN = Facts(as_of=TIME, since=TIME - 864_000_000, transactions=7, amount=123.45, frauds=1)


def found(event: int, pattern: int = SMALL) -> np.void:
    burst: np.void = np.zeros(1, BURST)[0]
    burst["event"], burst["number"], burst["pattern"] = event, 2, pattern
    burst["users"], burst["count"], burst["amount"], burst["expected"] = 16, 17, 25.5, 1.25
    burst["window"], burst["fresh"], burst["alike"], burst["excess"] = 3_600_000, 1.0, 0.25, 1.0
    burst["since"], burst["episode_first"] = TIME - 50_000, TIME - 600_000
    burst["episode_last"], burst["episode_users"], burst["episode_count"] = TIME, 16, 18
    burst["episode_amount"], burst["episode_score"] = 1234.5, 0.7654321
    return burst


def test_an_alert_names_merchant_money_time_and_who_brought_the_change() -> None:
    alert = burst_alert(found(GROWN), merchant_id="shop", user_id="ada", facts=KNOWN)
    assert (alert.alert_id, alert.ring_id) == (f"shop@{TIME - 50_000}/2", f"shop@{TIME - 50_000}")
    assert (alert.kind, alert.event, alert.merchant_id) == ("merchant", "grown", "shop")
    assert (alert.size, alert.transactions, alert.amount) == (16, 18, 1234.5)
    assert (alert.first_seen, alert.last_seen, alert.time) == (TIME - 600_000, TIME, TIME)
    assert alert.score == 0.765432
    assert alert.members == [Member("ada", TIME, KNOWN)]
    assert alert.parts == {"excess": 1.0, "beyond": 0.0, "alike": 0.25, "fresh": 1.0}
    assert decode_alert(encode(alert)) == alert


def test_the_last_alert_sums_up_and_names_nobody() -> None:
    alert = burst_alert(found(CLOSED), merchant_id="shop", user_id="a customer", facts=KNOWN)
    assert alert.event == "closed"
    assert alert.members == [] and alert.parts == {}
    assert alert.reasons == [
        "over: 16 users in 18 transactions of 1,234.50 in all within 10 minutes"
    ]


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (SMALL, "16 users paid small amounts within 60 minutes, where 1.2 would be many"),
        (HIGH, "16 users paid high amounts within 60 minutes, where 1.2 would be many"),
        (NEWCOMERS, "16 users new to the merchant paid within 60 minutes, where 1.2 would be many"),
    ],
)
def test_reasons_say_what_the_pattern_is(pattern: int, text: str) -> None:
    reasons = burst_reasons(found(OPENED, pattern))
    assert reasons[0] == text
    assert reasons[1] == "17 transactions of 1.50 on average"
    assert reasons[2].startswith("100% of ")


def test_the_examples_hold() -> None:
    ran = doctest.testmod(module)
    assert ran.attempted > 3 and ran.failed == 0
