"""Stage two's alerts of bursts at merchants, as records to publish."""

from __future__ import annotations

import numpy as np

from dafu.columns import ByteColumn, positions
from dafu.rings.bursts import burst_alert
from dafu.rings.records import encode
from dafu.stages.batch import NO_MESSAGES, Messages
from dafu.stages.network import facts_of, told_facts


def burst_alerts(
    merchants: ByteColumn,
    users: ByteColumn,
    times: np.ndarray,
    features: np.ndarray,
    bursts: np.ndarray,
) -> Messages:
    """What there is to tell of bursts with n transactions, in their order.

    Parameters
    ----------
    merchants, users : ByteColumn [n]
        Ids in UTF-8.
    times : int64 [n]
    features : float64 [n, F], catalogue order
    bursts : BURST [n]
        What the merchants' kernel found.
    """
    rows = positions(bursts["event"])
    if not rows.size:
        return NO_MESSAGES
    known = told_facts(facts_of(features[rows], times[rows]))
    alerts = [
        burst_alert(
            bursts[i], merchant_id=_text(merchants[i]), user_id=_text(users[i]), facts=facts
        )
        for i, facts in zip(rows.tolist(), known, strict=True)
    ]
    return Messages.of([a.ring_id.encode() for a in alerts], [encode(a) for a in alerts])


def _text(utf8: bytes | None) -> str:
    return (utf8 or b"").decode("utf-8", "backslashreplace")
