"""Which identifiers of a transaction are worth telling: those new for the user, or not told lately.

Who finds rings needs to know once a week, and not with each transaction, that a user has a device.
So a user's head keeps the signatures of the pairs told last, the latest used first. Hostile users
who make up identifiers push each other's signatures out, and are told of up to a number a day: the
rest costs nobody anything.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dafu.columns import I64
from dafu.features.catalogue import DAY
from dafu.features.state import APPLIED
from dafu.hashing import hash64
from dafu.kernel import kernel
from dafu.rings.records import KINDS

MOST_A_DAY: Final = 32
"""Pairs of one user that are told on one day of event time."""

REPEATED_AFTER: Final = 7 * DAY
"""A pair is told again in each period of this length, in event time, in which it is seen."""

_SALTS: Final = np.array([hash64(kind.encode()) for kind in KINDS], dtype=np.uint64)
_PERIOD: Final = np.uint64(REPEATED_AFTER)
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)


@kernel
def signature(kind: int, hashed: int, time: int) -> np.uint64:
    """What stands for an identifier of a user in a period; never 0.

    Periods of an identifier begin at a time of their own, so that not all are told again at once.
    The bits are mixed as by SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    """
    period = (np.uint64(time) + hashed % _PERIOD) // _PERIOD
    z = (hashed ^ _SALTS[kind]) + period * _MULTIPLIER
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    z ^= z >> np.uint64(31)
    return z if z != 0 else np.uint64(1)


@kernel
def announce(
    users: I64,
    times: I64,
    hashes: NDArray[np.uint64],
    status: NDArray[np.int8],
    announced: Any,
    days: Any,
    counts: Any,
    news: NDArray[np.bool_],
) -> int:
    """Tell which identifiers of a batch's transactions are to be told; returns how many are not
    because their user has had enough for the day.

    Parameters
    ----------
    users : int64 [n]
        Number of each transaction's user.
    times : int64 [n]
        Epoch milliseconds, not negative.
    hashes : uint64 [n, KINDS]
        Of the identifiers, 0 for none.
    status : int8 [n]
        Only those APPLIED count.
    announced, days, counts
        Columns of the heads, as USER_HEAD has them; changed in place.
    news : bool [n, KINDS]
        Written.
    """
    capped = 0
    most = announced.shape[1]
    for n in range(len(users)):
        u = users[n]
        for kind in range(hashes.shape[1]):
            news[n, kind] = False
            if status[n] != APPLIED or hashes[n, kind] == 0:
                continue
            mark = signature(kind, hashes[n, kind], times[n])
            at = 0
            while at < most and announced[u, at] != mark:
                at += 1
            if at == most:
                day = times[n] // DAY
                if day > days[u]:
                    days[u] = day
                    counts[u] = 0
                if counts[u] >= MOST_A_DAY:
                    capped += 1
                    continue
                counts[u] += 1
                news[n, kind] = True
                at = most - 1
            for k in range(at, 0, -1):
                announced[u, k] = announced[u, k - 1]
            announced[u, 0] = mark
    return capped
