"""A user's place in a fraud ring: memberships entered into the state, and the features they make.

Found elsewhere and told through the log of the transactions, a membership holds for what comes
after it. Of two the later one holds; one that is repeated or late changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dafu.columns import I64
from dafu.features.catalogue import DAY, USER_INDEX
from dafu.features.state import (
    APPLIED,
    ENROLLED,
    LABELLED,
    RING_ID_BYTES,
    SHARED_BYTES,
    USER_RING,
    new_ring,
)
from dafu.hashing import hash64
from dafu.kernel import kernel
from dafu.rings.records import Membership

_FIRST: Final = USER_INDEX["ring_size"]


def ring_records(memberships: Sequence[Membership]) -> np.ndarray:
    """Memberships as records of state, USER_RING [n]; one of size 0 holds nothing but its time."""
    out = np.zeros(len(memberships), dtype=USER_RING)
    new_ring(out)
    for record, told in zip(out, memberships, strict=True):
        record["time"] = told.time
        if told.size:
            record["ring"] = hash64(told.ring_id.encode())
            for name in ("size", "risk", "blocked", "frauds", "sharers"):
                record[name] = getattr(told, name)
            record["id"] = _filled(told.ring_id, RING_ID_BYTES)
            record["shared"] = _filled(told.shared, SHARED_BYTES)
    return out


def _filled(text: str, size: int) -> NDArray[np.uint8]:
    """UTF-8 of a text, cut between characters, filled up with zeros."""
    cut = text.encode()[:size].decode(errors="ignore").encode()
    return np.frombuffer(cut.ljust(size, b"\0"), np.uint8)


@kernel
def step_rings(
    rings: Any,
    ring_of: I64,
    memberships: Any,
    membership_of: I64,
    times: I64,
    status: NDArray[np.int8],
    features: NDArray[np.float64],
    seen: Any,
    told: NDArray[np.bool_],
) -> None:
    """Enter memberships, in order, and write the features of those who are in a ring.

    Parameters
    ----------
    rings : USER_RING [...]
        Changed in place.
    ring_of : int64 [n]
        Which of them is that of the row's user.
    memberships : USER_RING [...]
        As `ring_records` makes them; `membership_of` [n] says which a row brings, if it does.
    times : int64 [n]
        Of transactions.
    status : int8 [n]
        What `step_users` made of the rows.
    features : float64 [n, F]
        Those of rings are written for transactions of users in one, others are left alone.
    seen : USER_RING [n]
        Written: the ring as it is after the row.
    told : bool [n]
        Written: whether the row is news of a member; a membership is if it is the user's first in
        that ring.
    """
    for n in range(len(ring_of)):
        r = ring_of[n]
        told[n] = False
        if status[n] == ENROLLED:
            told[n] = _enter(rings, r, memberships, membership_of[n])
        elif status[n] in (APPLIED, LABELLED):
            told[n] = rings[r].size > 0
        seen[n] = rings[r]
        if status[n] == APPLIED and told[n]:
            own = rings[r]
            features[n, _FIRST] = own.size
            features[n, _FIRST + 1] = own.risk
            features[n, _FIRST + 2] = own.blocked
            features[n, _FIRST + 3] = own.frauds
            features[n, _FIRST + 4] = own.sharers
            features[n, _FIRST + 5] = max(times[n] - own.joined, 0) / DAY


@kernel
def _enter(rings: Any, r: int, memberships: Any, m: int) -> bool:
    """Enter a membership; whether the user comes into that ring by it."""
    if memberships[m].time <= rings[r].time:
        return False
    stays = memberships[m].size > 0 and rings[r].size > 0 and rings[r].ring == memberships[m].ring
    joined = rings[r].joined if stays else memberships[m].time
    rings[r] = memberships[m]
    rings[r].joined = joined if memberships[m].size > 0 else 0
    return bool(memberships[m].size > 0 and not stays)
