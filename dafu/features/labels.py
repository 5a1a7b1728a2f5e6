"""What became known of frauds: labels of an entity's transactions, and the features made of them.

Shared by both stages' kernels. A label says of one transaction whether it was fraudulent, and
since when that is known; a later one corrects an earlier one. What counts for a transaction is
what had arrived before it. Windows are delayed: chargebacks take days, and a share that counts
transactions whose label has not had the time to come would be too low.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from dafu.features.catalogue import DAY
from dafu.features.state import (
    DELAYED_BUCKET_MS,
    DELAYED_BUCKETS,
    DELAYED_WINDOW_MS,
    FRAUD_LABEL,
    HORIZON,
    LABEL_DELAY,
    NEVER,
)
from dafu.kernel import kernel

N_DELAYED: Final = len(DELAYED_WINDOW_MS)

ENTRY: Final = np.dtype(
    [
        ("kind", "i8"),  # GENUINE_LABEL or FRAUD_LABEL; 0: there is none
        ("transaction", "u8"),
        ("time", "i8"),
        ("amount", "f8"),
        ("merchant", "u8"),
        ("route", "i8"),
        ("observed", "i8"),
    ]
)
"""A label that stage one hands on to the merchant's state, beside the transaction's place there."""


@kernel
def enter_label(
    labels: Any, transaction: int, kind: int, observed: int, time: int, amount: float
) -> bool:
    """Note a label; False if it says nothing new.

    One that was observed before the present one of the same transaction is outdated. A full
    record lets go of a genuine transaction rather than a fraud, and of what was observed longest
    ago first. `time` is NEVER, and the amount NaN, while the transaction is not known.
    """
    fraud = 1 if kind == FRAUD_LABEL else 0
    for k in range(labels.count):
        if labels.transaction[k] == transaction:
            if observed < labels.observed[k]:
                return False
            new = (
                labels.fraud[k] != fraud
                or labels.observed[k] != observed
                or (labels.time[k] == NEVER and time != NEVER)
            )
            labels.fraud[k] = fraud
            labels.observed[k] = observed
            if time != NEVER:
                labels.time[k] = time
                labels.amount[k] = amount
            return new
    at = labels.count
    if at == len(labels.transaction):
        at = 0
        for k in range(1, labels.count):
            if labels.fraud[k] < labels.fraud[at] or (
                labels.fraud[k] == labels.fraud[at] and labels.observed[k] < labels.observed[at]
            ):
                at = k
        if labels.fraud[at] == 1:
            labels.dropped_until = max(labels.dropped_until, labels.time[at])
    else:
        labels.count += 1
    labels.transaction[at] = transaction
    labels.time[at] = time
    labels.amount[at] = amount
    labels.observed[at] = observed
    labels.fraud[at] = fraud
    return True


@kernel
def awaited(labels: Any, transaction: int) -> int:
    """Which entry has waited for this transaction to arrive, -1 if there is none."""
    for k in range(labels.count):
        if labels.transaction[k] == transaction and labels.time[k] == NEVER:
            return k
    return -1


@kernel
def delayed_window_of(age: int) -> int:
    """Number of the shortest delayed window that holds this age, N_DELAYED if none does."""
    older = age - LABEL_DELAY
    if older < 0:
        return N_DELAYED
    j = N_DELAYED
    while j > 0 and older < DELAYED_WINDOW_MS[j - 1]:
        j -= 1
    return j


@kernel
def archive_delayed(archive: Any, time: int) -> None:
    """Count an evicted event in the archive's series for delayed windows."""
    index = time // DELAYED_BUCKET_MS
    slot = index % DELAYED_BUCKETS
    held = archive.delayed_bucket[slot]
    if index < held:
        return
    if index > held:
        archive.delayed_bucket[slot] = index
        archive.delayed_count[slot] = 0.0
    archive.delayed_count[slot] += 1.0


@kernel
def add_archived_delayed(archive: Any, time: int, delayed: np.ndarray) -> None:
    """Add to each delayed window's count what the archive holds of it.

    A bucket that a window's edge cuts counts by the share of it that lies within.
    """
    for j in range(N_DELAYED):
        high = time - LABEL_DELAY + 1  # the window's milliseconds are low..high-1
        low = high - DELAYED_WINDOW_MS[j]
        for slot in range(DELAYED_BUCKETS):
            start = archive.delayed_bucket[slot] * DELAYED_BUCKET_MS
            inside = min(high, start + DELAYED_BUCKET_MS) - max(low, start)
            if archive.delayed_bucket[slot] != NEVER and inside > 0:
                delayed[j] += archive.delayed_count[slot] * (inside / DELAYED_BUCKET_MS)


@kernel
def archived_until(archive: Any, time: int) -> int:
    """End of the latest bucket that holds events of this time or earlier, at most this time."""
    latest = NEVER
    for slot in range(DELAYED_BUCKETS):
        start = archive.delayed_bucket[slot] * DELAYED_BUCKET_MS
        if archive.delayed_bucket[slot] != NEVER and start <= time:
            latest = max(latest, min(start + DELAYED_BUCKET_MS - 1, time))
    return latest


@kernel
def known_fraud_age(labels: Any, k: int, time: int) -> int:
    """How old the transaction of entry k is at `time` if it counts as a known fraud, else -1."""
    age: int = time - labels.time[k]
    if labels.fraud[k] == 0 or labels.time[k] == NEVER or age < 0 or age >= HORIZON:
        return -1
    return age


@kernel
def count_known_frauds(labels: Any, time: int) -> int:
    """How many known frauds an entity's labels tell of at `time`."""
    n = 0
    for k in range(labels.count):
        if known_fraud_age(labels, k, time) >= 0:
            n += 1
    return n


@kernel
def write_label_features(
    labels: Any, row_of: int, delayed: np.ndarray, time: int, row: np.ndarray, at: int
) -> bool:
    """Write an entity's label features to `row[at:]`; False if some are estimates.

    Parameters
    ----------
    labels : labels dtype [...]
    row_of : int
        Which of them is the entity's, -1 if it has none.
    delayed : float64 [N_DELAYED]
        Transactions in each delayed window.
    time : int
        Of the transaction that the features are for.
    """
    for j in range(N_DELAYED):
        row[at + j] = delayed[j]
        row[at + N_DELAYED + j] = 0.0 if delayed[j] > 0.0 else np.nan
    known_at = at + 2 * N_DELAYED
    row[known_at] = 0.0
    if row_of < 0:
        return True
    own = labels[row_of]
    first = last = NEVER
    for k in range(own.count):
        age = known_fraud_age(own, k, time)
        if age < 0:
            continue
        row[known_at] += 1.0
        last = max(last, own.time[k])
        first = own.time[k] if first == NEVER else min(first, own.time[k])
        for j in range(N_DELAYED):
            if LABEL_DELAY <= age < LABEL_DELAY + DELAYED_WINDOW_MS[j] and delayed[j] > 0.0:
                row[at + N_DELAYED + j] += 1.0
    for j in range(N_DELAYED):
        if delayed[j] > 0.0:
            # An estimate of the number of transactions may be below that of the frauds among them.
            row[at + N_DELAYED + j] = min(row[at + N_DELAYED + j] / delayed[j], 1.0)
    if row[known_at] > 0.0:
        row[known_at + 1] = (time - last) / DAY
        row[known_at + 2] = (time - first) / DAY
    return bool(own.dropped_until <= time - HORIZON)
