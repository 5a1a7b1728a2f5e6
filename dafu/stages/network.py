"""What both stages tell those who find fraud rings: sightings of identifiers, news of members.

Facts about a user are states as of a time, taken from the transaction's features, so that telling
them twice says nothing new. Knows records and no topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dafu.columns import I64
from dafu.features.catalogue import DAY, USER_INDEX
from dafu.rings.hygiene import clean
from dafu.rings.records import KINDS, Activity, Facts, Kind, Sighting, encode
from dafu.stages.batch import NO_MESSAGES, Messages
from dafu.stages.texts import Texts

IDENTIFIERS: Final[dict[Kind, str]] = {
    "device": "device_fingerprint",
    "ip": "ip_address",
    "card": "card_id",
    "email": "email",
}
"""The field of a transaction that holds each kind of identifier."""

_FIELDS: Final = tuple(IDENTIFIERS[kind] for kind in KINDS)
_IDS: Final = ("user_id", "transaction_id", "merchant_id")
_FEATURES: Final = [
    USER_INDEX[name]
    for name in ("account_age_days", "user_count_30d", "user_amount_sum_30d", "user_known_frauds")
]
_MOST: Final = 2.0**53
_DIGITS: Final = 2


def facts_of(features: NDArray[np.float64], times: I64, *, blocked: bool = False) -> list[Facts]:
    """What n transactions' features say of their users, as of these transactions.

    Parameters
    ----------
    features : float64 [n, F], catalogue order
        What can not be true counts as 0: nobody guarantees what a record from a topic holds.
    times : int64 [n]
    blocked : bool
        Whether the transactions were blocked.
    """
    return [
        Facts(
            time,
            max(time - round(_number(age) * DAY), 0),
            int(_number(count)),
            round(_number(amount), _DIGITS),
            int(_number(frauds)),
            time if blocked else 0,
        )
        for (age, count, amount, frauds), time in zip(
            features[:, _FEATURES].tolist(), times.tolist(), strict=True
        )
    ]


def _number(value: float) -> float:
    return value if 0.0 < value <= _MOST else 0.0


def told_facts(facts: Any) -> Facts:
    """One of `dafu.features.facts.FACTS` as it is told."""
    return Facts(
        int(facts["as_of"]),
        int(facts["since"]),
        int(facts["transactions"]),
        round(float(facts["amount"]), _DIGITS),
        int(facts["frauds"]),
    )


def sightings(
    texts: Texts, rows: I64, wanted: NDArray[np.bool_], facts: Sequence[Facts]
) -> tuple[Messages, int]:
    """Sightings of identifiers, and how many identifiers were refused since they name nothing.

    Parameters
    ----------
    texts : Texts
    rows : int64 [m]
        Positions in `texts` of the transactions.
    wanted : bool [m, KINDS]
        Which identifiers to tell of; a transaction may lack one.
    facts : sequence of Facts [m]
    """
    if not len(rows):
        return NO_MESSAGES, 0
    users, transactions, merchants, *values = texts.part(rows).strings((*_IDS, *_FIELDS))
    keys: list[bytes] = []
    records: list[bytes] = []
    refused = 0
    for i, k in np.argwhere(wanted).tolist():
        text = values[k][i]
        if not text:
            continue
        kind = KINDS[k]
        value = clean(kind, text)
        if value is None:
            refused += 1
            continue
        user, transaction, merchant = users[i] or "", transactions[i] or "", merchants[i] or ""
        keys.append(f"{kind}:{value}".encode())
        records.append(encode(Sighting(user, kind, value, transaction, merchant, facts[i])))
    return Messages.of(keys, records), refused


def activities(
    texts: Texts, rows: I64, facts: Sequence[Facts], paid: NDArray[np.bool_]
) -> Messages:
    """News of members of rings.

    Parameters
    ----------
    texts : Texts
    rows : int64 [m]
        Positions in `texts` of what brings the news.
    facts : sequence of Facts [m]
    paid : bool [m]
        Which of them are transactions.
    """
    users, transactions = texts.part(rows).strings(("user_id", "transaction_id"))
    return Messages.of(
        [(user or "").encode() for user in users],
        [
            encode(Activity(user or "", known, transaction or "" if pays else ""))
            for user, known, transaction, pays in zip(
                users, facts, transactions, paid.tolist(), strict=True
            )
        ],
    )
