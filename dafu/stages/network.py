"""What both stages tell those who find fraud rings: facts about users, and news of members.

Facts about a user are states as of a time, taken from the transaction's features, so that telling
them twice says nothing new. Knows records and no topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dafu.columns import I64
from dafu.features.catalogue import DAY, USER_INDEX
from dafu.features.facts import FACTS
from dafu.rings.records import Activity, Facts, encode
from dafu.rings.sole import MOST
from dafu.stages.batch import Messages
from dafu.stages.sightings import MOST_HUNDREDTHS
from dafu.stages.texts import Texts

_FEATURES: Final = [
    USER_INDEX[name]
    for name in ("account_age_days", "user_count_30d", "user_amount_sum_30d", "user_known_frauds")
]


def facts_of(features: NDArray[np.float64], times: I64) -> NDArray[np.void]:
    """What n transactions' features say of their users, as of these transactions.

    Parameters
    ----------
    features : float64 [n, F], catalogue order
        What can not be true counts as 0: nobody guarantees what a record from a topic holds.
    times : int64 [n]

    Returns
    -------
    FACTS [n]
        Amounts in whole hundredths.
    """
    given = features[:, _FEATURES]
    age, count, amount, frauds = np.where((given > 0.0) & (given <= MOST), given, 0.0).T
    facts = np.empty(len(times), FACTS)
    facts["as_of"] = times
    before = np.minimum(np.rint(age * DAY), MOST)
    facts["since"] = np.maximum(times - before.astype(np.int64), 0)
    facts["transactions"] = count
    facts["amount"] = hundredths(amount)
    facts["frauds"] = frauds
    return facts


def hundredths(amounts: NDArray[np.float64]) -> NDArray[np.float64]:
    """In whole hundredths, and of these MOST_HUNDREDTHS at most."""
    found: NDArray[np.float64] = np.minimum(np.rint(amounts * 100.0), MOST_HUNDREDTHS) / 100.0
    return found


def told_facts(facts: NDArray[np.void], *, blocked: bool = False) -> list[Facts]:
    """FACTS [n] as they are told; `blocked` says that these were blocked transactions."""
    return [
        Facts(as_of, since, transactions, amount, frauds, as_of if blocked else 0)
        for as_of, since, transactions, amount, frauds in facts.tolist()
    ]


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
