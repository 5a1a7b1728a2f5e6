"""Alerts of bursts at merchants: what the kernel found, said in the words of a `RingAlert`.

The kernel (`dafu.features.bursts`) keeps numbers; here they become a ring of kind ``merchant``: its
id is the merchant's and the time of the transaction that opened it. A member that an alert names is
the user whose transaction brought the change; of the earlier ones only hashes are remembered. Their
decisions name the merchant and the rule, and lie between `first_seen` and `last_seen`.
"""

from __future__ import annotations

from typing import Any, Final

from dafu.features.bursts import CLOSED, GROWN, HIGH, NEWCOMERS, OPENED, SMALL
from dafu.features.catalogue import DAY, HOUR, MINUTE
from dafu.rings.records import Facts, Member, RingAlert, RingEvent

_EVENTS: Final[dict[int, RingEvent]] = {OPENED: "opened", GROWN: "grown", CLOSED: "closed"}
_DIGITS: Final = 6
_PAID: Final = {SMALL: "paid small amounts", HIGH: "paid high amounts", NEWCOMERS: "paid"}


def ring_of(merchant_id: str, since: int) -> str:
    """The id of the ring of an episode that opened with a transaction of this time.

    >>> ring_of("shop", 1_700_000_000_000)
    'shop@1700000000000'
    """
    return f"{merchant_id}@{since}"


def burst_alert(burst: Any, *, merchant_id: str, user_id: str, facts: Facts) -> RingAlert:
    """What to tell of a transaction with which a burst opened, grew or closed.

    Parameters
    ----------
    burst : BURST
        With an `event`.
    merchant_id, user_id : str
        The transaction's.
    facts : Facts
        What is known of the user, as of the transaction.
    """
    closed = burst["event"] == CLOSED
    ring_id = ring_of(merchant_id, burst["since"])
    return RingAlert(
        alert_id=f"{ring_id}/{burst['number']}",
        ring_id=ring_id,
        event=_EVENTS[int(burst["event"])],
        kind="merchant",
        time=facts.as_of,
        score=round(float(burst["episode_score"]), _DIGITS),
        size=int(burst["episode_users"]),
        identifiers=0,
        transactions=int(burst["episode_count"]),
        amount=round(float(burst["episode_amount"]), _DIGITS),
        frauds=0,
        blocked=0,
        first_seen=int(burst["episode_first"]),
        last_seen=int(burst["episode_last"]),
        reasons=[_summary(burst)] if closed else burst_reasons(burst),
        parts={} if closed else burst_parts(burst),
        members=[] if closed else [Member(user_id, facts.as_of, facts)],
        evidence=[],
        edges=[],
        merchant_id=merchant_id,
    )


def burst_parts(burst: Any) -> dict[str, float]:
    """What a transaction's score is made of, each 0..1.

    `excess`: how far the users are more than a busy hour brings. `beyond`: how far the amounts are
    beyond what counts as small or high. `alike`: how little the amounts differ. `fresh`: the share
    of the users who had not paid at the merchant before.
    """
    return {
        name: round(float(burst[name]), _DIGITS) for name in ("excess", "beyond", "alike", "fresh")
    }


def burst_reasons(burst: Any) -> list[str]:
    """Why a transaction's score is what it is, most telling first.

    >>> import numpy as np
    >>> from dafu.features.bursts import BURST
    >>> burst = np.zeros(1, BURST)[0]
    >>> burst["users"], burst["count"], burst["amount"], burst["pattern"] = 12, 12, 18.0, SMALL
    >>> burst["window"], burst["expected"], burst["alike"], burst["fresh"] = 300_000, 1.0, 0.9, 0.75
    >>> burst_reasons(burst)  # doctest: +NORMALIZE_WHITESPACE
    ['12 users paid small amounts within 5 minutes, where 1.0 would be many',
     '12 transactions of 1.50 on average, hardly different from each other',
     '75% of them had not paid there before']
    """
    newcomers = burst["pattern"] == NEWCOMERS
    who = "users new to the merchant" if newcomers else "users"
    count = int(burst["count"])
    average = f"{count} transactions of {burst['amount'] / count:,.2f} on average"
    if burst["alike"] >= 0.5:
        average += ", hardly different from each other"
    reasons = [
        f"{burst['users']} {who} {_PAID[int(burst['pattern'])]} within "
        f"{_words(int(burst['window']))}, where {burst['expected']:.1f} would be many",
        average,
    ]
    if burst["fresh"] > 0.0:
        share = f"{burst['fresh']:.0%}"
        whose = "of all who paid" if newcomers else "of them"
        reasons.append(f"{share} {whose} had not paid there before")
    return reasons


def _summary(burst: Any) -> str:
    lasted = _words(int(burst["episode_last"] - burst["episode_first"]))
    return (
        f"over: {burst['episode_users']} users in {burst['episode_count']} transactions of "
        f"{burst['episode_amount']:,.2f} in all within {lasted}"
    )


def _words(ms: int) -> str:
    """A length of time in the largest unit that it has at least two of.

    >>> _words(90 * MINUTE), _words(6 * HOUR), _words(0)
    ('90 minutes', '6 hours', '0 seconds')
    """
    for length, unit in ((DAY, "days"), (HOUR, "hours"), (MINUTE, "minutes")):
        if ms >= 2 * length:
            return f"{ms // length} {unit}"
    return f"{ms // 1000} seconds"
